"""The reweighted gradient as an Optax transformation that stands first in a chain."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from l2rw_jax import _validate
from l2rw_jax._types import AxisName, LookaheadMask
from l2rw_jax.gradients import ReweightAux, reweighted
from l2rw_jax.scores import Lookahead, linearize_and_score
from l2rw_jax.weights import example_weights


class ReweightInfo(NamedTuple):
    """Figures of the last update, over the whole batch.

    Attributes:
      loss: the weighted training loss.  # shape=(), dtype=float32
      clean_loss: the clean loss at the look-ahead of gradient zero.  # shape=(), dtype=float32
      num_active: examples with a weight above zero.  # shape=(), dtype=int32
      effective_sample_size: 1 / sum of squared weights, or 0.  # shape=(), dtype=float32
      num_nonfinite: examples whose score was not finite.  # shape=(), dtype=int32
    """

    loss: jax.Array
    clean_loss: jax.Array
    num_active: jax.Array
    effective_sample_size: jax.Array
    num_nonfinite: jax.Array


_INFO_DTYPES = jnp.float32, jnp.float32, jnp.int32, jnp.float32, jnp.int32


class ReweightState(NamedTuple):
    """State of ``reweight``.

    Attributes:
      inner_state: state of the look-ahead optimizer, updated with the real weighted gradients.
      info: figures of the last update.
    """

    inner_state: optax.OptState
    info: ReweightInfo


def reweight(
    inner: optax.GradientTransformation | None = None,
    *,
    mode: str = "forward",
    lookahead_mask: LookaheadMask = None,
    min_weight: ArrayLike = 0.0,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Replaces the updates by the gradient of the loss that the clean data reweights.

    .. math:: \nabla_\theta \textstyle\sum_i w_i \ell_i(\theta), \qquad w \text{ of Eqs. 6-8}

    Put it first in an ``optax.chain`` and the optimizer after it; docs/reference/optimizers.md
    lists which work. It computes the gradient itself and ignores the updates it is given; pass
    None. Four traps: ``optax.MultiSteps`` *around* it keeps only the last micro-batch's gradient
    (put it around what follows in the chain); ``optax.masked`` and ``optax.partition`` around it
    hide parameters from the losses; momentum or weight decay after it still moves the parameters
    when every weight is zero; a NaN input gets weight zero but may still make the gradient NaN (put
    ``optax.apply_if_finite`` around what follows).

    Args:
      inner: the look-ahead optimizer, its state updated with the real weighted gradients; None is
        plain SGD. ``init`` refuses one without a usable derivative at gradient zero.
      mode: ``"forward"``, ``"reverse"`` or ``"finite_difference"`` (see ``example_scores``).
      lookahead_mask: the parameters that move in the look-ahead (see ``example_scores``): leave out
        those that the optimizer after it freezes.
      min_weight: the least rectified score (see ``example_weights``).
      axis_name: name of a mapped axis that divides both batches evenly; the update is that of the
        whole batch.

    Returns:
      A transformation whose ``update(updates, state, params, *, per_example_loss_fn, clean_loss_fn,
      **extra_args)`` takes the two losses as functions of the parameters alone.

    Raises:
      ValueError, TypeError: an argument does not fit, or at ``init`` the derivative of ``inner``.

    >>> import jax.numpy as jnp, optax
    >>> x, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, -3.0])  # the last label is wrong
    >>> tx = optax.chain(reweight(), optax.sgd(0.1, momentum=0.9))
    >>> w = jnp.array(0.5)
    >>> state = tx.init(w)
    >>> updates, state = tx.update(None, state, w, per_example_loss_fn=lambda w: (w * x - y) ** 2,
    ...                            clean_loss_fn=lambda w: (w - 1.0) ** 2)
    >>> print(optax.apply_updates(w, updates), state[0].info.num_active)
    0.84000003 2
    """
    _validate.check_options(inner, mode, min_weight)

    def init_fn(params: optax.Params) -> ReweightState:
        _validate.check_params(params)
        inner_state = optax.EmptyState() if inner is None else inner.init(params)
        _validate.check_derivative(inner, inner_state, params, lookahead_mask)
        info = ReweightInfo(*(jnp.zeros((), dtype) for dtype in _INFO_DTYPES))
        return ReweightState(inner_state, info)

    def update_fn(
        updates: optax.Updates | None,
        state: ReweightState,
        params: optax.Params | None = None,
        *,
        per_example_loss_fn: Any = None,
        clean_loss_fn: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ReweightState]:
        del updates
        _validate.check_loss_functions(per_example_loss_fn, clean_loss_fn, extra_args)
        _validate.check_params(params)
        _validate.check_axis_name(axis_name)
        optimizer, inner_state = _validate.resolve_inner(
            inner, None if inner is None else state.inner_state, params
        )
        lookahead = Lookahead(optimizer, inner_state, mode, lookahead_mask, axis_name)
        scored = linearize_and_score(
            lambda params: (per_example_loss_fn(params), None), clean_loss_fn, params, lookahead
        )
        weights = example_weights(scored[0], min_weight=min_weight, axis_name=axis_name)
        (loss, aux), grads = reweighted(scored, weights, axis_name)
        _, inner_state = optimizer.update(grads, inner_state, params)
        return grads, ReweightState(inner_state, _info(loss, aux, axis_name))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _info(loss: jax.Array, aux: ReweightAux, axis_name: AxisName) -> ReweightInfo:
    weights = aux.weights.astype(jnp.float32)
    totals = jax.tree.map(jnp.sum, (weights > 0, ~jnp.isfinite(aux.scores), jnp.square(weights)))
    if axis_name is not None:
        totals = jax.lax.psum(totals, axis_name)
    num_active, num_nonfinite, squares = totals
    sample_size = jnp.where(squares > 0, 1 / jnp.where(squares > 0, squares, 1), 0)
    info = loss, aux.clean_loss, num_active, sample_size, num_nonfinite
    # Whatever the losses' dtype is, the state keeps the types it was given at init.
    return ReweightInfo(*(x.astype(dtype) for x, dtype in zip(info, _INFO_DTYPES, strict=True)))
