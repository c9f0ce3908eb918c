"""A causal transformer in plain functions: a weight per sequence, and LoRA on a frozen network.

The layers are stacked and run by ``jax.lax.scan`` over a block that is computed again in the
backward pass. A sequence counts up by one, modulo 8; a corrupted one counts up by three.
"""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

from l2rw_jax import example_scores, l2rw, reweight, reweighted_value_and_grad

TOKENS, LENGTH, WIDTH, LAYERS, RANK = 8, 10, 16, 2, 2


def sequences(n, is_corrupted, seed):
    """Tokens ``[n, LENGTH]``."""
    first = np.random.default_rng(seed).integers(0, TOKENS, (n, 1))
    stride = np.where(is_corrupted, 3, 1)[:, None]
    return (first + stride * np.arange(LENGTH)) % TOKENS


IS_CORRUPTED = np.arange(20) % 5 < 2  # 40 %
CLEAN = sequences(16, np.zeros(16, bool), seed=0)


def init(seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape) / shape[-2] ** 0.5)

    return {
        "tokens": normal(TOKENS, WIDTH),
        "positions": normal(LENGTH, WIDTH),
        "blocks": {
            "attention": normal(LAYERS, WIDTH, 3 * WIDTH),
            "up": normal(LAYERS, WIDTH, 2 * WIDTH),
            "down": normal(LAYERS, 2 * WIDTH, WIDTH),
        },
        "head": normal(WIDTH, TOKENS),
    }


def normalize(x):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def block(x, weights):
    """One layer, ``[b, t, width]`` to the same: causal attention and a perceptron."""
    query, key, value = jnp.split(normalize(x) @ weights["attention"], 3, axis=-1)
    similarities = query @ key.swapaxes(1, 2) / WIDTH**0.5
    visible = jnp.tril(jnp.ones(similarities.shape, bool))
    x = x + jax.nn.softmax(jnp.where(visible, similarities, -1e9)) @ value
    return x + jnp.tanh(normalize(x) @ weights["up"]) @ weights["down"]


def scanned(x, blocks):
    """All layers in one loop, which holds one layer's activations at a time."""
    recomputed = jax.checkpoint(block, prevent_cse=False)
    return jax.lax.scan(lambda x, weights: (recomputed(x, weights), None), x, blocks)[0]


def unrolled(x, blocks):
    for layer in range(LAYERS):
        x = block(x, jax.tree.map(operator.itemgetter(layer), blocks))
    return x


