"""The plain and the reweighted step, lowered from shapes alone: how large the programs are."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmark import ours
from l2rw_jax import losses
from l2rw_jax.models import create_model

STEPS: dict[str, Callable[..., Any]] = {
    "plain": ours.FORMS["plain"],
    "l2rw": ours.FORMS["l2rw forward"],
}


class Problem(NamedTuple):
    """What is compiled: ``losses_fn(params, batch) -> (losses [b], aux)`` and shapes alone."""

    losses_fn: Callable[..., Any]
    params: Any
    batch: Any


def problem(name: str, batch: int = 100) -> Problem:
    """The problem of a model's name, on ``batch`` images of CIFAR-10's shape."""
    shape = (32, 32, 3)
    model = create_model(name, num_classes=10, image_shape=shape)
    params, state = jax.eval_shape(model.init, jax.random.key(0))

    def losses_fn(params, batch):
        fixed = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), state)
        logits, new_state = model.apply(params, fixed, batch["x"], train=True)
        aux = {"logits": logits, "model_state": new_state}
        return losses.cross_entropy(logits, batch["label"]), aux

    images = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return Problem(losses_fn, params, {"x": images, "label": labels})


def lower(problem: Problem, form: Callable[..., Any]) -> Any:
    """The lowered step: the gradient that ``form`` makes, and gradient descent."""
    gradient = form(problem.losses_fn, 0.1)

    def step(params, batch, clean):
        (loss, aux), grads = gradient(params, batch, clean)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        return params, aux["model_state"], loss

    return jax.jit(step, donate_argnums=0).lower(problem.params, problem.batch, problem.batch)


def instructions(lowered: Any) -> int:
    """How many instructions a lowered program has."""
    return lowered.as_text().count(" = ")
