"""Splits the parameters that move in the look-ahead from those that are fixed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from l2rw_jax._types import Mask

Pick = Callable[[Any], list[jax.Array]]
Put = Callable[[Any, list[jax.Array]], Any]


def partition(params: optax.Params, mask: Mask) -> tuple[Pick, Put]:
    """``pick(tree)``, the leaves that move in the look-ahead, and ``put(tree, leaves)``, back."""
    flags = moving_flags(mask, params)

    def pick(tree: Any) -> list[jax.Array]:
        return [x for x, flag in zip(jax.tree.leaves(tree), flags, strict=True) if flag]

    def put(tree: Any, moving: list[jax.Array]) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        new = iter(moving)
        pairs = zip(leaves, flags, strict=True)
        return jax.tree.unflatten(structure, [next(new) if flag else x for x, flag in pairs])

    return pick, put


def moving_flags(mask: Mask, params: optax.Params) -> list[bool]:
    """For each leaf of the parameters, whether it moves in the look-ahead."""
    if mask is None:
        return [True] * len(jax.tree.leaves(params))
    if callable(mask):
        mask = mask(params)
    try:
        flags = jax.tree.leaves(jax.tree.broadcast(mask, params))
    except ValueError as error:
        raise ValueError(
            f"mask: got {jax.tree.structure(mask)}, which is no prefix of the parameters "
            f"{jax.tree.structure(params)}; takes a pytree of bools with their structure or a "
            "prefix of it, or a function of the parameters that returns one."
        ) from error
    if not all(isinstance(flag, bool | np.bool_) for flag in flags):
        kinds = sorted({type(f).__name__ for f in flags if not isinstance(f, bool | np.bool_)})
        raise TypeError(f"mask: got leaves of {', '.join(kinds)}; takes Python bools.")
    if not any(flags):
        raise ValueError(
            "mask: got no True, so nothing would move and every score would be zero; "
            "takes at least one True."
        )
    return flags


_PARAMS_REMEDY = (
    "takes floating arrays: keep everything else out of the parameters (Equinox: "
    "eqx.partition(model, eqx.is_inexact_array); Flax NNX: nnx.split(model, nnx.Param, ...))."
)


def check_params(params: optax.Params) -> None:
    """Raises unless every leaf of the parameters is a floating array, and none is a moment."""
    if params is None:
        raise ValueError("params: got None; takes the pytree of parameters that the losses are of.")
    for path, leaf in jax.tree.leaves_with_path(params, is_leaf=_is_moment):
        where = f"params{jax.tree_util.keystr(path)}"
        if _is_moment(leaf) or not (hasattr(leaf, "dtype") or isinstance(leaf, float)):
            raise TypeError(f"{where}: got {type(leaf).__name__}; {_PARAMS_REMEDY}")
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(f"{where}: got {jnp.result_type(leaf)}; {_PARAMS_REMEDY}")


def _is_moment(node: Any) -> bool:
    """Whether it is BatchNorm's moments in Flax NNX: floating arrays that no gradient moves.

    An optimizer would only decay them, without a word, and the network would fail in evaluation.
    """
    return type(node).__name__ == "BatchStat"
