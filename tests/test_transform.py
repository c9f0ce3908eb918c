import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from jax.sharding import PartitionSpec as P

from l2rw_jax import ReweightState, l2rw, reweight, reweighted_value_and_grad

both_modes = pytest.mark.parametrize("mode", ["forward", "reverse"])
strict = pytest.mark.usefixtures("strict")


def losses(params, batch):
    """Independent squares of a linear model with an intercept."""
    return (batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2


def clean_loss(params, clean):
    return losses(params, clean).mean()


def examples(n, seed):
    rng = np.random.default_rng(seed)
    return {"x": jnp.asarray(rng.normal(size=(n, 3))), "y": jnp.asarray(rng.normal(size=n))}


def start():
    return {"w": jnp.asarray(np.random.default_rng(9).normal(size=3)), "b": jnp.zeros(())}


def fns(batch, clean):
    return {
        "per_example_loss_fn": lambda p: losses(p, batch),
        "clean_loss_fn": lambda p: clean_loss(p, clean),
    }


def data(step):
    """A batch and a clean batch for every step."""
    return examples(6, 2 * step), examples(4, 2 * step + 1)


def opposite():
    """Batches whose every step would raise the clean loss."""
    x = jnp.eye(3)
    return {"x": x, "y": -jnp.ones(3)}, {"x": x, "y": jnp.ones(3)}


def run(tx, params, steps, **extra_args):
    state = tx.init(params)

    @jax.jit
    def update(state, params, batch, clean):
        updates, state = tx.update(None, state, params, **fns(batch, clean), **extra_args)
        return optax.apply_updates(params, updates), state

    for step in range(steps):
        params, state = update(state, params, *data(step))
    return params, state


@strict
@both_modes
@pytest.mark.parametrize(
    "after",
    [optax.sgd(0.1), optax.sgd(0.1, momentum=0.9), optax.adamw(0.1)],
    ids=["sgd", "momentum", "adamw"],
)
def test_in_a_chain_equals_the_gradient_and_then_the_optimizer(mode, after):
    tx = optax.chain(reweight(l2rw(mode=mode)), after)
    # An argument that nobody knows is passed over.
    got, _ = run(tx, start(), 3, unknown="argument")
    value_and_grad = reweighted_value_and_grad(losses, clean_loss, weighting=l2rw(mode=mode))
    params = start()
    state = after.init(params)
    for step in range(3):
        _, grads = value_and_grad(params, *data(step))
        updates, state = after.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    problems.assert_close(got, params, 1e-12)


@strict
@both_modes
def test_the_lookahead_s_momentum_follows_the_real_weighted_gradients(mode):
    params, (reweighted, _) = run(
        optax.chain(
            reweight(
                l2rw(optax.sgd(0.5, momentum=0.9), mode=mode),
            ),
            optax.sgd(0.1),
        ),
        start(),
        4,
    )
    # By hand: the look-ahead of zero gradient moves along the trace, and w_i ~ max(u_i, 0).
    by_hand, trace = start(), jax.tree.map(jnp.zeros_like, start())
    for step in range(4):
        batch, clean = data(step)
        ahead = jax.tree.map(lambda p, t: p - 0.5 * 0.9 * t, by_hand, trace)
        jacobian = jax.jacobian(losses)(by_hand, batch)
        direction = jax.grad(clean_loss)(ahead, clean)
        scores = 0.5 * (jacobian["w"] @ direction["w"] + jacobian["b"] * direction["b"])
        weights = np.maximum(scores, 0) / np.sum(np.maximum(scores, 0))
        grads = jax.tree.map(lambda j, w=weights: w @ j, jacobian)
        trace = jax.tree.map(lambda t, g: 0.9 * t + g, trace, grads)
        by_hand = jax.tree.map(lambda p, g: p - 0.1 * g, by_hand, grads)
    problems.assert_close(params, by_hand, 1e-12)
    problems.assert_close(reweighted.lookahead_state[0].trace, trace, 1e-12)
    np.testing.assert_allclose(reweighted.info.clean_loss, clean_loss(ahead, clean), rtol=1e-6)


@strict
@both_modes
def test_info_against_numpy(mode):
    batch, clean = data(0)
    params, tx = start(), reweight(l2rw(mode=mode))
    _, state = tx.update(None, tx.init(params), params, **fns(batch, clean))
    _, aux = reweighted_value_and_grad(losses, clean_loss, weighting=l2rw(mode=mode))(
        params, batch, clean
    )[0]
    weights = np.asarray(aux.weights)
    assert 0 < np.sum(weights > 0) < 6
    info = state.info
    np.testing.assert_allclose(info.loss, weights @ losses(params, batch), rtol=1e-6)
    np.testing.assert_allclose(info.clean_loss, clean_loss(params, clean), rtol=1e-6)
    assert info.num_active == np.count_nonzero(weights)
    np.testing.assert_allclose(info.effective_sample_size, 1 / np.sum(weights**2), rtol=1e-6)
    assert info.num_nonfinite == 0


def test_info_counts_a_nonfinite_score():
    batch, clean = data(0)
    tx = reweight()
    bad = batch | {"y": batch["y"].at[1].set(jnp.nan)}
    _, state = tx.update(None, tx.init(start()), start(), **fns(bad, clean))
    less = jax.tree.map(lambda x: jnp.delete(x, 1, axis=0), batch)
    _, want = tx.update(None, tx.init(start()), start(), **fns(less, clean))
    assert state.info.num_nonfinite == 1
    problems.assert_close(state.info._replace(num_nonfinite=0), want.info, 1e-6)


@both_modes
def test_all_zero_weights_give_a_zero_update(mode):
    params = {"w": jnp.zeros(3), "b": jnp.zeros(())}
    tx = reweight(l2rw(mode=mode))
    updates, state = tx.update(None, tx.init(params), params, **fns(*opposite()))
    problems.assert_equal(updates, params)
    assert (state.info.num_active, state.info.effective_sample_size, state.info.loss) == (0, 0, 0)


def test_min_weight_reaches_the_weights():
    params = {"w": jnp.zeros(3), "b": jnp.zeros(())}
    tx = reweight(l2rw(min_weight=1e9))  # so large that it levels all scores
    _, state = tx.update(None, tx.init(params), params, **fns(*opposite()))
    np.testing.assert_allclose(state.info.effective_sample_size, 3, rtol=1e-6)


@pytest.mark.parametrize("x64", [False, True])
def test_scan_and_jit_keep_the_state_as_init_made_it(x64):
    with jax.enable_x64(x64):
        params = start()
        tx = optax.chain(reweight(l2rw(optax.sgd(0.1, momentum=0.9))), optax.adam(0.1))
        batches = jax.tree.map(lambda *x: jnp.stack(x), *(data(step) for step in range(3)))

        def step(carry, batch):
            params, state = carry
            updates, state = tx.update(None, state, params, **fns(*batch))
            return (optax.apply_updates(params, updates), state), None

        # scan refuses a carry whose types change.
        (scanned, scanned_state), _ = jax.lax.scan(step, (params, tx.init(params)), batches)
        looped, looped_state = run(tx, params, 3)
        tolerance = 1e-12 if x64 else 1e-5
        problems.assert_close((scanned, scanned_state), (looped, looped_state), tolerance)
        info = scanned_state[0].info
        assert info.loss.dtype == jnp.float32 and info.num_active.dtype == jnp.int32
        assert scanned["w"].dtype == (jnp.float64 if x64 else jnp.float32)


def test_a_step_is_traced_once():
    """Whatever init returned, a step returns the same types: nothing is compiled again."""
    tx = optax.chain(reweight(l2rw(optax.sgd(0.1, momentum=0.9))), optax.adam(0.1))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def update(state, params, batch, clean):
        updates, state = tx.update(None, state, params, **fns(batch, clean))
        return optax.apply_updates(params, updates), state

    chex.clear_trace_counter()
    params, state = start(), tx.init(start())
    params = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    for step in range(3):
        params, state = update(state, params, *data(step))
    assert np.all(np.isfinite(params["w"]))


def test_the_state_is_a_pytree_of_arrays_that_comes_back_from_numpy():
    tx = optax.chain(reweight(l2rw(optax.sgd(0.1, momentum=0.9))), optax.sgd(0.1))
    params, state = run(tx, start(), 2)
    assert isinstance(state[0], ReweightState)
    leaves, structure = jax.tree.flatten(state)
    again = jax.tree.unflatten(structure, [np.asarray(x) for x in leaves])
    want = tx.update(None, state, params, **fns(*data(2)))
    problems.assert_equal(tx.update(None, again, params, **fns(*data(2))), want)


TRACES = {
    "jit": jax.jit,
    "eval_shape": lambda f: lambda p: jax.eval_shape(f, p),
    "vmap": jax.vmap,
    "shard_map": lambda f: jax.jit(
        jax.shard_map(
            f, mesh=jax.make_mesh((2,), ("data",)), in_specs=P(), out_specs=P(), check_vma=False
        )
    ),
}


@pytest.mark.parametrize("trace", TRACES)
def test_init_under_a_trace_checks_the_derivative_with_stand_ins(trace):
    init = TRACES[trace]
    for lookahead, match in [(optax.adam(0.1), "is not finite"), (optax.lion(0.1), "vanishes")]:
        with pytest.raises(ValueError, match=match):
            init(reweight(l2rw(lookahead)).init)(jnp.ones((2, 3)))
    state = init(reweight(l2rw(optax.adam(0.1, eps_root=1e-8))).init)(jnp.ones((2, 3)))
    assert state.lookahead_state[0].mu.shape == (2, 3)


def test_the_check_of_a_large_model_under_a_trace_needs_no_second_model():
    shapes = {"w": jax.ShapeDtypeStruct((1 << 20, 1 << 12), jnp.float32)}  # 16 GiB
    with pytest.raises(ValueError, match="is not finite"):
        jax.eval_shape(reweight(l2rw(optax.adam(0.1))).init, shapes)
    jax.eval_shape(reweight(l2rw(optax.sgd(0.1, momentum=0.9))).init, shapes)


def test_the_check_under_a_trace_keeps_the_shapes_that_a_lookahead_may_know():
    anchor = jnp.ones((300, 300))
    pull = optax.stateless(lambda updates, params: jax.tree.map(lambda u: u + anchor, updates))
    jax.eval_shape(reweight(l2rw(optax.chain(pull, optax.sgd(0.1, 0.9)))).init, anchor)
    floats = {"w": jnp.ones(2), "c": 0.1}
    jax.jit(lambda w: reweight(l2rw(optax.sgd(0.1))).init(floats | {"w": w}))(floats["w"])


def test_a_lookahead_with_a_traced_rate_is_not_checked():
    """Its derivative is unknown until the program runs."""

    def rate_of(rate):
        return reweight(l2rw(optax.sgd(rate, momentum=0.9))).init(start()).lookahead_state

    assert jax.tree.leaves(jax.jit(rate_of)(0.1))


# What comes after it in the chain.


@strict
def test_multi_steps_after_it_averages_the_micro_batches():
    multi = optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()
    params, _ = run(optax.chain(reweight(), multi), start(), 2)
    value_and_grad = reweighted_value_and_grad(losses, clean_loss)
    first, second = (value_and_grad(start(), *data(step))[1] for step in range(2))
    want = jax.tree.map(lambda p, g, h: p - 0.1 * (g + h) / 2, start(), first, second)
    problems.assert_close(params, want, 1e-7)  # MultiSteps divides in float32


@strict
def test_inject_hyperparams_after_it():
    tx = optax.chain(reweight(), optax.inject_hyperparams(optax.sgd)(learning_rate=0.1))
    want, _ = run(optax.chain(reweight(), optax.sgd(0.1)), start(), 2)
    params, state = run(tx, start(), 2)
    problems.assert_close(params, want, 1e-12)
    state[1].hyperparams["learning_rate"] = jnp.zeros(())
    updates, _ = tx.update(None, state, params, **fns(*data(2)))
    problems.assert_equal(updates, jax.tree.map(jnp.zeros_like, params))


def test_apply_if_finite_after_it_skips_a_nan_gradient():
    tx = optax.chain(reweight(), optax.apply_if_finite(optax.sgd(0.1), 3))
    batch, clean = data(0)
    bad = batch | {"y": batch["y"].at[1].set(jnp.nan)}
    updates, state = tx.update(None, tx.init(start()), start(), **fns(bad, clean))
    problems.assert_equal(updates, jax.tree.map(jnp.zeros_like, updates))
    assert state[1].total_notfinite == 1
    updates, _ = tx.update(None, state, start(), **fns(batch, clean))
    assert np.all(np.isfinite(updates["w"])) and np.any(updates["w"])


# The docstring's three traps, each as it says.


@strict
def test_trap_multi_steps_around_it_keeps_only_the_last_micro_batch():
    tx = optax.MultiSteps(optax.chain(reweight(), optax.sgd(0.1)), 2)
    params = start()
    state, zeros = tx.init(params), jax.tree.map(jnp.zeros_like, params)
    for step in range(2):
        updates, state = tx.update(zeros, state, params, **fns(*data(step)))
    _, last = reweighted_value_and_grad(losses, clean_loss)(params, *data(1))
    problems.assert_close(updates, jax.tree.map(lambda g: -0.1 * g, last), 1e-12)


def test_trap_masked_around_it_hides_parameters_from_the_losses():
    tx = optax.masked(reweight(), {"w": True, "b": False})
    params, seen = start(), []

    def per_example_loss_fn(params):
        seen.append(params["b"])
        return params["w"]

    tx.update(
        params,
        tx.init(params),
        params,
        per_example_loss_fn=per_example_loss_fn,
        clean_loss_fn=lambda params: params["w"].sum(),
    )
    assert seen and all(isinstance(b, optax.MaskedNode) for b in seen)


@pytest.mark.parametrize(
    "after",
    [optax.sgd(0.1, momentum=0.9), optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1))],
    ids=["momentum", "decay"],
)
def test_trap_what_comes_after_moves_the_parameters_at_all_zero_weights(after):
    tx = optax.chain(reweight(), after)
    params, state = run(tx, start(), 1)
    params = {"w": jnp.full(3, 0.1), "b": jnp.zeros(())}
    updates, state = tx.update(None, state, params, **fns(*opposite()))
    assert state[0].info.num_active == 0
    assert np.all(updates["w"] != 0)


