"""The plain and the reweighted step, lowered from shapes alone: how large the programs are."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmark import ours
from experiments.benchmark.setting import Setting
from l2rw_jax import losses
from l2rw_jax.models import create_model

STEPS: dict[str, Callable[..., Any]] = {"plain": ours.plain, "l2rw": ours.forward}
CLASSES, TOKENS, PATCH = 10, 64, 48  # 32x32x3 in patches of 4x4


class Problem(NamedTuple):
    """What is compiled: ``losses_fn(params, batch) -> (losses [b], state)`` and shapes alone."""

    losses_fn: Callable[..., Any]
    params: Any
    batch: Any


def problem(name: str, batch: int = 100) -> Problem:
    """The problem of a model's name, on ``batch`` images of CIFAR-10's shape."""
    label = jax.ShapeDtypeStruct((batch,), jnp.int32)
    if match := re.fullmatch(r"scan-([1-9]\d*)-([1-9]\d*)", name):
        width, layers = map(int, match.groups())
        patches = jax.ShapeDtypeStruct((batch, TOKENS, PATCH), jnp.float32)
        return Problem(
            lambda params, x: (losses.cross_entropy(transformer(params, x["x"]), x["y"]), ()),
            transformer_params(width, layers),
            {"x": patches, "y": label},
        )
    setting = Setting(name, (32, 32, 3), CLASSES, batch, batch)
    model = create_model(name, num_classes=CLASSES, image_shape=setting.image_shape)
    params, state = jax.eval_shape(model.init, jax.random.key(0))

    def losses_fn(params, batch):
        fixed = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), state)
        logits, new_state = model.apply(params, fixed, batch["x"], train=True)
        return losses.cross_entropy(logits, batch["y"]), new_state

    images = jax.ShapeDtypeStruct((batch, *setting.image_shape), jnp.float32)
    return Problem(losses_fn, params, {"x": images, "y": label})


def transformer_params(width: int, layers: int) -> Any:
    """Shapes of the parameters of ``transformer``, the layers' stacked."""
    shapes = {
        "embed": (PATCH, width),
        "blocks": {
            "attention": (layers, width, 3 * width),
            "project": (layers, width, width),
            "up": (layers, width, 4 * width),
            "down": (layers, 4 * width, width),
        },
        "head": (width, CLASSES),
    }
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def transformer(params: Any, patches: jax.Array) -> jax.Array:
    """Logits ``[b, CLASSES]`` of patches ``[b, TOKENS, PATCH]``: pre-norm blocks, in a scan."""
    normalize = jax.nn.standardize

    def block(x: jax.Array, weights: Any) -> tuple[jax.Array, None]:
        query, key, value = jnp.split(normalize(x) @ weights["attention"], 3, axis=-1)
        similarities = query @ key.swapaxes(1, 2) / x.shape[-1] ** 0.5
        x = x + jax.nn.softmax(similarities) @ value @ weights["project"]
        return x + jax.nn.gelu(normalize(x) @ weights["up"]) @ weights["down"], None

    x, _ = jax.lax.scan(block, patches @ params["embed"], params["blocks"])
    return normalize(x).mean(1) @ params["head"]


def lower(problem: Problem, form: Callable[..., Any]) -> Any:
    """The lowered step: the gradient that ``form`` makes, and gradient descent."""
    gradient = form(problem.losses_fn)

    def step(params, batch, clean):
        (loss, state), grads = gradient(params, batch, clean)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), state, loss

    return jax.jit(step, donate_argnums=0).lower(problem.params, problem.batch, problem.batch)


def instructions(lowered: Any) -> int:
    """How many instructions a lowered program has."""
    return lowered.as_text().count(" = ")
