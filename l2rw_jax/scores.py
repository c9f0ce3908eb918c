r"""The score of an example: minus the meta-gradient of its weight (paper Eqs. 4-6, Algorithm 1).

Let :math:`h(g) = L_{clean}(\theta + U(g, s, \theta))`, the clean loss after a look-ahead update by
a gradient :math:`g`. By the chain rule :math:`u_i = -\langle v, \nabla \ell_i(\theta) \rangle`
with :math:`v = \nabla h(0)`: minus the derivative of each loss in the direction :math:`v`. Forward
mode computes it by one Jacobian-vector product, finite differences by two more forward passes.
Reverse mode transposes the losses' pullback: reverse over reverse, as Algorithm 1.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2rw_jax import _validate
from l2rw_jax._partition import Pick, Put, partition
from l2rw_jax._passes import after, vary
from l2rw_jax._tangents import coarsest_epsilon, tangents_and_vjp
from l2rw_jax._types import (
    AxisName,
    CleanLosses,
    Losses,
    LossesAndAux,
    Mask,
    Pullback,
    at_least_float32,
)


@_validate.renamed(inner="lookahead", inner_state="lookahead_state", lookahead_mask="mask")
def example_scores(
    per_example_loss_fn: Losses,
    clean_loss_fn: CleanLosses,
    params: optax.Params,
    *,
    lookahead: optax.GradientTransformation | None = None,
    lookahead_state: optax.OptState | None = None,
    mode: str = "forward",
    mask: Mask = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Scores each training example by how much its weight would lower the clean loss.

    .. math:: u_i = -\frac{\partial}{\partial \epsilon_i} L_{clean}\big(\theta + U(\textstyle\sum_j
              \epsilon_j \nabla \ell_j(\theta), s, \theta)\big) \Big|_{\epsilon = 0}
              \qquad \text{(Eqs. 4-6)}

    Args:
      per_example_loss_fn: ``params -> [b]``, the training losses :math:`\ell_i`.
      clean_loss_fn: ``params -> [m]``, the losses of the clean batch, or ``[]``, their mean
        :math:`L_{clean}`.
      params: the parameters :math:`\theta`, any pytree of floating arrays.
      lookahead: the optimizer :math:`U` of the look-ahead step, any
        ``optax.GradientTransformation`` with a derivative at gradient zero; None is SGD (whose rate
        cancels in the weights).
      lookahead_state: the state :math:`s` of ``lookahead``; may be left out if it holds no arrays.
      mode: ``"forward"`` (one Jacobian-vector product), ``"reverse"`` (as Algorithm 1; the same
        values to rounding) or ``"finite_difference"`` (an approximation, for losses without a
        forward derivative: see docs/explanation/modes.md).
      mask: pytree of bools like ``params`` (or a prefix of it), or a function of ``params`` that
        returns one: only parameters under True move in the look-ahead. None is all.
      axis_name: mapped axis (or a tuple of them) that divides both batches evenly.

    Returns:
      ``[b]`` scores in the losses' dtype, but at least float32; with ``axis_name``, this part of
      the whole batch's. One that is larger than the largest float is that.

    Raises:
      ValueError, TypeError: an argument, or at trace time a loss's shape or type, does not fit.

    >>> import jax.numpy as jnp
    >>> x, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, -3.0])  # the last label is wrong
    >>> print(example_scores(lambda w: (w * x - y) ** 2, lambda w: (w - 1.0) ** 2, 0.5))
    [  1.   4. -27.]
    """
    _validate.check_options(lookahead, mode)
    _validate.check_axis_name(axis_name)
    _validate.check_params(params)
    optimizer, state = _validate.resolve_lookahead(lookahead, lookahead_state, params)
    _validate.check_derivative(lookahead, params, mask, state)
    return linearize_and_score(
        lambda params: (per_example_loss_fn(params), None),
        clean_loss_fn,
        params,
        optimizer,
        state,
        mode=mode,
        mask=mask,
        axis_name=axis_name,
    ).scores


class Scored(NamedTuple):
    """The scores, and what one linearisation of the losses gives beside them.

    Attributes:
      relative: the scores in a unit in which none of them overflows.  # shape=(b,)
      unit: that unit.  # shape=()
      losses: the losses.  # shape=(b,)
      clean_loss: the mean clean loss after a look-ahead step of gradient zero.  # shape=()
      aux: what the losses' function returned beside them.
      pullback: from ``[b]`` to the gradient by all parameters.
    """

    relative: jax.Array
    unit: jax.Array
    losses: jax.Array
    clean_loss: jax.Array
    aux: Any
    pullback: Pullback

    @property
    def scores(self) -> jax.Array:
        """The scores; one that is larger than the largest float is that.  # shape=(b,)"""
        limit = jnp.finfo(self.relative.dtype).max
        scores = jnp.clip(self.relative * self.unit, -limit, limit)
        return jnp.where(jnp.isfinite(self.relative), scores, self.relative)


