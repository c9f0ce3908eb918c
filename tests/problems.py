"""Small problems for the method's tests, and the definition that its scores are held against."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from l2rw_jax.models import create_model

LOOKAHEADS = {
    "none": None,
    "sgd": optax.sgd(0.3),
    "momentum": optax.sgd(0.3, momentum=0.9),
    "nesterov": optax.sgd(0.3, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.03),
    "adamw": optax.adamw(0.03, weight_decay=0.1),
    "adam, eps_root": optax.adam(0.03, eps_root=1e-4),
    "schedule": optax.sgd(optax.linear_schedule(0.0, 1.0, 10)),
    "clip, decay, momentum": optax.chain(
        optax.clip(1.0), optax.add_decayed_weights(0.1), optax.sgd(0.3, momentum=0.9)
    ),
    "rmsprop": optax.rmsprop(0.03),
    "adagrad": optax.adagrad(0.1),
    "yogi": optax.yogi(0.03),
}


class Problem(NamedTuple):
    """Losses of two batches: `losses(params, batch) -> [b]`, `clean_loss(params, clean) -> []`."""

    losses: Callable[..., Any]
    clean_loss: Callable[..., Any]
    params: Any
    batch: Any
    clean: Any


def mlp(b: int = 6, m: int = 4, seed: int = 0) -> Problem:
    """A smooth classifier whose losses do not know each other, in the present default dtype."""
    rng = np.random.default_rng(seed)

    def examples(n):
        return {"x": jnp.asarray(rng.normal(size=(n, 3))), "y": jnp.asarray(rng.integers(0, 4, n))}

    def layer(n_in, n_out):
        return {
            "w": jnp.asarray(rng.normal(size=(n_in, n_out))),
            "b": jnp.asarray(rng.normal(size=(1, n_out))),
        }

    def losses(params, batch):
        first, second = params
        hidden = jnp.tanh(batch["x"] @ first["w"] + first["b"])
        logits = hidden @ second["w"] + second["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])

    def clean_loss(params, clean):
        return losses(params, clean).mean()

    params = (layer(3, 5), layer(5, 4))
    return Problem(losses, clean_loss, params, examples(b), examples(m))


def residual(b: int = 4, m: int = 4, **options) -> Problem:
    """WRN-10-1 in training mode: batch normalisation couples the losses; aux is its new state.

    The images are just large enough for every tap of every kernel to see more than padding: a
    parameter whose gradient is always zero has no derivative under Adam. They are one flat array
    because compiling an update of every leaf, for every optimizer, would take most of the test.
    """
    model = create_model(
        "wrn-10-1", num_classes=3, image_shape=(16, 16, 1), dtype=jnp.float64, **options
    )
    params, model_state = jax.jit(model.init)(jax.random.key(0))
    flat, unflatten = ravel_pytree(params)
    rng = np.random.default_rng(0)

    def examples(n):
        return {
            "x": jnp.asarray(rng.normal(size=(n, 16, 16, 1))),
            "y": jnp.asarray(rng.integers(0, 3, n)),
        }

    def losses(flat, batch):
        logits, state = model.apply(
            unflatten(flat), model_state, batch["x"], train=True, rng=jax.random.key(1)
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]), state

    def clean_loss(flat, clean):
        return losses(flat, clean)[0].mean()

    return Problem(losses, clean_loss, flat, examples(b), examples(m))


def lookahead_states(problem: Problem) -> dict[str, Any]:
    """The look-aheads' states after three real gradients; cold to test eps_root."""

    @jax.jit
    def warm(params):
        def descend(params, _):
            grads = jax.grad(problem.clean_loss)(params, problem.batch)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), grads

        _, history = jax.lax.scan(descend, params, length=3)

        def follow(optimizer):
            def step(state, grads):
                return optimizer.update(grads, state, params)[1], None

            return jax.lax.scan(step, optimizer.init(params), history)[0]

        cold = {"adam, eps_root": LOOKAHEADS["adam, eps_root"].init(params), "none": None}
        return {
            name: follow(optimizer) for name, optimizer in LOOKAHEADS.items() if name not in cold
        } | cold

    return warm(problem.params)


def clean_loss_ahead(problem: Problem, lookahead, state) -> Callable[[jax.Array], jax.Array]:
    """The definition (Eqs. 4-5): clean loss after a look-ahead, of the weights `epsilon`."""

    def loss(epsilon):
        def perturbed(params):
            result = problem.losses(params, problem.batch)
            return jnp.vdot(epsilon, result[0] if isinstance(result, tuple) else result)

        grads = jax.grad(perturbed)(problem.params)
        if lookahead is None:
            updates = jax.tree.map(jnp.negative, grads)
        else:
            updates, _ = lookahead.update(grads, state, problem.params)
        return problem.clean_loss(optax.apply_updates(problem.params, updates), problem.clean)

    return loss


def assert_close(got, want, rtol: float) -> None:
    """Trees agree to `rtol` of each leaf's largest entry."""
    chex.assert_trees_all_equal_structs(got, want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = np.max(np.abs(b), initial=0)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale)


def assert_equal(got, want) -> None:
    """Trees agree bit for bit."""
    chex.assert_trees_all_equal(got, want)
