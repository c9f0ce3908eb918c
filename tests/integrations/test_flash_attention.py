"""Losses without a forward derivative: Pallas's flash attention, and any ``jax.custom_vjp``."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

from l2rw_jax import l2rw, reweighted_value_and_grad

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from jax.experimental.pallas.ops.gpu import attention

LENGTH, WIDTH, CLASSES = 16, 16, 3


def flash_attention(query, key, value):
    """Pallas's kernel for GPUs, interpreted, on one head's arrays ``[b, t, width]``."""
    query, key, value = (x[:, :, None] for x in (query, key, value))
    sizes = attention.BlockSizes(16, 16, 16, 16, 16, 16)
    result = attention.mha(
        query, key, value, None, sm_scale=WIDTH**-0.5, interpret=True, block_sizes=sizes
    )
    return result[:, :, 0]


def softmax_attention(query, key, value):
    return jax.nn.softmax(query @ key.swapaxes(1, 2) * WIDTH**-0.5) @ value


def squared_tanh(x):
    return jnp.square(jnp.tanh(x))


@jax.custom_vjp
def opaque_squared_tanh(x):
    return squared_tanh(x)


opaque_squared_tanh.defvjp(lambda x: jax.vjp(squared_tanh, x), lambda pullback, g: pullback(g))


def network(attend, activation):
    """The losses of a classifier of sequences, with one attention and one hidden layer."""

    def losses(params, batch):
        x = batch["x"]
        x = attend(*(x @ params[name] for name in ("query", "key", "value"))).mean(1)
        logits = activation(x @ params["hidden"]) @ params["head"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])

    return losses


HEAD_ONLY = {"query": False, "key": False, "value": False, "hidden": False, "head": True}
ORDINARY = network(softmax_attention, squared_tanh)
OPAQUE = {
    "flash attention": network(flash_attention, squared_tanh),
    "custom_vjp activation": network(softmax_attention, opaque_squared_tanh),
}
each_network = pytest.mark.parametrize("losses", OPAQUE.values(), ids=OPAQUE)


def problem():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def examples(n):
        return {"x": normal(n, LENGTH, WIDTH), "y": jnp.arange(n) % CLASSES}

    params = {name: normal(WIDTH, WIDTH) / 4 for name in ("query", "key", "value", "hidden")}
    return params | {"head": normal(WIDTH, CLASSES)}, examples(16), examples(6)


def reweighted(losses, **options):
    """The weights and the gradient, with `l2rw`'s options."""
    value_and_grad = reweighted_value_and_grad(losses, losses, weighting=l2rw(**options))
    (_, aux), grads = jax.jit(value_and_grad)(*problem())
    return aux.weights, grads


@pytest.fixture(scope="module")
def ordinary():
    """What the network with neither gives: looking ahead with all parameters, and the head's."""
    return {"all": reweighted(ORDINARY), "head": reweighted(ORDINARY, mask=HEAD_ONLY)}


@each_network
def test_forward_mode_says_what_to_use(losses):
    with pytest.raises(TypeError, match=r"differentiate a jax\.custom_vjp function") as error:
        reweighted(losses)
    message = str(error.value)
    assert "mode='finite_difference'" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param(OPAQUE["flash attention"], id="flash attention", marks=pytest.mark.slow),
        pytest.param(OPAQUE["custom_vjp activation"], id="custom_vjp activation"),
    ],
)
def test_finite_differences_give_the_weights(losses, ordinary):
    weights, grads = reweighted(losses, mode="finite_difference")
    want, want_grads = ordinary["all"]
    assert 0 < np.sum(want == 0) < want.size
    np.testing.assert_allclose(weights, want, atol=1e-3)
    problems.assert_close(grads, want_grads, 5e-3)


@each_network
def test_forward_mode_passes_a_lookahead_of_the_layers_behind(losses, ordinary):
    got = reweighted(losses, mask=HEAD_ONLY)
    problems.assert_close(got, ordinary["head"], 1e-4)