def linearize_and_score(
    losses_fn: LossesAndAux,
    clean_losses_fn: CleanLosses,
    params: optax.Params,
    lookahead: optax.GradientTransformation,
    lookahead_state: optax.OptState,
    *,
    mode: str,
    mask: Mask,
    axis_name: AxisName,
) -> Scored:
    """Scores the examples by the forward pass of the losses that also gives the gradient."""
    params = vary(params, axis_name)
    pick, put = partition(params, mask)
    losses_fn = _validate.checked(losses_fn)
    zeros = optax.tree.zeros_like(params)
    clean_loss, direction = clean_direction(
        clean_losses_fn, params, lookahead, lookahead_state, zeros, pick, put
    )
    params = put(params, after(direction, pick(params)))
    if axis_name is not None:
        clean_loss, direction = jax.lax.pmean((clean_loss, direction), axis_name)
        direction = vary(direction, axis_name)
    # The scores' scale cancels in the weights, so it must not overflow where losses are scaled.
    direction, unit = scaled(direction)
    if mode == "forward":
        losses, slopes, aux, pullback = tangents_and_vjp(losses_fn, params, direction, pick, put)
    else:
        losses, pullback, aux = jax.vjp(losses_fn, params, has_aux=True)
    if mode == "reverse":
        _, transposed = jax.vjp(lambda epsilon: pick(pullback(epsilon)[0]), jnp.zeros_like(losses))
        (slopes,) = transposed(direction)
    elif mode == "finite_difference":
        slopes = _central_differences(
            lambda moved: losses_fn(put(params, moved))[0], pick(params), direction
        )
    relative = -at_least_float32(slopes)
    return Scored(relative, unit.astype(relative.dtype), losses, clean_loss, aux, pullback)


def clean_direction(
    clean_losses_fn: CleanLosses,
    params: optax.Params,
    lookahead: optax.GradientTransformation,
    lookahead_state: optax.OptState,
    grads: optax.Updates,
    pick: Pick,
    put: Put,
) -> tuple[jax.Array, list[jax.Array]]:
    """The mean clean loss after a look-ahead step by ``grads``, and its gradient by these.

    Only the parameters that ``pick`` chooses move, and the gradient is by theirs alone.
    """

    def lookahead_loss(moving: list[jax.Array]) -> jax.Array:
        every = put(optax.tree.zeros_like(params), moving)
        updates, _ = lookahead.update(every, lookahead_state, params)
        moved = optax.apply_updates(pick(params), pick(updates))
        return _validate.mean_clean_loss(clean_losses_fn(put(params, moved)))

    value: tuple[jax.Array, list[jax.Array]] = jax.value_and_grad(lookahead_loss)(pick(grads))
    return value


def scaled(direction: Any) -> tuple[Any, jax.Array]:
    """A direction (or several, alike) in a unit in which products with gradients do not overflow.

    The unit is a power of two, so nothing is rounded, and at least 16 times the largest entry times
    the root of their number. That is more than 16 times the norm, so a product is at most a
    sixteenth of the gradient's norm. (The norm itself would need one more pass over the entries,
    for which XLA's CPU scheduler keeps a second copy of them.)
    """
    leaves = jax.tree.leaves(direction)
    entries = (jnp.max(jnp.abs(at_least_float32(v)), initial=0) for v in leaves)
    largest = functools.reduce(jnp.maximum, entries)
    largest = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    largest = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1)  # or up to its double
    length = 2.0 ** (5 + math.ceil(math.log2(sum(v.size for v in leaves)) / 2))

    def shrunk(v: jax.Array) -> jax.Array:
        wide = at_least_float32(v)
        return (wide / largest.astype(wide.dtype) / length).astype(v.dtype)

    unit = jnp.minimum(largest * length, jnp.finfo(largest.dtype).max)
    return jax.tree.map(shrunk, direction), unit


def _central_differences(
    losses_fn: Losses, params: list[jax.Array], direction: list[jax.Array]
) -> jax.Array:
    r"""The derivatives of the losses in a direction, approximately.

    .. math:: (\ell(\theta + h v) - \ell(\theta - h v)) / 2h, \qquad
              h = 0.03 \, \epsilon^{1/3} \lVert \theta \rVert / \lVert v \rVert

    The rounding error is of the order of :math:`\epsilon / h` with the machine epsilon of the
    coarsest dtype that the losses are computed in, the truncation error of :math:`h^2`. The factor
    is measured (docs/explanation/modes.md).
    """
    start, along = jax.tree.map(at_least_float32, (params, direction))
    size, length = optax.tree.norm(start), optax.tree.norm(along)
    step = 0.03 * coarsest_epsilon(losses_fn, params) ** (1 / 3)
    step *= jnp.where(size > 0, size, 1) / jnp.where(length > 0, length, 1)

    def at(step: jax.Array) -> jax.Array:
        triples = zip(params, start, along, strict=True)
        return losses_fn([(x + step.astype(x.dtype) * v).astype(p.dtype) for p, x, v in triples])

    ahead, behind = at(step), at(-step)
    difference = at_least_float32(ahead) - at_least_float32(behind)
    slopes: jax.Array = difference / (2 * step).astype(difference.dtype)
    return slopes
