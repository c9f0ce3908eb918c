"""The reweighted gradient as an Optax transformation that stands first in a chain."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2rw_jax import _validate
from l2rw_jax.gradients import ReweightAux, reweighted_value_and_grad


class ReweightInfo(NamedTuple):
    """Figures of the last update, over the whole batch.

    Attributes:
      loss: the weighted training loss.  # shape=(), dtype=float32
      val_loss: the clean loss at the look-ahead of gradient zero.  # shape=(), dtype=float32
      num_active: examples with a weight above zero.  # shape=(), dtype=int32
      effective_sample_size: 1 / sum of squared weights, or 0.  # shape=(), dtype=float32
      num_nonfinite: examples whose score was not finite.  # shape=(), dtype=int32
    """

    loss: jax.Array
    val_loss: jax.Array
    num_active: jax.Array
    effective_sample_size: jax.Array
    num_nonfinite: jax.Array


_INFO_DTYPES = jnp.float32, jnp.float32, jnp.int32, jnp.float32, jnp.int32


class ReweightState(NamedTuple):
    """State of ``reweight``.

    Attributes:
      count: updates so far.  # shape=(), dtype=int32
      inner_state: state of the look-ahead optimizer, fed with the real weighted gradients.
      info: figures of the last update.
    """

    count: jax.Array  # type: ignore[assignment]  # as in optax, over tuple.count
    inner_state: optax.OptState
    info: ReweightInfo


def reweight(inner=None, *, mode="forward", min_weight=0.0, axis_name=None):
    r"""Replaces the updates by the gradient of the loss that the clean data reweights.

    .. math:: \nabla_\theta \textstyle\sum_i w_i \ell_i(\theta), \qquad w \text{ of Eqs. 6-8}

    It computes the gradient itself, so it stands first in an ``optax.chain`` and passes over the
    updates it is given; None is fine. Any optimizer may follow. Four traps: ``optax.MultiSteps``
    *around* it keeps only the last micro-batch's gradient (put it around what follows in the
    chain); ``optax.masked`` around it hides parameters from the losses; momentum or weight decay
    after it still moves the parameters when every weight is zero; a NaN input gets weight zero but
    may still make the gradient NaN (put ``optax.apply_if_finite`` around what follows).

    Args:
      inner: the look-ahead optimizer, its state fed with the real weighted gradients; None is plain
        SGD. ``init`` refuses one without a usable derivative at gradient zero.
      mode: ``"forward"`` or ``"reverse"`` (see ``example_scores``).
      min_weight: the least rectified score (see ``example_weights``).
      axis_name: name of a mapped axis that divides both batches evenly; the update is the whole's.

    Returns:
      A transformation whose ``update(updates, state, params, *, per_example_loss_fn, val_loss_fn,
      **extra_args)`` takes the two losses as functions of the parameters alone.

    Raises:
      ValueError, TypeError: an argument does not fit, or at ``init`` the derivative of ``inner``.

    >>> import jax.numpy as jnp, optax
    >>> x, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, -3.0])  # the last label is wrong
    >>> tx = optax.chain(reweight(), optax.sgd(0.1, momentum=0.9))
    >>> w = jnp.array(0.5)
    >>> state = tx.init(w)
    >>> updates, state = tx.update(None, state, w, per_example_loss_fn=lambda w: (w * x - y) ** 2,
    ...                            val_loss_fn=lambda w: (w - 1.0) ** 2)
    >>> print(optax.apply_updates(w, updates), state[0].info.num_active)
    0.84000003 2
    """
    _validate.check_options(inner, mode, min_weight)
    reweighted = functools.partial(
        reweighted_value_and_grad,
        inner=inner,
        mode=mode,
        min_weight=min_weight,
        axis_name=axis_name,
    )
    follower = optax.identity() if inner is None else inner

    def init_fn(params):
        inner_state = follower.init(params)
        _validate.check_derivative(inner, inner_state, params)
        info = ReweightInfo(*(jnp.zeros((), dtype) for dtype in _INFO_DTYPES))
        return ReweightState(jnp.zeros((), jnp.int32), inner_state, info)

    def update_fn(updates, state, params=None, *, per_example_loss_fn, val_loss_fn, **extra_args):
        value_and_grad = reweighted(
            lambda params, _: per_example_loss_fn(params), lambda params, _: val_loss_fn(params)
        )
        (loss, aux), grads = value_and_grad(params, None, None, inner_state=state.inner_state)
        _, inner_state = follower.update(grads, state.inner_state, params)
        count = optax.safe_increment(state.count)
        return grads, ReweightState(count, inner_state, _info(loss, aux, axis_name))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _info(loss, aux: ReweightAux, axis_name):
    weights = aux.weights.astype(jnp.float32)
    totals = jax.tree.map(jnp.sum, (weights > 0, ~jnp.isfinite(aux.scores), jnp.square(weights)))
    if axis_name is not None:
        totals = jax.lax.psum(totals, axis_name)
    num_active, num_nonfinite, squares = totals
    sample_size = (num_active > 0) / jnp.where(squares > 0, squares, 1)
    info = loss, aux.val_loss, num_active, sample_size, num_nonfinite
    # Whatever the losses' dtype is, the state keeps the types it was given at init.
    return ReweightInfo(*(x.astype(dtype) for x, dtype in zip(info, _INFO_DTYPES, strict=True)))
