"""The types of the method's arguments, and the precision it computes in."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

AxisName = str | tuple[str, ...] | None
Mask = Any  # a pytree of bools, a prefix of one, or a function of the parameters
Losses = Callable[[optax.Params], jax.Array]  # params -> [b]
CleanLosses = Callable[[optax.Params], jax.Array]  # params -> [m], or [], their mean
LossesAndAux = Callable[[optax.Params], tuple[jax.Array, Any]]
Pullback = Callable[[jax.Array], tuple[optax.Updates]]  # [b] -> (gradient,)


class LossFn(Protocol):
    """A batch's losses, ``[b]`` (and aux with ``has_aux``); of a clean batch also their mean."""

    def __call__(self, params: optax.Params, batch: Any, /) -> Any:
        """Returns the loss."""


class ValueAndGrad(Protocol):
    """A function for the reweighted loss, what it was made of, and its gradient."""

    def __call__(
        self,
        params: optax.Params,
        batch: Any,
        clean_batch: Any,
        *,
        lookahead_state: optax.OptState | None = None,
    ) -> tuple[tuple[jax.Array, Any], optax.Updates]:
        """Returns ``((loss, ReweightAux), grads)``."""


def at_least_float32(x: jax.Array) -> jax.Array:
    """A floating array in its own dtype, or in float32 if that is coarser."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