# Errors.


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"lookahead": 0.1},
            TypeError,
            "lookahead: got float; takes an optax.Grad",
        ),
        (
            {"lookahead": optax.constant_schedule(0.1)},
            TypeError,
            "lookahead: got function; takes an optax",
        ),
        ({"lookahead": optax.sgd}, TypeError, "lookahead: got function; takes an optax"),
        (
            {"mode": "fast"},
            ValueError,
            "mode: got 'fast'; takes one of 'forward', 'reverse', 'f",
        ),
        ({"min_weight": -0.5}, ValueError, "min_weight: got -0.5; takes a number .* at least 0"),
        ({"min_weight": np.nan}, ValueError, "min_weight: got nan; takes a number .* at least 0"),
    ],
)
def test_options_are_checked_at_once(options, error, match):
    with pytest.raises(error, match=match):
        l2rw(**options)


@pytest.mark.parametrize(
    ("lookahead", "match"),
    [
        (
            optax.adam(0.1),
            "lookahead: the derivative of its first update .* is not finite; use lookahead=N",
        ),
        (optax.lion(0.1), "lookahead: the derivative of its .* vanishes, so every score"),
        (optax.sgd(0.0), "lookahead: .* vanishes, so every score .* sgd with a rate above zero"),
        (optax.polyak_sgd(), "lookahead: .* cannot be taken .*missing 1 required keyword"),
        (optax.lbfgs(), "lookahead: .* cannot be taken .*missing 3 required keyword"),
    ],
    ids=["nan", "vanishing", "rate zero", "one argument more", "three arguments more"],
)
def test_init_refuses_a_lookahead_without_a_derivative(lookahead, match):
    with pytest.raises(ValueError, match=match):
        reweight(l2rw(lookahead)).init(start())


