"""Loss functions that compute a batch in parts, to hold the activations of one part at a time."""

from typing import Any

import jax
import numpy as np
import optax

from l2rw_jax._types import LossFn


def in_micro_batches(
    per_example_loss_fn: LossFn, clean_loss_fn: LossFn | None, size: int, *, has_aux: bool
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
        parts = _split("batch", batch, size)
        result = map_parts(per_example_loss_fn, params, parts)
        if not has_aux or not isinstance(result, tuple) or len(result) != 2:
            return _join_losses(result)  # if a pair is missing, the caller says so
        rows = jax.tree.leaves(parts)[0].shape[1]
        aux = jax.tree.map(lambda x: _join(x) if x.shape[1:2] == (rows,) else x, result[1])
        return _join_losses(result[0]), aux

    def clean_losses(params: optax.Params, clean_batch: Any) -> Any:
        assert clean_loss_fn is not None  # a weighting that needs none does not call this
        result = map_parts(clean_loss_fn, params, _split("clean_batch", clean_batch, size))
        return result.mean(0) if getattr(result, "ndim", 0) == 1 else _join_losses(result)

    return losses, clean_losses


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


def _join_losses(losses: Any) -> Any:
    """The losses ``[parts, size]`` in the order of the batch, ``[b]``; others as of one part."""
    if getattr(losses, "ndim", None) == 2:
        return _join(losses)
    return losses[0] if hasattr(losses, "ndim") else losses  # refused by the caller


def _join(x: jax.Array) -> jax.Array:
    """Rows ``[parts, size, ...]`` in the order of the batch, ``[b, ...]``."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
