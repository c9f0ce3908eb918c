"""The reweighted gradient as a function transformation, like ``jax.value_and_grad``."""

from typing import Any

import jax
import optax

from l2rw_jax import _validate
from l2rw_jax._types import AxisName, LossFn, ValueAndGrad
from l2rw_jax.micro_batches import in_micro_batches
from l2rw_jax.weightings import ReweightAux, Step, Weighting, l2rw

_OF_WEIGHTING = "weighting=l2rw({})"
_MOVED = {
    "inner": _OF_WEIGHTING.format("lookahead"),
    "mode": _OF_WEIGHTING.format("mode=..."),
    "lookahead_mask": _OF_WEIGHTING.format("mask=..."),
    "min_weight": _OF_WEIGHTING.format("min_weight=..."),
    "groups": _OF_WEIGHTING.format("groups=..."),
    "weights_fn": "weighting=by_loss(weights_fn)",
    "num_groups": None,
}


@_validate.renamed(**_MOVED)
def reweighted_value_and_grad(
    per_example_loss_fn: LossFn,
    clean_loss_fn: LossFn | None,
    *,
    weighting: Weighting = l2rw(),  # noqa: B008  # frozen
    has_aux: bool = False,
    micro_batch_size: int | None = None,
    axis_name: AxisName = None,
) -> ValueAndGrad:
    r"""Returns a function for the reweighted loss and its gradient.

    .. math:: \textstyle\sum_i w_i \ell_i(\theta) \quad\text{and}\quad
              \sum_i w_i \nabla \ell_i(\theta), \qquad w \text{ held constant}

    The losses have one forward pass, for the weights and for the gradient. A non-finite score gets
    weight zero, but its backward pass still runs: where that multiplies by NaN itself (a NaN pixel)
    the gradient is NaN. Mask such inputs.

    Args:
      per_example_loss_fn: ``(params, batch) -> [b]``, or ``([b], aux)`` with ``has_aux``. Losses
        may depend on the whole batch (BatchNorm in training mode): the result is still exact.
      clean_loss_fn: ``(params, clean_batch) -> [m]``, a loss for each clean example, or ``[]``,
        their mean; None for a weighting without clean examples.
      weighting: how the examples are weighted: ``l2rw()``, the paper, ``evidence()``,
        ``learned()`` or ``by_loss()``.
      has_aux: whether ``per_example_loss_fn`` also returns auxiliary data.
      micro_batch_size: how many examples to compute at a time, to hold fewer activations; must
        divide b and m. All parts are weighted together, so the result is that of the whole batch
        unless losses depend on each other. Arrays have the examples as first axis. Arrays of aux
        that have them come back in the batch's order; others get the parts as a new first axis.
        None: all at once.
      axis_name: mapped axis (or a tuple of them) that divides both batches evenly. Loss and
        gradient are then the whole batch's, weights and scores this part's.

    Returns:
      ``fn(params, batch, clean_batch, *, lookahead_state=None) -> ((loss, ReweightAux), grads)``;
      ``lookahead_state`` is that of the weighting's look-ahead optimizer.

    Raises:
      ValueError, TypeError: an argument, or at trace time a loss's shape or type, does not fit.

    >>> import jax, jax.numpy as jnp
    >>> def losses(w, batch):
    ...     return (batch["x"] * w - batch["y"]) ** 2
    >>> batch = {"x": jnp.array([1.0, 2.0, 3.0]), "y": jnp.array([1.0, 2.0, -3.0])}
    >>> clean = {"x": jnp.array([1.0]), "y": jnp.array([1.0])}
    >>> fn = reweighted_value_and_grad(losses, losses)
    >>> (loss, aux), grads = jax.jit(fn)(jnp.array(0.5), batch, clean)
    >>> print(aux.weights, loss, grads)
    [0.2 0.8 0. ] 0.85 -3.4
    """
    _validate.check_weighting(weighting)
    if clean_loss_fn is None and weighting.needs_clean:
        raise TypeError("clean_loss_fn: got None, which only by_loss() takes; takes a function.")
    if micro_batch_size is not None:
        per_example_loss_fn, clean_loss_fn = in_micro_batches(
            per_example_loss_fn, clean_loss_fn, micro_batch_size, has_aux=has_aux
        )

    @_validate.renamed(inner_state="lookahead_state")
    def value_and_grad(
        params: optax.Params,
        batch: Any,
        clean_batch: Any,
        *,
        lookahead_state: optax.OptState | None = None,
    ) -> tuple[tuple[jax.Array, ReweightAux], optax.Updates]:
        _validate.check_params(params)
        _validate.check_axis_name(axis_name)
        _validate.check_not_empty("batch", batch)
        _validate.check_not_empty("clean_batch", clean_batch)

        def losses_fn(params: optax.Params) -> tuple[Any, Any]:
            result = per_example_loss_fn(params, batch)
            return _validate.check_aux(result) if has_aux else (result, None)

        def clean_losses_fn(params: optax.Params) -> Any:
            assert clean_loss_fn is not None  # a weighting that needs none does not call this
            return clean_loss_fn(params, clean_batch)

        step = Step(losses_fn, clean_losses_fn, params, batch, lookahead_state, axis_name)
        return weighting.value_and_grad(step)

    return value_and_grad
