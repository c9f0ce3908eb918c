"""A tiny problem with wrong labels, and a reweighting of it written out by hand.

Three Gaussian blobs in the plane. Of the blobs 1 and 2, 60 % of the training labels say 0, so 40 %
of all labels are wrong, and plain training learns to call every example a 0.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

CLASSES = 3


class Blobs(NamedTuple):
    """Examples as ``{"x": [n, 2], "y": [n]}``.

    Attributes:
      train: 240 examples with wrong labels among them.
      is_wrong: which of these labels are wrong.  # shape=(240,), dtype=bool
      clean: 24 examples with the right labels.
      test: 150 examples with the right labels.
    """

    train: dict[str, np.ndarray]
    is_wrong: np.ndarray
    clean: dict[str, np.ndarray]
    test: dict[str, np.ndarray]


def blobs() -> Blobs:
    """Returns the examples, the same ones every time."""
    rng = np.random.default_rng(0)
    centers = 2.0 * np.array([[1.0, 0.0], [-0.5, 0.87], [-0.5, -0.87]])

    def draw(n: int) -> dict[str, np.ndarray]:
        y = np.arange(n) % CLASSES
        x = centers[y] + 0.5 * rng.normal(size=(n, 2))
        return {"x": x.astype(np.float32), "y": y.astype(np.int32)}

    train, clean, test = draw(240), draw(24), draw(150)
    is_wrong = (train["y"] > 0) & (np.arange(240) // CLASSES % 5 < 3)
    train["y"][is_wrong] = 0
    return Blobs(train, is_wrong, clean, test)


def batches(data: Blobs, steps: int) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Yields a batch of 32 training examples, and which of its labels are wrong."""
    rng = np.random.default_rng(1)
    for _ in range(steps):
        rows = rng.choice(len(data.is_wrong), 32, replace=False)
        yield {name: x[rows] for name, x in data.train.items()}, data.is_wrong[rows]


def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """The losses ``[b]`` of the logits ``[b, 3]``."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def accuracy(logits: jax.Array, y: np.ndarray) -> float:
    """The share of examples whose largest logit is that of their label."""
    return float(np.mean(np.argmax(logits, axis=-1) == y))


def by_hand(losses_fn: Any, params: Any, batch: Any, clean: Any) -> tuple[jax.Array, Any]:
    """Eqs. 4-8 term by term: the weights ``[b]`` and the reweighted gradient.

    The score of an example is the inner product of its gradient and the clean gradient.
    ``losses_fn`` is ``(params, batch) -> [b]``.
    """

    def inner_products(gradients: jax.Array, vector: jax.Array) -> jax.Array:
        return jnp.tensordot(gradients, vector, axes=vector.ndim)

    gradients = jax.jacrev(losses_fn)(params, batch)
    clean_gradient = jax.grad(lambda params: losses_fn(params, clean).mean())(params)
    scores = sum(jax.tree.leaves(jax.tree.map(inner_products, gradients, clean_gradient)))
    rectified = jnp.maximum(scores, 0.0)
    weights = rectified / rectified.sum()
    return weights, jax.tree.map(lambda g: jnp.tensordot(weights, g, axes=1), gradients)
