"""Loss functions that compute a batch in parts, to hold the activations of one part at a time."""

from typing import Any

import jax
import numpy as np
import optax

from l2rw_jax._types import LossFn


def in_micro_batches(
    per_example_loss_fn: LossFn, clean_loss_fn: LossFn, size: int, *, has_aux: bool
) -> tuple[LossFn, LossFn]:
    """Returns the two loss functions of whole batches, computed ``size`` examples at a time.

    Each part is computed again in the backward pass (``jax.checkpoint``).
    """
    if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1:
        raise ValueError(f"micro_batch_size: got {size!r}; takes None or an integer of at least 1.")

    def map_parts(fn: LossFn, params: optax.Params, parts: Any) -> Any:
        # Inside a loop the compiler does not undo the recomputation by itself.
        return jax.lax.map(jax.checkpoint(lambda x: fn(params, x), prevent_cse=False), parts)

    def losses(params: optax.Params, batch: Any) -> Any:
        result = map_parts(per_example_loss_fn, params, _split("batch", batch, size))
        if not has_aux:
            return _join(result)
        if not isinstance(result, tuple) or len(result) != 2:
            return result  # refused by the caller, with the reason
        return _join(result[0]), result[1]

    def clean_loss(params: optax.Params, clean_batch: Any) -> Any:
        means = map_parts(clean_loss_fn, params, _split("clean_batch", clean_batch, size))
        return means.mean(0) if hasattr(means, "mean") else means

    return losses, clean_loss


def _split(argument: str, batch: Any, size: int) -> Any:
    """Every array ``[b, ...]`` of a batch as ``[b / size, size, ...]``; one part if b < size."""
    leaves = jax.tree.leaves_with_path(batch)
    for path, x in leaves:
        if np.ndim(x) == 0:
            raise ValueError(
                f"{argument}{jax.tree_util.keystr(path)}: got shape (), which has no example axis; "
                "with micro_batch_size, takes one entry for each example (of a random key: "
                "jax.random.split(key, b)), or close the loss over it."
            )
    counts = {np.shape(x)[0] for _, x in leaves}
    if len(counts) != 1:
        shapes = ", ".join(f"{jax.tree_util.keystr(path)} {np.shape(x)}" for path, x in leaves)
        raise ValueError(
            f"{argument}: got arrays whose first axes differ ({shapes}); with micro_batch_size, "
            "takes arrays that all have the examples as first axis."
        )
    count = counts.pop()
    size = min(size, count)
    if count % size:
        near = max(n for n in range(1, size) if count % n == 0)
        raise ValueError(
            f"micro_batch_size: got {size}, which does not divide the {count} examples of "
            f"{argument}; takes a divisor, for example {near}."
        )

    def parts(x: jax.Array) -> jax.Array:
        # Every part takes rows from all over the batch, so that a batch that is sharded over
        # devices gives parts that are.
        return x.reshape(size, count // size, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(parts, batch)


def _join(losses: Any) -> Any:
    """The losses ``[parts, size]`` in the order of the batch, ``[b]``."""
    if getattr(losses, "ndim", None) != 2:
        return losses if not hasattr(losses, "ndim") else losses[0]  # refused by the caller
    return losses.swapaxes(0, 1).reshape(-1)
