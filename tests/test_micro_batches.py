"""A batch computed in parts gives what the whole of it gives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

from l2rw_jax import evidence, l2rw, reweighted_value_and_grad

pytestmark = pytest.mark.usefixtures("strict")


@functools.cache
def problem():
    with jax.enable_x64(True):
        made = problems.mlp(b=12, m=6)
        return made, problems.lookahead_states(made)


MOMENTUM = problems.LOOKAHEADS["momentum"]


@pytest.mark.parametrize(
    ("size", "mode"),
    [(1, "forward"), (3, "forward"), (12, "forward")]
    + [(3, mode) for mode in ("reverse", "finite_difference", "evidence")],
)
def test_equals_the_whole_batch(mode, size):
    made, states = problem()
    if mode == "evidence":
        weighting, state = evidence((False, True), parts=4), None
    else:
        weighting, state = l2rw(MOMENTUM, mode=mode), states["momentum"]
    want, got = (
        jax.jit(reweighted_value_and_grad(made.losses, made.losses, weighting=weighting, **more))(
            *made[2:], lookahead_state=state
        )
        for more in ({}, {"micro_batch_size": size})
    )
    problems.assert_close(got, want, 1e-7 if mode == "finite_difference" else 1e-12)


def test_with_a_mask_and_groups():
    made, _ = problem()
    groups = jnp.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])

    def fn(**more):
        weighting = l2rw(mask=(False, True), groups=lambda batch: groups)
        wrapped = reweighted_value_and_grad(
            made.losses, made.clean_loss, weighting=weighting, **more
        )
        return jax.jit(wrapped)(*made[2:])

    got, want = fn(micro_batch_size=3), fn()
    problems.assert_close(got, want, 1e-12)
    weights = want[0][1].weights
    np.testing.assert_array_equal(weights[::2], weights[1::2])
    assert len(set(np.asarray(weights))) == 6


def test_groups_are_a_function_of_the_batch():
    made, _ = problem()
    batch = made.batch | {"source": jnp.arange(12) % 3 * 2**30}  # ids of any size
    fn = reweighted_value_and_grad(
        made.losses, made.clean_loss, weighting=l2rw(groups=lambda batch: batch["source"])
    )
    aux = jax.jit(fn)(made.params, batch, made.clean)[0][1]
    sums = np.maximum(np.bincount(np.arange(12) % 3, aux.scores), 0)
    np.testing.assert_allclose(aux.weights, (sums / sums.sum() / 4)[np.arange(12) % 3], rtol=1e-12)
    with pytest.raises(TypeError, match=r"groups: got list; takes a function of the batch"):
        l2rw(groups=[0, 1])


def test_aux_comes_back_in_order_where_it_has_the_examples():
    made, _ = problem()

    def losses(params, batch):
        return made.losses(params, batch), {"x": batch["x"], "mean": batch["x"].mean()}

    fn = reweighted_value_and_grad(losses, made.clean_loss, has_aux=True, micro_batch_size=3)
    aux = fn(*made[2:])[0][1].aux
    assert aux["mean"].shape == (4,)  # one of each part
    np.testing.assert_array_equal(aux["x"], made.batch["x"])


def test_fewer_activations_are_held():
    """Two wide layers: their activations are of a quarter of the batch at a time."""
    params = [jnp.zeros((64, 512)), jnp.zeros((512, 512)), jnp.zeros((512, 8))]

    def losses(params, batch):
        hidden = jnp.tanh(jnp.tanh(batch["x"] @ params[0]) @ params[1])
        return optax.softmax_cross_entropy_with_integer_labels(hidden @ params[2], batch["y"])

    batch = {"x": jnp.zeros((2048, 64)), "y": jnp.zeros(2048, int)}

    def memory(size):
        fn = reweighted_value_and_grad(losses, lambda *a: losses(*a).mean(), micro_batch_size=size)
        compiled = jax.jit(fn).lower(params, batch, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(128) < 0.35 * memory(None)


@pytest.mark.parametrize(
    ("size", "changes", "match"),
    [
        (5, {}, "micro_batch_size: got 5, which does not divide the 12 .* for example 4"),
        (4, {"m": 6}, "micro_batch_size: got 4, .* the 6 examples of clean_batch; .* example 3"),
        (0, {}, "micro_batch_size: got 0; takes None or an integer of at least 1"),
        (2.0, {}, "micro_batch_size: got 2.0; takes None or an integer"),
        (True, {}, "micro_batch_size: got True; takes None or an integer"),
        (4, {"key": np.zeros(2)}, r"batch: got arrays whose first axes differ \(\['key'\] \(2,\)"),
        (
            4,
            {"key": np.zeros(())},
            r"batch\['key'\]: got shape \(\), .*random.split\(key, b",
        ),
    ],
)
def test_errors(size, changes, match):
    made = problems.mlp(b=12, m=changes.pop("m", 12))
    with pytest.raises(ValueError, match=match):
        reweighted_value_and_grad(made.losses, made.clean_loss, micro_batch_size=size)(
            made.params, made.batch | changes, made.clean
        )
