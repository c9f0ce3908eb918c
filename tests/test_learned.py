"""Learned weights: both gradients against finite differences, closed forms and reverse mode."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from jax.sharding import PartitionSpec as P

from l2rw_jax import example_scores, learned_value_and_grad

pytestmark = pytest.mark.usefixtures("strict")

ONE_HIDDEN = {
    "w": jnp.linspace(-1, 1, 5, dtype="float32"),
    "b": jnp.linspace(0.5, -0.5, 5, dtype="float32"),
    "v": jnp.linspace(0.3, -0.7, 5, dtype="float32"),
}


def meta_weight_net(phi, losses, batch):
    """A network of the loss, as Meta-Weight-Net has it."""
    del batch
    hidden = jnp.tanh(losses[:, None] * phi["w"][None] + phi["b"][None])
    return jax.nn.sigmoid(hidden @ phi["v"]) / len(losses)


def by_label(phi, losses, batch):
    """A logit for each label."""
    return jax.nn.sigmoid(phi[batch["y"]]) / len(losses)


def definition(problem, weight_fn, inner, state, phi):
    """The clean loss after one update by weights of ``phi``, as Shu et al. write it."""
    losses = jax.lax.stop_gradient(problem.losses(problem.params, problem.batch))

    def weighted(params):
        weights = weight_fn(phi, losses, problem.batch)
        return jnp.sum(weights * problem.losses(params, problem.batch))

    grads = jax.grad(weighted)(problem.params)
    updates, _ = inner.update(grads, state, problem.params)
    return problem.clean_loss(optax.apply_updates(problem.params, updates), problem.clean)


def double(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, "float64"), tree)


CASES = [(meta_weight_net, ONE_HIDDEN), (by_label, np.linspace(-1, 1, 4))]
INNERS = {
    "sgd": optax.sgd(0.3),
    "momentum": optax.sgd(0.3, momentum=0.9),
    "adam": optax.adam(0.03),
    "clip": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.3)),
}


@pytest.mark.parametrize("inner", INNERS.values(), ids=INNERS)
@pytest.mark.parametrize(("weight_fn", "phi"), CASES, ids=["network", "labels"])
def test_both_gradients_are_those_of_the_definition(weight_fn, phi, inner):
    problem, phi = problems.mlp(), double(phi)
    state = inner.init(problem.params)
    if jax.tree.leaves(state):  # warm
        grads = jax.grad(lambda p: problem.losses(p, problem.batch).sum())(problem.params)
        _, state = inner.update(grads, state, problem.params)
    fn = jax.jit(learned_value_and_grad(problem.losses, problem.clean_loss, weight_fn, inner=inner))
    (loss, aux), (grads, phi_grads) = fn(
        problem.params, phi, problem.batch, problem.clean, inner_state=state
    )
    want = lambda phi: definition(problem, weight_fn, inner, state, phi)  # noqa: E731
    chex.assert_trees_all_close(phi_grads, jax.grad(want)(phi), rtol=1e-9, atol=1e-14)
    # And by finite differences, in a random direction: reverse mode over reverse could err alike.
    direction = jax.tree.map(lambda x: jnp.sin(1 + jnp.arange(x.size)).reshape(x.shape), phi)
    ahead, behind = (
        want(jax.tree.map(lambda p, d, s=s: p + s * d, phi, direction)) for s in (1e-5, -1e-5)
    )
    got = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), phi_grads, direction)))
    np.testing.assert_allclose(got, (ahead - behind) / 2e-5, rtol=1e-6)

    weights = weight_fn(phi, aux.losses, problem.batch)
    np.testing.assert_allclose(aux.weights, weights, rtol=1e-12)
    np.testing.assert_allclose(aux.clean_loss, want(phi), rtol=1e-12)
    weighted = lambda p: jnp.sum(weights * problem.losses(p, problem.batch))  # noqa: E731
    np.testing.assert_allclose(loss, weighted(problem.params), rtol=1e-12)
    chex.assert_trees_all_close(grads, jax.grad(weighted)(problem.params), rtol=1e-10, atol=1e-14)


def test_at_weight_zero_the_scores_are_those_of_the_paper():
    """A weight for each example, all zero, is where the paper takes its derivative."""
    problem, inner = problems.mlp(), optax.sgd(0.3)
    fn = learned_value_and_grad(
        problem.losses, problem.clean_loss, lambda phi, losses, batch: phi, inner=inner
    )
    (_, aux), (_, phi_grads) = fn(problem.params, jnp.zeros(6), problem.batch, problem.clean)
    want = example_scores(
        lambda p: problem.losses(p, problem.batch),
        lambda p: problem.clean_loss(p, problem.clean),
        problem.params,
        inner=inner,
    )
    np.testing.assert_allclose(aux.scores, want, rtol=1e-12)
    np.testing.assert_allclose(phi_grads, -want, rtol=1e-12)


def test_a_mask_is_the_derivative_by_the_parameters_that_move():
    problem, inner, phi = problems.mlp(), optax.sgd(0.3), jnp.linspace(-1, 1, 4)
    fn = learned_value_and_grad(
        problem.losses,
        problem.clean_loss,
        by_label,
        inner=inner,
        lookahead_mask=(False, True),
    )
    _, (grads, phi_grads) = fn(problem.params, phi, problem.batch, problem.clean)
    first = problem.params[0]
    head = problem._replace(
        losses=lambda p, batch: problem.losses((first, p), batch),
        clean_loss=lambda p, clean: problem.clean_loss((first, p), clean),
        params=problem.params[1],
    )
    want = jax.grad(lambda phi: definition(head, by_label, inner, inner.init(first), phi))(phi)
    np.testing.assert_allclose(phi_grads, want, rtol=1e-10)
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(grads))  # all train


@pytest.mark.parametrize("kind", ["shard_map", "pmap"])
def test_devices_that_share_a_batch_are_one_device(kind):
    problem, inner, phi = problems.mlp(b=8, m=4), optax.sgd(0.3), jnp.linspace(-1, 1, 4)

    def weight_fn(phi, losses, batch):
        return jax.nn.sigmoid(phi[batch["y"]]) / 8

    arguments = (problem.params, phi, problem.batch, problem.clean)
    whole, divided = (
        learned_value_and_grad(
            problem.losses, problem.clean_loss, weight_fn, inner=inner, axis_name=axis_name
        )
        for axis_name in (None, "data")
    )
    (loss, _), gradients = whole(*arguments)
    devices = jax.devices()[:4]
    if kind == "pmap":
        cut = lambda tree: jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), tree)  # noqa: E731
        fn = jax.pmap(divided, axis_name="data", in_axes=(None, None, 0, 0), devices=devices)
        (got, _), got_gradients = fn(*arguments[:2], cut(problem.batch), cut(problem.clean))
        got, got_gradients = jax.tree.map(lambda x: x[0], (got, got_gradients))
    else:
        mesh = jax.sharding.Mesh(np.array(devices), ("data",))
        fn = jax.shard_map(
            lambda *args: (lambda out: (out[0][0], out[1]))(divided(*args)),
            mesh=mesh,
            in_specs=(P(), P(), P("data"), P("data")),
            out_specs=P(),
        )
        got, got_gradients = jax.jit(fn)(*arguments)
    np.testing.assert_allclose(got, loss, rtol=1e-12)
    chex.assert_trees_all_close(got_gradients, gradients, rtol=1e-10, atol=1e-15)


def test_it_costs_eight_passes():
    """Clean gradient 3, losses 1, their tangent 2, weighted gradient 2; a plain step has 3."""
    with jax.enable_x64(False):
        width, b = 256, 256
        params = [jnp.ones((width, width), "float32") for _ in range(6)]

        def losses(params, x):
            for kernel in params:
                x = jnp.tanh(x @ kernel)
            return x.mean(-1)

        fn = learned_value_and_grad(
            losses,
            lambda p, x: losses(p, x).mean(),
            lambda phi, losses, batch: jax.nn.sigmoid(phi * losses) / b,
            inner=optax.sgd(0.1),
        )
        x = jnp.ones((b, width), "float32")
        plain = jax.jit(jax.grad(lambda p: losses(p, x).mean()))

        def flops(jitted, *args):
            return jitted.lower(*args).compile().cost_analysis()["flops"]

        ratio = flops(jax.jit(fn), params, jnp.float32(0), x, x) / flops(plain, params)
    # The first layer's input gradient is nobody's: of 18 products a plain step has 17.
    assert ratio == pytest.approx((8 * 6 - 3) / 17, rel=0.02)


@pytest.mark.parametrize(
    ("weight_fn", "error", "match"),
    [
        (lambda phi, w, b: w.sum(), ValueError, r"weight_fn's result: got shape \(\)"),
        (
            lambda phi, w, b: w[:2],
            ValueError,
            r"got shape \(2,\); takes \(6,\)",
        ),
        (lambda phi, w, b: w > 0, TypeError, r"weight_fn's result: got dtype bool"),
        (lambda phi, w, b: None, TypeError, r"weight_fn's result: got"),
    ],
)
def test_a_wrong_weight_fn_is_refused(weight_fn, error, match):
    problem = problems.mlp()
    fn = learned_value_and_grad(problem.losses, problem.clean_loss, weight_fn, inner=optax.sgd(0.1))
    with pytest.raises(error, match=match):
        fn(problem.params, jnp.zeros(2), problem.batch, problem.clean)


def test_the_inner_optimizer_is_asked_for():
    problem = problems.mlp()
    with pytest.raises(TypeError, match="inner"):
        learned_value_and_grad(problem.losses, problem.clean_loss, by_label)
