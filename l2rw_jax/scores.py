r"""The score of an example: minus the meta-gradient of its weight (paper Eqs. 4-6, Algorithm 1).

Let :math:`h(g) = L_{clean}(\theta + U(g, s, \theta))`, the clean loss after an inner update by a
gradient :math:`g`. By the chain rule :math:`u_i = -\langle v, \nabla \ell_i(\theta) \rangle` with
:math:`v = \nabla h(0)`: minus the derivative of each loss in the direction :math:`v`. Forward mode
computes it by one Jacobian-vector product, finite differences by two more forward passes. Reverse
mode is Algorithm 1 as written, reverse over reverse.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2rw_jax import _validate
from l2rw_jax._partition import partition
from l2rw_jax._passes import after, vary
from l2rw_jax._tangents import coarsest_epsilon, tangents_and_vjp
from l2rw_jax._types import (
    AxisName,
    CleanLoss,
    LookaheadMask,
    Losses,
    LossesAndAux,
    Pullback,
    at_least_float32,
)


def example_scores(
    per_example_loss_fn: Losses,
    clean_loss_fn: CleanLoss,
    params: optax.Params,
    *,
    inner: optax.GradientTransformation | None = None,
    inner_state: optax.OptState | None = None,
    mode: str = "forward",
    lookahead_mask: LookaheadMask = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Scores each training example by how much its weight would lower the clean loss.

    .. math:: u_i = -\frac{\partial}{\partial \epsilon_i} L_{clean}\big(\theta + U(\textstyle\sum_j
              \epsilon_j \nabla \ell_j(\theta), s, \theta)\big) \Big|_{\epsilon = 0}
              \qquad \text{(Eqs. 4-6)}

    Args:
      per_example_loss_fn: ``params -> [b]``, the training losses :math:`\ell_i`.
      clean_loss_fn: ``params -> []``, the mean loss :math:`L_{clean}` on the clean batch.
      params: the parameters :math:`\theta`, any pytree of floating arrays.
      inner: the optimizer :math:`U` of the look-ahead step, any ``optax.GradientTransformation``
        with a derivative at gradient zero; None is SGD (whose rate cancels in the weights).
      inner_state: the state :math:`s` of ``inner``; may be left out if it holds no arrays.
      mode: ``"forward"`` (one Jacobian-vector product), ``"reverse"`` (Algorithm 1 as written; the
        same values to rounding) or ``"finite_difference"`` (an approximation, for losses without a
        forward derivative: see docs/explanation/modes.md).
      lookahead_mask: pytree of bools like ``params`` (or a prefix of it), or a function of
        ``params`` that returns one: only parameters under True move in the look-ahead. None is all.
      axis_name: mapped axis (or a tuple of them) that divides both batches evenly.

    Returns:
      ``[b]`` scores in the losses' dtype; with ``axis_name``, this part of the whole batch's.

    Raises:
      ValueError, TypeError: an argument, or at trace time a loss's shape or type, does not fit.

    >>> import jax.numpy as jnp
    >>> x, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, -3.0])  # the last label is wrong
    >>> print(example_scores(lambda w: (w * x - y) ** 2, lambda w: (w - 1.0) ** 2, 0.5))
    [  1.   4. -27.]
    """
    _validate.check_options(inner, mode)
    _validate.check_axis_name(axis_name)
    _validate.check_params(params)
    optimizer, state = _validate.resolve_inner(inner, inner_state, params)
    _validate.check_derivative(inner, state, params, lookahead_mask)
    lookahead = Lookahead(optimizer, state, mode, lookahead_mask, axis_name)
    return linearize_and_score(
        lambda params: (per_example_loss_fn(params), None), clean_loss_fn, params, lookahead
    )[0]


class Lookahead(NamedTuple):
    """How to look ahead: the options that the public functions share.

    Attributes:
      inner: the optimizer of the look-ahead step.
      inner_state: its state.
      mode: how the scores are computed.
      mask: which parameters move.
      axis_name: the mapped axis that divides both batches.
    """

    inner: optax.GradientTransformation
    inner_state: optax.OptState
    mode: str
    mask: LookaheadMask
    axis_name: AxisName


Scored = tuple[jax.Array, jax.Array, jax.Array, Any, Pullback]


