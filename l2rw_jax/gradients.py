"""The reweighted gradient as a function transformation, like ``jax.value_and_grad``."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from l2rw_jax import _validate
from l2rw_jax._types import AxisName, LookaheadMask, LossFn, Pullback, ValueAndGrad
from l2rw_jax.micro_batches import in_micro_batches
from l2rw_jax.scores import Lookahead, Scored, linearize_and_score
from l2rw_jax.weights import example_weights


class ReweightAux(NamedTuple):
    """What a reweighted gradient was made of.

    Attributes:
      weights: the example weights, which sum to 1 or are all 0.  # shape=(b,)
      scores: the scores before rectification.  # shape=(b,)
      losses: the training losses at the parameters.  # shape=(b,)
      clean_loss: the clean loss at the look-ahead of gradient zero (plain SGD's is at the
        parameters).  # shape=()
      aux: what ``per_example_loss_fn`` returned beside the losses.
    """

    weights: jax.Array
    scores: jax.Array
    losses: jax.Array
    clean_loss: jax.Array
    aux: Any


def reweighted_value_and_grad(
    per_example_loss_fn: LossFn,
    clean_loss_fn: LossFn,
    *,
    inner: optax.GradientTransformation | None = None,
    mode: str = "forward",
    lookahead_mask: LookaheadMask = None,
    has_aux: bool = False,
    min_weight: ArrayLike = 0.0,
    groups: ArrayLike | Callable[[Any], ArrayLike] | None = None,
    num_groups: int | None = None,
    weights_fn: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    micro_batch_size: int | None = None,
    axis_name: AxisName = None,
) -> ValueAndGrad:
    r"""Returns a function for the reweighted loss and its gradient.

    .. math:: \textstyle\sum_i w_i \ell_i(\theta) \quad\text{and}\quad
              \sum_i w_i \nabla \ell_i(\theta), \qquad w \text{ of Eqs. 4-8, held constant}

    The losses have one forward pass, for the scores and for the gradient. A non-finite score gets
    weight zero, but its backward pass still runs: where that multiplies by NaN itself (a NaN pixel)
    the gradient is NaN, and in reverse mode so is every score. Mask such inputs.

    Args:
      per_example_loss_fn: ``(params, batch) -> [b]``, or ``([b], aux)`` with ``has_aux``. Losses
        may depend on the whole batch (BatchNorm in training mode): the result is still exact.
      clean_loss_fn: ``(params, clean_batch) -> []``, the mean loss on the clean batch.
      inner: the optimizer of the look-ahead step; None is plain SGD (see ``example_scores``). It is
        refused if it has no derivative at gradient zero: at the values of ``inner_state``, or under
        ``jax.jit``, where these are not known, at a fresh state.
      mode: ``"forward"``, ``"reverse"`` or ``"finite_difference"`` (see ``example_scores``).
      lookahead_mask: the parameters that move in the look-ahead (see ``example_scores``). The
        gradient is that of all parameters.
      has_aux: whether ``per_example_loss_fn`` also returns auxiliary data.
      min_weight: the least rectified score (see ``example_weights``).
      groups: ``[b]`` integers, or a function ``batch -> [b]``: the examples of a group share a
        weight (see ``example_weights``).
      num_groups: number of groups.
      weights_fn: ``(scores, losses) -> [b]``, weights of at least 0 in place of
        ``example_weights``, whose options are then refused; with ``axis_name`` of this part.
      micro_batch_size: how many examples to compute at a time, to hold fewer activations; must
        divide b and m. The scores of all parts are normalised together, so the result is that of
        the whole batch unless losses depend on each other. Arrays have the examples as first axis;
        aux comes back with the parts as a new first axis, of which part k has the examples k,
        k + parts, ... (``aux.swapaxes(0, 1).reshape(b, ...)`` is in order). None: all at once.
      axis_name: mapped axis (or a tuple of them) that divides both batches evenly. Loss and
        gradient are then the whole batch's, weights and scores this part's.

    Returns:
      ``fn(params, batch, clean_batch, *, inner_state=None) -> ((loss, ReweightAux), grads)``.

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
    _validate.check_weights_fn(weights_fn, min_weight, groups, num_groups)
    if micro_batch_size is not None:
        per_example_loss_fn, clean_loss_fn = in_micro_batches(
            per_example_loss_fn, clean_loss_fn, micro_batch_size, has_aux=has_aux
        )

    def value_and_grad(
        params: optax.Params,
        batch: Any,
        clean_batch: Any,
        *,
        inner_state: optax.OptState | None = None,
    ) -> tuple[tuple[jax.Array, ReweightAux], optax.Updates]:
        _validate.check_params(params)
        _validate.check_axis_name(axis_name)
        _validate.check_not_empty("batch", batch)
        _validate.check_not_empty("clean_batch", clean_batch)

        def losses_fn(params: optax.Params) -> tuple[Any, Any]:
            result = per_example_loss_fn(params, batch)
            return _validate.check_aux(result) if has_aux else (result, None)

        optimizer, state = _validate.resolve_inner(inner, inner_state, params)
        _validate.check_derivative(inner, state, params, lookahead_mask)
        lookahead = Lookahead(optimizer, state, mode, lookahead_mask, axis_name)
        scored = linearize_and_score(
            losses_fn, lambda params: clean_loss_fn(params, clean_batch), params, lookahead
        )
        if weights_fn is not None:
            weights = _validate.check_weights(
                "weights_fn's result", weights_fn(*scored[:2]), scored[1]
            )
            return reweighted(scored, weights, axis_name)
        weights = example_weights(
            scored[0],
            min_weight=min_weight,
            groups=groups(batch) if callable(groups) else groups,
            num_groups=num_groups,
            axis_name=axis_name,
        )
        return reweighted(scored, weights, axis_name)

    return value_and_grad


def reweighted(
    scored: Scored, weights: jax.Array, axis_name: AxisName
) -> tuple[tuple[jax.Array, ReweightAux], optax.Updates]:
    """The reweighted loss with what it was made of, and its gradient."""
    scores, losses, clean_loss, aux, pullback = scored
    loss, grads = weighted_sum(weights, losses, pullback, axis_name)
    return (loss, ReweightAux(weights, scores, losses, clean_loss, aux)), grads


def weighted_sum(
    weights: jax.Array, losses: jax.Array, pullback: Pullback, axis_name: AxisName
) -> tuple[jax.Array, optax.Updates]:
    """The weighted sum of the losses and, by their ``pullback``, its gradient."""
    (grads,) = pullback(weights.astype(losses.dtype))
    loss = jnp.sum(jnp.where(weights > 0, weights * losses.astype(weights.dtype), 0))
    return (loss, grads) if axis_name is None else jax.lax.psum((loss, grads), axis_name)