@both_modes
@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        (
            {"per_example_loss_fn": lambda p: p["w"].mean()},
            ValueError,
            r"per_example_loss_fn's result: got shape \(\); takes shape \[b\]",
        ),
        (
            {"per_example_loss_fn": lambda p: (p["w"], 0)},
            TypeError,
            "per_example_loss_fn's result: got tuple; takes one floating array",
        ),
        (
            {"per_example_loss_fn": lambda p: jnp.arange(3)},
            TypeError,
            r"per_example_loss_fn's result: got dtype int\d+; takes a floating dtype",
        ),
        (
            {"clean_loss_fn": lambda p: p["w"][None]},
            ValueError,
            r"clean_loss_fn's result: got shape \(1, 3\), float32; takes floating losses",
        ),
        ({"params": None}, ValueError, "params: got None; takes the pytree of parameters"),
        (
            {"val_loss_fn": clean_loss},
            TypeError,
            "val_loss_fn: moved .* as clean_loss_fn",
        ),
        ({"clean_loss_fn": None}, TypeError, "clean_loss_fn: got nothing; .* reweighted_value_and"),
        ({"per_example_loss_fn": 3}, TypeError, "per_example_loss_fn: got int; .* as a keyword"),
    ],
)
def test_update_errors(changes, error, match, mode):
    tx = reweight(l2rw(mode=mode))
    arguments = {"params": start(), **fns(*data(0))} | changes
    with pytest.raises(error, match=match):
        tx.update(None, tx.init(start()), **arguments)


def test_a_lookahead_that_keeps_a_state_needs_it():
    tx, state = reweight(l2rw(optax.sgd(0.1, momentum=0.9))), reweight().init(start())
    with pytest.raises(ValueError, match=r"lookahead_state: got None, .* pass the state"):
        tx.update(None, state._replace(lookahead_state=None), start(), **fns(*data(0)))
