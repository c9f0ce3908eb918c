"""The reweighted gradient as a function transformation, in the manner of ``jax.value_and_grad``."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from l2rw_jax import _validate
from l2rw_jax.scores import lookahead_gradient, reverse_scores, vary
from l2rw_jax.weights import example_weights


class ReweightAux(NamedTuple):
    """What a reweighted gradient was made of.

    Attributes:
      weights: the example weights, which sum to 1 or are all 0.  # shape=(b,)
      scores: the scores before rectification.  # shape=(b,)
      losses: the training losses at the parameters.  # shape=(b,)
      val_loss: the clean loss at the look-ahead of gradient zero (plain SGD's is at the
        parameters).  # shape=()
      aux: what ``per_example_loss_fn`` returned beside the losses.
    """

    weights: jax.Array
    scores: jax.Array
    losses: jax.Array
    val_loss: jax.Array
    aux: Any


def reweighted_value_and_grad(
    per_example_loss_fn,
    val_loss_fn,
    *,
    inner=None,
    mode="forward",
    has_aux=False,
    min_weight=0.0,
    axis_name=None,
):
    r"""Returns a function for the reweighted loss and its gradient.

    .. math:: \textstyle\sum_i w_i \ell_i(\theta) \quad\text{and}\quad
              \sum_i w_i \nabla \ell_i(\theta), \qquad w \text{ of Eqs. 4-8, held constant}

    In forward mode the losses are linearised once: the scores are that linear map's value, the
    gradient its transpose's. A non-finite score gets weight zero, but its backward pass still runs:
    where that multiplies by NaN itself (a NaN pixel) the gradient is NaN, and in reverse mode every
    score. Mask such inputs.

    Args:
      per_example_loss_fn: ``(params, batch) -> [b]``, or ``([b], aux)`` with ``has_aux``. Losses
        may depend on the whole batch (BatchNorm in training mode): the result is still exact.
      val_loss_fn: ``(params, val_batch) -> []``, the mean loss on the clean batch.
      inner: the optimizer of the look-ahead step; None is plain SGD (see ``example_scores``).
      mode: ``"forward"`` or ``"reverse"`` (Algorithm 1 as written).
      has_aux: whether ``per_example_loss_fn`` also returns auxiliary data.
      min_weight: the least rectified score (see ``example_weights``).
      axis_name: mapped axis (or a tuple of them) that divides both batches evenly. Loss and
        gradient are then the whole batch's, weights and scores this part's.

    Returns:
      ``fn(params, batch, val_batch, *, inner_state=None) -> ((loss, ReweightAux), grads)``.

    Raises:
      ValueError, TypeError: an argument, or at trace time a loss's shape or type, does not fit.

    >>> import jax, jax.numpy as jnp
    >>> def losses(w, batch):
    ...     return (batch["x"] * w - batch["y"]) ** 2
    >>> batch = {"x": jnp.array([1.0, 2.0, 3.0]), "y": jnp.array([1.0, 2.0, -3.0])}
    >>> clean = {"x": jnp.array([1.0]), "y": jnp.array([1.0])}
    >>> fn = reweighted_value_and_grad(losses, lambda w, batch: losses(w, batch).mean())
    >>> (loss, aux), grads = jax.jit(fn)(jnp.array(0.5), batch, clean)
    >>> print(aux.weights, loss, grads)
    [0.2 0.8 0. ] 0.85 -3.4
    """
    _validate.check_options(inner, mode, min_weight)

    def value_and_grad(params, batch, val_batch, *, inner_state=None):
        inner_state = _validate.resolve_inner_state(inner, inner_state, params)
        params = vary(params, axis_name)

        def losses_fn(params):
            result = per_example_loss_fn(params, batch)
            losses, aux = _validate.check_aux(result) if has_aux else (result, None)
            return _validate.check_per_example("per_example_loss_fn's result", losses), aux

        lookahead = (lambda p: val_loss_fn(p, val_batch)), params, inner, inner_state, axis_name
        if mode == "forward":
            val_loss, direction = lookahead_gradient(*lookahead)
            # Adding zero makes this pass wait for the clean one; at once they take more memory.
            params = jax.tree.map(lambda p, d: p + 0 * jnp.nan_to_num(d), params, direction)
            losses, jvp, aux = jax.linearize(losses_fn, params, has_aux=True)
            scores = -jvp(direction)
            pullback = jax.linear_transpose(jvp, params)
        else:
            val_loss, scores = reverse_scores(lambda p: losses_fn(p)[0], *lookahead)
            losses, pullback, aux = jax.vjp(losses_fn, params, has_aux=True)

        weights = example_weights(scores, min_weight=min_weight, axis_name=axis_name)
        loss, grads = weighted_sum(weights, losses, pullback, axis_name)
        return (loss, ReweightAux(weights, scores, losses, val_loss, aux)), grads

    return value_and_grad


def weighted_sum(weights, losses, pullback, axis_name):
    """The weighted sum of the losses and, by their ``pullback``, its gradient."""
    (grads,) = pullback(weights)
    loss = jnp.sum(jnp.where(weights > 0, weights * losses, 0))
    return (loss, grads) if axis_name is None else jax.lax.psum((loss, grads), axis_name)
