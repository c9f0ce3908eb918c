"""Reads the traced program of the losses: its tangents, and the precision it computes in."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import optax

from l2rw_jax._partition import Pick, Put
from l2rw_jax._types import Losses, LossesAndAux, Pullback

_NO_FORWARD_DERIVATIVE = (
    "per_example_loss_fn: mode='forward' cannot differentiate a jax.custom_vjp function (flash "
    "attention is one); use mode='finite_difference', which takes no derivative of it, "
    "mode='reverse' if its backward pass can be differentiated, or a mask of the layers behind it "
    "alone."
)


def tangents_and_vjp(
    losses_fn: LossesAndAux,
    params: optax.Params,
    direction: list[jax.Array],
    pick: Pick,
    put: Put,
    *,
    several: bool = False,
) -> tuple[jax.Array, jax.Array, Any, Pullback]:
    """The losses, their tangents along ``direction``, what comes beside them, and their pullback.

    With ``several``, the leaves of ``direction`` have a leading axis, and so have the tangents.

    The derivative is taken of the program that computes losses and tangents at once, and of its
    losses alone: so the forward pass is one, also where it is a loop, in which the compiler could
    not merge two. Under ``jax.checkpoint`` it also needs no pass of its own to be computed again.

    Raises:
      TypeError: the tangents need a forward derivative that a ``jax.custom_vjp`` function lacks.
    """

    def along(params: optax.Params) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        def one(direction: list[jax.Array]) -> tuple[jax.Array, jax.Array, Any]:
            moving = pick(params)
            return jax.jvp(lambda x: losses_fn(put(params, x)), (moving,), (direction,), True)

        every = jax.vmap(one, out_axes=(None, 0, None)) if several else one
        losses, tangents, aux = every(direction)
        return losses, (tangents, aux)

    with _custom_vjp_named():
        losses, pullback, (tangents, aux) = jax.vjp(along, params, has_aux=True)
    return losses, tangents, aux, pullback


def tangents_later(
    jvp: Callable[[optax.Params], Any], params: optax.Params, pick: Pick, put: Put
) -> Callable[[list[jax.Array]], jax.Array]:
    """Returns ``direction -> [b]``, the linear map ``jvp`` on parameters of which only some move.

    For a direction that is known only after the pullback. It is the map's own derivative by the
    parameters that move: the tangents of the others are left out, where the map itself would
    compute with zeros. Compiled, as nothing reads its value at zero.

    Raises:
      TypeError: the map needs a forward derivative that a ``jax.custom_vjp`` function lacks.
    """
    zeros = optax.tree.zeros_like(params)

    @jax.jit
    def tangents(direction: list[jax.Array]) -> Any:
        return jax.jvp(lambda moving: jvp(put(zeros, moving)), (pick(zeros),), (direction,))[1]

    def evaluate(direction: list[jax.Array]) -> jax.Array:
        with _custom_vjp_named():
            values: jax.Array = tangents(direction)
            return values

    return evaluate


@contextlib.contextmanager
def _custom_vjp_named() -> Iterator[None]:
    """Says what to do where JAX says that a ``jax.custom_vjp`` function has no jvp."""
    try:
        yield
    except (TypeError, NotImplementedError) as error:
        # Of the function itself, or of its linear part in a program that is differentiated again.
        if "custom_vjp" not in str(error) and "custom_lin" not in str(error):
            raise
        raise TypeError(_NO_FORWARD_DERIVATIVE) from None


def coarsest_epsilon(losses_fn: Losses, params: list[jax.Array]) -> float:
    """The machine epsilon of the coarsest floating dtype that the losses are computed in."""
    jaxpr = jax.make_jaxpr(losses_fn)(params).jaxpr
    arrays = [v.aval for equation in _equations(jaxpr) for v in equation.outvars]
    dtypes = {x.dtype for x in (*params, *arrays) if hasattr(x, "dtype")}
    return max(float(jnp.finfo(d).eps) for d in dtypes if jnp.issubdtype(d, jnp.floating))


def _equations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a program and of those inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from _equations(inner)