def losses(params, tokens, layers=scanned):
    """The mean cross-entropy of each sequence's next tokens, ``[b]``."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    x = params["tokens"][inputs] + params["positions"][None, : inputs.shape[1]]
    logits = normalize(layers(x, params["blocks"])) @ params["head"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(axis=-1)


def clean_loss(params, tokens):
    return losses(params, tokens).mean()


def test_a_few_steps_find_the_corrupted_sequences():
    params = init()
    tx = optax.adam(0.01)
    opt_state = tx.init(params)
    value_and_grad = reweighted_value_and_grad(losses, clean_loss)

    @jax.jit
    def step(params, opt_state, tokens):
        (_, aux), grads = value_and_grad(params, tokens, CLEAN)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, aux.weights

    on_corrupted = []  # the weight that the corrupted sequences get, of 1 in all
    for i in range(12):
        tokens = sequences(20, IS_CORRUPTED, seed=i)
        params, opt_state, weights = step(params, opt_state, tokens)
        on_corrupted.append(np.asarray(weights) @ IS_CORRUPTED)
    assert on_corrupted[0] > 0.1
    assert max(on_corrupted[-4:]) < 0.02


def head_only(params):
    return {name: name == "head" for name in params}


@pytest.mark.optimized
@pytest.mark.parametrize(
    "again",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["kept", "computed again"],
)
def test_the_forward_pass_is_one_in_a_loop(again):
    """By XLA's count: two loops forward could not be merged, as passes without a loop can.

    A step takes three passes and one more to compute the layers again; a look-ahead, as many over
    the clean batch and two of the tangents; a look-ahead of the head alone, one clean pass.
    """
    call = jax.checkpoint(block, prevent_cse=False) if again else block

    def layers(x, blocks):
        return jax.lax.scan(lambda x, weights: (call(x, weights), None), x, blocks)[0]

    def clean_loss(params, tokens):
        return losses(params, tokens, layers).mean()

    def count(fn):
        tokens = jax.ShapeDtypeStruct((64, LENGTH), jnp.int32)
        params = jax.eval_shape(init)
        return jax.jit(fn).lower(params, tokens, tokens).compile().cost_analysis()["flops"]

    def reweighted(mask):
        return reweighted_value_and_grad(
            lambda *args: losses(*args, layers), clean_loss, weighting=l2rw(mask=mask)
        )

    plain = count(lambda params, tokens, _: jax.value_and_grad(clean_loss)(params, tokens))
    passes = 4 if again else 3
    assert count(reweighted(None)) / plain == pytest.approx((2 * passes + 2) / passes, abs=0.1)
    assert count(reweighted(head_only)) / plain == pytest.approx((passes + 1) / passes, abs=0.1)


POLICIES = jax.checkpoint_policies
CHECKPOINTS = {
    "whole": lambda fn: jax.checkpoint(fn),
    "may be merged": lambda fn: jax.checkpoint(fn, prevent_cse=False),
    "products kept": lambda fn: jax.checkpoint(fn, policy=POLICIES.dots_saveable),
    "nothing kept": lambda fn: jax.checkpoint(fn, policy=POLICIES.nothing_saveable),
    "all kept": lambda fn: jax.checkpoint(fn, policy=POLICIES.everything_saveable),
    "nested": lambda fn: jax.checkpoint(jax.checkpoint(fn, prevent_cse=False)),
}


@pytest.mark.usefixtures("strict")
@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_of_every_form_leave_the_scores_as_they_are(name):
    """Of a layer inside the loop, of one among unrolled ones, and of the loop itself."""
    wrap, params = CHECKPOINTS[name], init()
    tokens = sequences(6, np.arange(6) % 2 == 0, seed=1)

    def scan(call):
        return lambda x, blocks: jax.lax.scan(lambda x, w: (call(x, w), None), x, blocks)[0]

    def unroll(x, blocks):
        for layer in range(LAYERS):
            x = wrap(block)(x, jax.tree.map(operator.itemgetter(layer), blocks))
        return x

    def scores(layers, mask=None):
        fn = reweighted_value_and_grad(
            lambda p, x: losses(p, x, layers),
            lambda p, x: losses(p, x, layers).mean(),
            weighting=l2rw(mask=mask),
        )
        (_, aux), grads = jax.jit(fn)(params, tokens, CLEAN)
        return aux.scores, grads

    want = scores(scan(block))
    for layers in (scan(wrap(block)), unroll, wrap(scan(block))):
        problems.assert_close(scores(layers), want, 1e-12)
    problems.assert_close(
        scores(scan(wrap(block)), head_only), scores(scan(block), head_only), 1e-12
    )


@pytest.mark.usefixtures("strict")
@pytest.mark.slow
def test_a_loop_over_recomputed_layers_leaves_the_scores_as_they_are():
    params = init()
    tokens = sequences(6, np.arange(6) % 2 == 0, seed=1)

    def scores(layers, mode):
        @jax.jit
        def scores(params):
            return example_scores(
                lambda params: losses(params, tokens, layers),
                lambda params: losses(params, CLEAN, layers).mean(),
                params,
                mode=mode,
            )

        return scores(params)

    problems.assert_close(scores(scanned, "forward"), scores(unrolled, "reverse"), 1e-12)


def init_adapters(base):
    """LoRA's factors for every matrix of the blocks: their product, zero at first, is added."""
    rng = np.random.default_rng(5)

    def first(w):
        return jnp.asarray(0.3 * rng.normal(size=(*w.shape[:-1], RANK)), w.dtype)

    def second(w):
        return jnp.zeros((LAYERS, RANK, w.shape[-1]), w.dtype)

    blocks = base["blocks"]
    return {"a": jax.tree.map(first, blocks), "b": jax.tree.map(second, blocks)}


def adapted(base, adapters):
    """The parameters of the transformer with its adapters."""
    blocks = jax.tree.map(lambda w, a, b: w + a @ b, base["blocks"], adapters["a"], adapters["b"])
    return base | {"blocks": blocks}


@pytest.mark.slow
def test_lora_trains_the_adapters_as_if_they_were_the_only_parameters():
    base = init()
    adapters = init_adapters(base)

    def train(tx, params, adapted):
        @jax.jit
        def step(params, opt_state, tokens):
            updates, opt_state = tx.update(
                None,  # reweight computes the gradients
                opt_state,
                params,
                per_example_loss_fn=lambda params: losses(adapted(params), tokens),
                clean_loss_fn=lambda params: clean_loss(adapted(params), CLEAN),
            )
            return optax.apply_updates(params, updates), opt_state

        opt_state = tx.init(params)
        for i in range(25):
            params, opt_state = step(params, opt_state, sequences(20, IS_CORRUPTED, seed=i))
        return params, opt_state[0].info

    labels = {"base": "frozen", "adapters": "trained"}
    optimizer = optax.partition(
        {"trained": optax.adam(0.03), "frozen": optax.set_to_zero()}, labels
    )
    masked = reweight(l2rw(mask={"base": False, "adapters": True}))
    params, info = train(
        optax.chain(masked, optimizer),
        {"base": base, "adapters": adapters},
        lambda params: adapted(params["base"], params["adapters"]),
    )
    want, want_info = train(
        optax.chain(reweight(), optax.adam(0.03)),
        adapters,
        lambda adapters: adapted(base, adapters),
    )
    problems.assert_equal(params["adapters"], want)
    problems.assert_equal(info, want_info)
    problems.assert_equal(params["base"], base)
    assert info.clean_loss < 0.4 * np.log(TOKENS)  # from 2.2; knowing nothing costs 2.1
    assert info.num_active <= np.sum(~IS_CORRUPTED)