def linearize_and_score(
    losses_fn: LossesAndAux, clean_loss_fn: CleanLoss, params: optax.Params, lookahead: Lookahead
) -> Scored:
    """Scores the examples by the forward pass of the losses that also gives the gradient.

    Returns:
      Scores ``[b]``, losses ``[b]``, the clean loss at the look-ahead of gradient zero, what
      ``losses_fn`` returned beside the losses, and their pullback to all parameters.
    """
    inner, inner_state, mode, mask, axis_name = lookahead
    params = vary(params, axis_name)
    pick, put = partition(params, mask)

    def checked_losses_fn(params: optax.Params) -> tuple[jax.Array, Any]:
        losses, aux = losses_fn(params)
        return _validate.check_per_example("per_example_loss_fn's result", losses), aux

    def lookahead_loss(grads: list[jax.Array]) -> jax.Array:
        """The clean loss after one inner update, of the gradient by the parameters that move."""
        every = put(optax.tree.zeros_like(params), grads)
        updates, _ = inner.update(every, inner_state, params)
        moved = optax.apply_updates(pick(params), pick(updates))
        loss = clean_loss_fn(put(params, moved))
        return _validate.check_scalar("clean_loss_fn's result", loss)

    if mode == "reverse":
        losses, pullback, aux = jax.vjp(checked_losses_fn, params, has_aux=True)
        clean_loss, scores = _reverse(
            lambda epsilon: pick(pullback(epsilon)[0]), losses, lookahead_loss, axis_name
        )
        return scores, losses, clean_loss, aux, pullback

    zeros = optax.tree.zeros_like(pick(params))
    clean_loss, direction = jax.value_and_grad(lookahead_loss)(zeros)
    params = put(params, after(direction, pick(params)))
    if axis_name is not None:
        clean_loss, direction = jax.lax.pmean((clean_loss, direction), axis_name)
        direction = vary(direction, axis_name)
    if mode == "forward":
        losses, tangents, aux, pullback = tangents_and_vjp(
            checked_losses_fn, params, direction, pick, put
        )
        return -tangents, losses, clean_loss, aux, pullback
    losses, pullback, aux = jax.vjp(checked_losses_fn, params, has_aux=True)
    slopes = _central_differences(
        lambda moved: checked_losses_fn(put(params, moved))[0], pick(params), direction
    )
    return -slopes, losses, clean_loss, aux, pullback


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
    # In units of the direction's largest entry, as the square of a tiny one would vanish.
    unit = functools.reduce(jnp.maximum, (jnp.max(jnp.abs(v), initial=0) for v in along))
    unit = jnp.where(unit > 0, unit, 1)
    along = [v / unit.astype(v.dtype) for v in along]
    size, length = optax.tree.norm(start), optax.tree.norm(along)
    step = 0.03 * coarsest_epsilon(losses_fn, params) ** (1 / 3)
    step *= jnp.where(size > 0, size, 1) / jnp.where(length > 0, length, 1)

    def at(step: jax.Array) -> jax.Array:
        triples = zip(params, start, along, strict=True)
        return losses_fn([(x + step.astype(x.dtype) * v).astype(p.dtype) for p, x, v in triples])

    ahead, behind = at(step), at(-step)
    difference = at_least_float32(ahead) - at_least_float32(behind)
    slopes: jax.Array = difference / (2 * step).astype(difference.dtype)
    slopes *= unit.astype(slopes.dtype)
    return slopes.astype(ahead.dtype)


def _reverse(
    pullback: Callable[[jax.Array], list[jax.Array]],
    losses: jax.Array,
    lookahead_loss: Callable[[list[jax.Array]], jax.Array],
    axis_name: AxisName,
) -> tuple[jax.Array, jax.Array]:
    """Value of the look-ahead loss and the scores, by Algorithm 1: reverse over reverse mode."""

    def meta_loss(epsilon: jax.Array) -> jax.Array:
        grads = pullback(epsilon)
        if axis_name is None:
            return lookahead_loss(grads)
        # psum's transpose is psum, so each device gives its share of the mean over devices.
        return lookahead_loss(jax.lax.psum(grads, axis_name)) / jax.lax.axis_size(axis_name)

    clean_loss, slopes = jax.value_and_grad(meta_loss)(vary(jnp.zeros_like(losses), axis_name))
    if axis_name is not None:
        clean_loss = jax.lax.psum(clean_loss, axis_name)
    return clean_loss, -slopes
