r"""Learned weights: any function of the losses, trained to lower the clean loss.

Meta-Weight-Net (Shu et al., NeurIPS 2019) and its relatives weight an example by
:math:`w_i(\varphi) = W(\varphi; \ell_i)` and train :math:`\varphi` through an update. With the
gradient :math:`g(\varphi) = \sum_i w_i \nabla \ell_i(\theta)` and the clean loss after it,
:math:`h(g) = L_{clean}(\theta + U(g, s, \theta))`, the chain rule gives

.. math:: \nabla_\varphi h = \sum_i \langle \nabla h(g), \nabla \ell_i(\theta) \rangle
          \nabla_\varphi w_i

It takes the clean gradient at the looked-ahead parameters and one Jacobian-vector product of the
losses: eight passes, where a plain step has three.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import optax

from l2rw_jax import _validate
from l2rw_jax._partition import partition
from l2rw_jax._passes import vary
from l2rw_jax._tangents import tangents_later
from l2rw_jax._types import AxisName, LookaheadMask, LossFn
from l2rw_jax.gradients import ReweightAux, weighted_sum

# (phi, losses [b], batch) -> weights [b]
WeightFn = Callable[[Any, jax.Array, Any], jax.Array]


class LearnedValueAndGrad(Protocol):
    """A function for the weighted loss and the gradients of network and weighting."""

    def __call__(
        self,
        params: optax.Params,
        phi: optax.Params,
        batch: Any,
        clean_batch: Any,
        *,
        inner_state: optax.OptState | None = None,
    ) -> tuple[tuple[jax.Array, ReweightAux], tuple[optax.Updates, optax.Updates]]:
        """Returns ``((loss, ReweightAux), (grads, phi_grads))``."""


def learned_value_and_grad(
    per_example_loss_fn: LossFn,
    clean_loss_fn: LossFn,
    weight_fn: WeightFn,
    *,
    inner: optax.GradientTransformation,
    lookahead_mask: LookaheadMask = None,
    has_aux: bool = False,
    axis_name: AxisName = None,
) -> LearnedValueAndGrad:
    r"""Returns a function for the weighted loss, its gradient, and that of the weighting.

    .. math:: \textstyle\sum_i w_i \ell_i, \qquad \sum_i w_i \nabla \ell_i, \qquad
              \nabla_\varphi L_{clean}\big(\theta + U(\sum_i w_i \nabla \ell_i, s, \theta)\big)

    Both gradients are at the given ``phi``. (Meta-Weight-Net as published steps ``phi``
    first and weights anew: two more passes for weights that are one step younger.)

    Args:
      per_example_loss_fn: ``(params, batch) -> [b]``, or ``([b], aux)`` with ``has_aux``.
      clean_loss_fn: ``(params, clean_batch) -> []``, the mean loss on the clean batch.
      weight_fn: ``(phi, losses, batch) -> [b]``, the weights, at least 0; they need not sum to one.
        The losses are constants to it.
      inner: the optimizer of the look-ahead, as ``optax.sgd(0.1)``. Its rate matters here.
      lookahead_mask: the parameters that move in the look-ahead (see ``example_scores``).
      has_aux: whether ``per_example_loss_fn`` also returns auxiliary data.
      axis_name: mapped axis (or a tuple of them) that divides both batches evenly. Loss and
        gradients are then the whole batch's, weights and scores this part's.

    Returns:
      ``fn(params, phi, batch, clean_batch, *, inner_state=None) -> ((loss, ReweightAux), (grads,
      phi_grads))``. A score is minus the derivative of the clean loss by the example's weight; the
      clean loss is that of the looked-ahead parameters.

    Raises:
      ValueError, TypeError: an argument, or at trace time a shape or type, does not fit.

    >>> import jax, jax.numpy as jnp, optax
    >>> def losses(w, batch):
    ...     return (batch["x"] * w - batch["y"]) ** 2
    >>> batch = {"x": jnp.array([1.0, 2.0]), "y": jnp.array([1.0, -2.0])}  # the second is wrong
    >>> clean = {"x": jnp.array([1.0]), "y": jnp.array([1.0])}
    >>> fn = learned_value_and_grad(
    ...     losses,
    ...     lambda w, batch: losses(w, batch).mean(),
    ...     lambda phi, losses, batch: jax.nn.sigmoid(phi) / len(losses),
    ...     inner=optax.sgd(0.1),
    ... )
    >>> (loss, aux), (grads, phi_grads) = fn(jnp.array(0.5), jnp.zeros(2), batch, clean)
    >>> print((phi_grads < 0).tolist())  # the first one's weight should grow
    [True, False]
    """
    _validate.check_options(inner, "forward")

    def value_and_grad(
        params: optax.Params,
        phi: optax.Params,
        batch: Any,
        clean_batch: Any,
        *,
        inner_state: optax.OptState | None = None,
    ) -> tuple[tuple[jax.Array, ReweightAux], tuple[optax.Updates, optax.Updates]]:
        _validate.check_params(params)
        _validate.check_axis_name(axis_name)
        _validate.check_not_empty("batch", batch)
        _validate.check_not_empty("clean_batch", clean_batch)
        optimizer, state = _validate.resolve_inner(inner, inner_state, params)
        params, phi = vary((params, phi), axis_name)
        pick, put = partition(params, lookahead_mask)

        def losses_fn(params: optax.Params) -> tuple[jax.Array, Any]:
            result = per_example_loss_fn(params, batch)
            losses, aux = _validate.check_aux(result) if has_aux else (result, None)
            return _validate.check_per_example("per_example_loss_fn's result", losses), aux

        def lookahead_loss(grads: list[jax.Array]) -> jax.Array:
            every = put(optax.tree.zeros_like(params), grads)
            updates, _ = optimizer.update(every, state, params)
            moved = optax.apply_updates(pick(params), pick(updates))
            loss = clean_loss_fn(put(params, moved), clean_batch)
            return _validate.check_scalar("clean_loss_fn's result", loss)

        losses, jvp, aux = jax.linearize(losses_fn, params, has_aux=True)
        weights, weights_pullback = jax.vjp(lambda phi: weight_fn(phi, losses, batch), phi)
        weights = _validate.check_weights("weight_fn's result", weights, losses)
        pullback = jax.linear_transpose(jvp, params)
        loss, grads = weighted_sum(weights, losses, pullback, axis_name)

        clean_loss, direction = jax.value_and_grad(lookahead_loss)(vary(pick(grads), axis_name))
        if axis_name is not None:
            clean_loss, direction = jax.lax.pmean((clean_loss, direction), axis_name)
            direction = vary(direction, axis_name)
        slopes = tangents_later(jvp, params, pick, put)(direction)
        (phi_grads,) = weights_pullback(slopes.astype(weights.dtype))
        if axis_name is not None:
            phi_grads = jax.lax.psum(phi_grads, axis_name)
        aux = ReweightAux(weights, -slopes, losses, clean_loss, aux)
        return (loss, aux), (grads, phi_grads)

    return value_and_grad
