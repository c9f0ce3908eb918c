"""Reads the traced program of the losses: its tangents, and the precision it computes in."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp
import optax
from jax.interpreters import partial_eval

from l2rw_jax._partition import Pick, Put
from l2rw_jax._types import Losses

_NO_FORWARD_DERIVATIVE = (
    "per_example_loss_fn: mode='forward' cannot differentiate a jax.custom_vjp function (flash "
    "attention is one); use mode='finite_difference', which takes no derivative of it, "
    "mode='reverse' if its backward pass can be differentiated, or a mask of the layers behind it "
    "alone."
)


def tangents_along(
    jvp: Callable[[optax.Params], Any], params: optax.Params, pick: Pick, put: Put
) -> Callable[[list[jax.Array]], jax.Array]:
    """Returns ``direction -> [b]``, the linear map ``jvp`` on parameters of which only some move.

    Raises:
      TypeError: the map needs a forward derivative that a ``jax.custom_vjp`` function lacks.
    """
    zeros = optax.tree.zeros_like(params)

    def tangents(direction: list[jax.Array]) -> Any:
        if len(direction) == len(jax.tree.leaves(params)):
            return jvp(put(zeros, direction))
        # The map's own derivative by the parameters that move: JAX leaves out the tangents of the
        # others, where the map itself would compute with zeros.
        return jax.jvp(lambda moving: jvp(put(zeros, moving)), (pick(zeros),), (direction,))[1]

    try:
        closed = jax.make_jaxpr(tangents)(pick(params))
    except NotImplementedError as error:
        if "custom_lin" not in str(error):
            raise
        raise TypeError(_NO_FORWARD_DERIVATIVE) from None
    # Without the map's value at zero, which nothing reads.
    jaxpr, used = partial_eval.dce_jaxpr(closed.jaxpr, [True])
    if any(equation.primitive.name == "custom_lin" for equation in _equations(jaxpr)):
        raise TypeError(_NO_FORWARD_DERIVATIVE)

    def evaluate(direction: list[jax.Array]) -> jax.Array:
        inputs = [x for x, is_used in zip(direction, used, strict=True) if is_used]
        values: list[jax.Array] = jax.core.eval_jaxpr(jaxpr, closed.consts, *inputs)
        return values[0]

    return evaluate


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
