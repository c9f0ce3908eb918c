"""The reweighted gradient as an Optax transformation that stands first in a chain."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2rw_jax import _validate
from l2rw_jax._types import AxisName
from l2rw_jax.weightings import ReweightAux, Step, Weighting, l2rw


class ReweightInfo(NamedTuple):
    """Diagnostics of the last update, over the whole batch.

    Attributes:
      loss: the weighted training loss.  # shape=(), dtype=float32
      clean_loss: the mean clean loss (see ``ReweightAux``).  # shape=(), dtype=float32
      num_active: examples with a weight above zero.  # shape=(), dtype=int32
      effective_sample_size: 1 / sum of squared weights, or 0.  # shape=(), dtype=float32
      num_nonfinite: examples whose score was not a finite number; if it is the whole batch, no
        example counted.  # shape=(), dtype=int32
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
      lookahead_state: state of the look-ahead optimizer, updated with the real weighted gradients.
      info: diagnostics of the last update.
    """

    lookahead_state: optax.OptState
    info: ReweightInfo


@_validate.renamed(
    inner="reweight(l2rw(lookahead))",
    mode="reweight(l2rw(mode=...))",
    lookahead_mask="reweight(l2rw(mask=...))",
    min_weight="reweight(l2rw(min_weight=...))",
)
def reweight(
    weighting: Weighting = l2rw(),  # noqa: B008  # frozen
    *,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Replaces the updates by the gradient of the reweighted loss.

    .. math:: \nabla_\theta \textstyle\sum_i w_i \ell_i(\theta), \qquad w \text{ held constant}

    Put it first in an ``optax.chain`` and the optimizer after it: alone it returns the gradient,
    which ``optax.apply_updates`` would ascend. docs/reference/optimizers.md lists which work. It
    computes the gradient itself and ignores the updates it is given; pass None. Five traps: a
    transform *before* it in the chain does nothing (clip after it); ``optax.MultiSteps`` *around*
    it keeps only the last micro-batch's gradient (put it around what follows in the chain);
    ``optax.masked`` and ``optax.partition`` around it hide parameters from the losses; momentum or
    weight decay after it still moves the parameters when every weight is zero; a NaN input gets
    weight zero but may still make the gradient NaN (put ``optax.apply_if_finite`` around what
    follows).

    Args:
      weighting: how the examples are weighted: ``l2rw()``, the paper, ``evidence()``,
        ``learned()`` or ``by_loss()``.
      axis_name: mapped axis (or a tuple of them) that divides both batches evenly; the update is
        that of the whole batch.

    Returns:
      A transformation whose ``update(updates, state, params, *, per_example_loss_fn, clean_loss_fn,
      batch=None, **extra_args)`` takes the losses as functions of the parameters alone:
      ``params -> [b]``, and ``params -> [m]`` or ``[]``, their mean. ``batch`` is for weightings
      that are a function of it.

    Raises:
      ValueError, TypeError: an argument does not fit, or at ``init`` the look-ahead optimizer's
        derivative.

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
    _validate.check_weighting(weighting)

    def init_fn(params: optax.Params) -> ReweightState:
        _validate.check_params(params)
        info = ReweightInfo(*(jnp.zeros((), dtype) for dtype in _INFO_DTYPES))
        return ReweightState(weighting.init(params), info)

    @_validate.renamed(val_loss_fn="clean_loss_fn")
    def update_fn(
        updates: optax.Updates | None,
        state: ReweightState,
        params: optax.Params | None = None,
        *,
        per_example_loss_fn: Any = None,
        clean_loss_fn: Any = None,
        batch: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ReweightState]:
        del updates, extra_args
        _validate.check_loss_functions(per_example_loss_fn, clean_loss_fn, weighting.needs_clean)
        _validate.check_params(params)
        _validate.check_axis_name(axis_name)
        step = Step(
            lambda params: (per_example_loss_fn(params), None),
            clean_loss_fn,
            params,
            batch,
            state.lookahead_state,
            axis_name,
        )
        (loss, aux), grads = weighting.value_and_grad(step)
        lookahead_state = weighting.update(grads, state.lookahead_state, params)
        return grads, ReweightState(lookahead_state, _info(loss, aux, axis_name))

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
