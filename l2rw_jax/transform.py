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
    updates it is given; None is fine. Any optimizer may follow. Three traps: ``optax.MultiSteps``
    *around* it keeps only the last micro-batch's gradient (put it around what follows in the
    chain); ``optax.masked`` around it hides parameters from the losses; momentum or weight decay
    after it still moves the parameters when every weight is zero.

    Args:
      inner: the optimizer of the look-ahead step; its state follows the real weighted gradients.
        None is plain SGD, whatever follows in the chain. ``init`` refuses optimizers without a
        usable derivative at gradient zero.
      mode: ``"forward"`` or ``"reverse"`` (see ``example_scores``).
      min_weight: the least rectified score (see ``example_weights``).
      axis_name: name of a mapped axis that divides both batches evenly; the update is the whole's.

    Returns:
      An ``optax.GradientTransformationExtraArgs``; its ``update(updates, state, params, *,
      per_example_loss_fn, val_loss_fn, **extra_args)`` takes ``params -> [b]``, ``params -> []``.

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
        return ReweightState(jnp.zeros((), jnp.int32), inner_state, _zero_info())

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
    totals = jax.tree.map(
        jnp.sum, (aux.weights > 0, ~jnp.isfinite(aux.scores), jnp.square(aux.weights))
    )
    if axis_name is not None:
        totals = jax.lax.psum(totals, axis_name)
    num_active, num_nonfinite, squares = totals
    sample_size = (num_active > 0) / jnp.where(squares > 0, squares, 1)
    info = ReweightInfo(loss, aux.val_loss, num_active, sample_size, num_nonfinite)
    # Whatever the losses' dtype is, the state keeps the types it was given at init.
    return jax.tree.map(lambda value, zero: value.astype(zero.dtype), info, _zero_info())


def _zero_info():
    zero, none = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    return ReweightInfo(zero, zero, none, zero, none)
