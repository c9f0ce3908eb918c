"""Losses without a forward derivative, and the approximation that serves them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

from l2rw_jax import example_scores, l2rw, reweight, reweighted_value_and_grad
from l2rw_jax._tangents import coarsest_epsilon


@jax.custom_vjp
def activation(x):
    return jnp.tanh(x)


def _backward(x, cotangent):
    return (cotangent * (1 - jnp.tanh(x) ** 2),)


activation.defvjp(lambda x: (jnp.tanh(x), x), _backward)


def network(activation):
    """Losses of a network whose first layer has the activation, and their clean mean."""

    def losses(params, batch):
        hidden = activation(batch["x"] @ params["first"])
        return jnp.sum((hidden @ params["head"] - batch["y"]) ** 2, axis=-1)

    return losses, lambda params, batch: losses(params, batch).mean()


def arguments():
    rng = np.random.default_rng(0)

    def examples(n):
        return {
            "x": jnp.asarray(rng.normal(size=(n, 3))),
            "y": jnp.asarray(rng.normal(size=(n, 2))),
        }

    params = {
        "first": jnp.asarray(rng.normal(size=(3, 5))),
        "head": jnp.asarray(rng.normal(size=(5, 2))),
    }
    return params, examples(9), examples(4)


wraps = pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit], ids=["eager", "jit"])
HEAD = {"first": False, "head": True}


@wraps
@pytest.mark.parametrize("masked", [False, True])
def test_forward_mode_names_the_remedies_of_a_custom_vjp(wrap, masked):
    mask = {"first": True, "head": False} if masked else None
    fn = reweighted_value_and_grad(*network(activation), weighting=l2rw(mask=mask))
    with pytest.raises(TypeError, match=r"custom_vjp .*finite_difference.*reverse.*mask"):
        wrap(fn)(*arguments())


def test_the_message_is_one_line_everywhere():
    losses, clean_loss = network(activation)
    params, batch, clean = arguments()
    fns = {
        "per_example_loss_fn": lambda p: losses(p, batch),
        "clean_loss_fn": lambda p: clean_loss(p, clean),
    }
    for call in (
        lambda: example_scores(*fns.values(), params),
        lambda: reweight().update(None, reweight().init(params), params, **fns),
        lambda: jax.lax.scan(  # inside a loop, where the map is in a program of its own
            lambda p, _: (p, example_scores(*fns.values(), p)), params, length=2
        ),
    ):
        with pytest.raises(TypeError, match="mode='forward' cannot") as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "rtol", "wrap"),
    [
        ({"mode": "reverse"}, 1e-10, jax.jit),
        ({"mode": "finite_difference"}, 1e-6, jax.jit),
        ({"mask": HEAD}, 1e-10, jax.jit),
        ({"mask": HEAD}, 1e-10, lambda fn: fn),
        ({"mode": "finite_difference", "mask": HEAD}, 1e-6, jax.jit),
    ],
    ids=["reverse", "differences", "head", "head, eager", "head, differences"],
)
def test_the_remedies_give_what_the_same_network_without_it_gives(options, rtol, wrap):
    with jax.enable_x64(True):
        got = wrap(reweighted_value_and_grad(*network(activation), weighting=l2rw(**options)))(
            *arguments()
        )
        want = wrap(
            reweighted_value_and_grad(
                *network(jnp.tanh), weighting=l2rw(**options | {"mode": "forward"})
            )
        )(*arguments())
        problems.assert_close(got, want, rtol)
        assert 0 < np.sum(want[0][1].weights > 0) < 9


def error_of_differences(dtype):
    """Relative error of the largest score, on problems.mlp in a dtype."""
    with jax.enable_x64(True):
        made = problems.mlp(b=32, m=16)
        exact = reweighted_value_and_grad(made.losses, made.clean_loss)(*made[2:])[0][1].scores
        cast = lambda tree: jax.tree.map(  # noqa: E731
            lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
        )
        fn = reweighted_value_and_grad(
            made.losses, made.clean_loss, weighting=l2rw(mode="finite_difference")
        )
        arguments = cast(made.params), cast(made.batch), cast(made.clean)
        scores = jax.jit(fn)(*arguments)[0][1].scores
        assert scores.dtype == max(dtype, jnp.float32, key=lambda d: jnp.finfo(d).bits)
        return np.max(np.abs(scores.astype(float) - exact)) / np.max(np.abs(exact))


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    # Measured: 1e-10, 3e-4 and 0.3, on steep losses. The lower limits show that the dtype is used.
    [(jnp.float64, 1e-13, 1e-8), (jnp.float32, 1e-7, 1e-3), (jnp.bfloat16, 1e-3, 0.4)],
)
def test_the_error_of_finite_differences(dtype, low, high):
    assert low < error_of_differences(dtype) < high


def test_the_step_follows_the_coarsest_dtype_inside():
    def losses(params):
        hidden = jax.lax.map(lambda x: x.astype(jnp.bfloat16) * 2, params[0])
        return hidden.astype(jnp.float32)

    params = [jnp.ones(3)]
    assert coarsest_epsilon(losses, params) == float(jnp.finfo(jnp.bfloat16).eps)
    assert coarsest_epsilon(lambda p: p[0] * 2, params) == float(jnp.finfo(jnp.float32).eps)


@pytest.mark.parametrize("zero", ["params", "direction", "both"])
def test_finite_differences_at_zero(zero):
    """Parameters without a norm still move, and a clean loss without a gradient gives zeros."""
    params = jnp.zeros(2) if zero in ("params", "both") else jnp.ones(2)
    x = jnp.array([[1.0, 0.0], [0.0, -1.0]])
    slope = 0.0 if zero in ("direction", "both") else 1.0
    scores = example_scores(
        lambda w: x @ w, lambda w: slope * w.sum(), params, mode="finite_difference"
    )
    np.testing.assert_allclose(scores, slope * np.array([1, -1]), rtol=1e-4)


def test_finite_differences_do_not_depend_on_the_scale_of_the_clean_loss():
    made = problems.mlp()

    def weights(scale):
        fn = reweighted_value_and_grad(
            made.losses,
            lambda *a: scale * made.clean_loss(*a),
            weighting=l2rw(mode="finite_difference"),
        )
        return jax.jit(fn)(*made[2:])[0][1].weights

    for scale in (1e-25, 1e25):
        np.testing.assert_allclose(weights(scale), weights(1.0), rtol=1e-3, atol=1e-4)


def test_finite_differences_leave_a_nan_to_its_own_example():
    def losses(w):
        return jnp.array([1.0, jnp.nan, -1.0]) * w

    scores = example_scores(losses, lambda w: w, jnp.float32(1), mode="finite_difference")
    np.testing.assert_allclose(scores, [1, np.nan, -1], rtol=1e-3)


@pytest.mark.parametrize("mode", ["forward", "reverse", "finite_difference"])
def test_under_strict_promotion_of_dtypes_and_ranks(mode):
    """Mixed precision as people write it: parameters in float32, losses of bfloat16 activations."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        params = {"w": jnp.ones((3, 2)), "b": jnp.ones((2,), jnp.bfloat16)}
        x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.bfloat16)

        def losses(params):
            z = x @ params["w"].astype(jnp.bfloat16) + params["b"][None]
            return jnp.sum(jnp.square(z), axis=1)

        tx = optax.chain(
            reweight(
                l2rw(optax.sgd(0.5), mode=mode, min_weight=0.1),
            ),
            optax.sgd(0.5),
        )
        state = tx.init(params)
        updates, state = jax.jit(
            lambda state, params: tx.update(
                None,
                state,
                params,
                per_example_loss_fn=losses,
                clean_loss_fn=lambda p: losses(p).mean(),
            )
        )(state, params)
        assert jax.tree.map(lambda x: x.dtype, updates) == {"w": jnp.float32, "b": jnp.bfloat16}
        assert state[0].info.num_active == 6 and state[0].info.effective_sample_size > 1
        fn = reweighted_value_and_grad(
            lambda p, _: losses(p),
            lambda p, _: losses(p).mean(),
            weighting=l2rw(mode=mode, groups=lambda batch: jnp.array([0, 0, 1, 1, 2, 2])),
        )
        loss, aux = jax.jit(lambda p: fn(p, {}, {})[0])(params)
        assert aux.weights.dtype == loss.dtype == jnp.float32 and aux.scores.dtype == jnp.float32
        np.testing.assert_allclose(aux.weights.sum(), 1, rtol=1e-6)
