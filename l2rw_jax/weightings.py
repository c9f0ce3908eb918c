r"""Weightings: rules from a batch to the weights of its examples.

``l2rw`` is the paper's, ``evidence`` doubts only what the clean examples clearly speak against,
``learned`` trains a function of the losses, and ``by_loss`` needs no clean examples. Each is a
small frozen object that ``reweighted_value_and_grad`` and ``reweight`` take as ``weighting``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import ndtr
from jax.typing import ArrayLike

from l2rw_jax import _validate
from l2rw_jax._partition import partition
from l2rw_jax._passes import after, vary
from l2rw_jax._tangents import tangents_and_vjp, tangents_later
from l2rw_jax._types import (
    AxisName,
    CleanLosses,
    LossesAndAux,
    Mask,
    Pullback,
    at_least_float32,
)
from l2rw_jax.scores import clean_direction, linearize_and_score, scaled
from l2rw_jax.weights import example_weights

# (losses [b], batch) -> weights [b], and with parameters phi before them
WeightsFn = Callable[[jax.Array, Any], jax.Array]
LearnedWeightsFn = Callable[[Any, jax.Array, Any], jax.Array]

# Evidence: standard errors that the votes must be against an example before it counts for half.
_BENEFIT_OF_DOUBT = 2.0
# Evidence: how much less an unlikely label counts.
_SHARPNESS = 1.5


class ReweightAux(NamedTuple):
    """What a reweighted gradient was made of.

    Attributes:
      weights: the example weights.  # shape=(b,)
      scores: what they were made from: ``l2rw``'s scores before rectification, ``evidence``'s
        mean vote over its standard error, ``learned``'s minus the derivative of the clean loss by
        the weight, ``by_loss``'s the weights. NaN where a weight was refused.  # shape=(b,)
      losses: the training losses at the parameters.  # shape=(b,)
      clean_loss: the mean clean loss after a look-ahead step of gradient zero (plain SGD's is at
        the parameters), ``learned``'s after the weighted step; NaN without one.  # shape=()
      aux: what ``per_example_loss_fn`` returned beside the losses.
    """

    weights: jax.Array
    scores: jax.Array
    losses: jax.Array
    clean_loss: jax.Array
    aux: Any


class Step(NamedTuple):
    """What a weighting sees of one training step.

    Attributes:
      losses_fn: ``params -> ([b], aux)``, the training losses.
      clean_losses_fn: ``params -> [m]``, the clean losses, or ``[]``, their mean.
      params: the parameters.
      batch: the training batch, arrays with the examples as first axis; None where unknown.
      lookahead_state: the state of the weighting's look-ahead optimizer.
      axis_name: the mapped axis that divides both batches.
    """

    losses_fn: LossesAndAux
    clean_losses_fn: CleanLosses
    params: optax.Params
    batch: Any
    lookahead_state: optax.OptState
    axis_name: AxisName


Value = tuple[tuple[jax.Array, ReweightAux], optax.Updates]


class Weighting(Protocol):
    """What ``reweighted_value_and_grad`` and ``reweight`` ask of a weighting."""

    @property
    def needs_clean(self) -> bool:
        """Whether it looks at clean examples."""

    def init(self, params: optax.Params) -> optax.OptState:
        """The first state of its look-ahead optimizer."""

    def update(
        self, grads: optax.Updates, state: optax.OptState, params: optax.Params
    ) -> optax.OptState:
        """The state after the step with these weighted gradients."""

    def value_and_grad(self, step: Step) -> Value:
        """The weighted loss with what it was made of, and its gradient."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Stateless:
    """A weighting without a look-ahead optimizer."""

    @property
    def needs_clean(self) -> bool:
        return True

    def init(self, params: optax.Params) -> optax.OptState:
        del params
        return optax.EmptyState()

    def update(
        self, grads: optax.Updates, state: optax.OptState, params: optax.Params
    ) -> optax.OptState:
        del grads, params
        return state


@_validate.renamed(inner="lookahead", lookahead_mask="mask", num_groups=None)
def l2rw(
    lookahead: optax.GradientTransformation | None = None,
    *,
    mode: str = "forward",
    mask: Mask = None,
    min_weight: ArrayLike = 0.0,
    groups: Callable[[Any], ArrayLike] | None = None,
) -> Weighting:
    r"""The paper's weighting: how much would an example lower the clean loss?

    .. math:: w_i \propto \max(u_i, 0), \qquad
              u_i = -\frac{\partial}{\partial \epsilon_i} L_{clean}\big(\theta +
              U(\textstyle\sum_j \epsilon_j \nabla \ell_j, s, \theta)\big) \Big|_{\epsilon = 0}
              \qquad \text{(Eqs. 4-8)}

    Args:
      lookahead: the optimizer U of the look-ahead step, its state updated with the real weighted
        gradients; None is plain SGD, whose rate cancels. It is refused if its first update has no
        usable derivative at gradient zero.
      mode: ``"forward"``, ``"reverse"`` or ``"finite_difference"`` (see ``example_scores``).
      mask: the parameters that move in the look-ahead (see ``example_scores``): leave out those
        that the optimizer freezes.
      min_weight: the least rectified score (see ``example_weights``).
      groups: ``batch -> [b]`` integers: the examples of a group share a weight (see
        ``example_weights``).

    Returns:
      The weighting.

    Raises:
      ValueError, TypeError: an argument does not fit.

    >>> import jax.numpy as jnp
    >>> from l2rw_jax import reweighted_value_and_grad
    >>> def losses(w, batch):
    ...     return (batch["x"] * w - batch["y"]) ** 2
    >>> batch = {"x": jnp.array([1.0, 2.0, 3.0]), "y": jnp.array([1.0, 2.0, -3.0])}
    >>> clean = {"x": jnp.array([1.0]), "y": jnp.array([1.0])}
    >>> by_pair = l2rw(groups=lambda batch: jnp.array([7, 7, 8]))
    >>> fn = reweighted_value_and_grad(losses, losses, weighting=by_pair)
    >>> print(fn(jnp.array(0.5), batch, clean)[0][1].weights)
    [0.5 0.5 0. ]
    """
    _validate.check_options(lookahead, mode, min_weight)
    if groups is not None and not callable(groups):
        raise TypeError(
            f"groups: got {type(groups).__name__}; takes a function of the batch, for example "
            "lambda batch: batch['source'], or None."
        )
    return _L2RW(lookahead, mode, mask, min_weight, groups)


@dataclasses.dataclass(frozen=True, eq=False)
class _WithLookahead(_Stateless):
    lookahead: optax.GradientTransformation | None

    def init(self, params: optax.Params) -> optax.OptState:
        return optax.EmptyState() if self.lookahead is None else self.lookahead.init(params)

    def update(
        self, grads: optax.Updates, state: optax.OptState, params: optax.Params
    ) -> optax.OptState:
        return state if self.lookahead is None else self.lookahead.update(grads, state, params)[1]


@dataclasses.dataclass(frozen=True, eq=False)
class _L2RW(_WithLookahead):
    mode: str
    mask: Mask
    min_weight: ArrayLike
    groups: Callable[[Any], ArrayLike] | None

    def init(self, params: optax.Params) -> optax.OptState:
        _validate.check_derivative(self.lookahead, params, self.mask)
        return super().init(params)

    def value_and_grad(self, step: Step) -> Value:
        optimizer, state = _validate.resolve_lookahead(
            self.lookahead, step.lookahead_state, step.params
        )
        _validate.check_derivative(self.lookahead, step.params, self.mask, state)
        scored = linearize_and_score(
            step.losses_fn,
            step.clean_losses_fn,
            step.params,
            optimizer,
            state,
            mode=self.mode,
            mask=self.mask,
            axis_name=step.axis_name,
        )
        weights = example_weights(
            scored.relative,
            min_weight=self.min_weight / scored.unit,
            groups=None if self.groups is None else self.groups(_known_batch(step.batch, "groups")),
            axis_name=step.axis_name,
        )
        loss, grads = weighted_sum(weights, scored.losses, scored.pullback, step.axis_name)
        aux = ReweightAux(weights, scored.scores, scored.losses, scored.clean_loss, scored.aux)
        return (loss, aux), grads


def evidence(mask: Mask = None, *, parts: int = 10) -> Weighting:
    r"""Weights by how sure the clean examples are against one, and by how large its loss is.

    The clean batch is split into ``parts``; each votes on every example by the product of their
    gradients. With the mean vote over its standard error, :math:`t_i`, the mean clean loss
    :math:`L` and :math:`E = \max(\bar \ell - L, 0)`,

    .. math:: V_{ig} = \langle \nabla \ell_i, \nabla L_g \rangle, \qquad
              w_i \propto \frac{\Phi(t_i + 2)}{1 + 1.5 \max(\ell_i - L, 0) E / L^2}

    With little evidence the weights are equal, as in ordinary training; the paper's weights then
    follow the noise of one small batch. It is exact for a sample of clean examples like the
    others: not for a clean batch balanced by class beside a training batch of rare classes.

    Args:
      mask: the parameters whose gradients vote (see ``example_scores``); None is all, at the cost
        of ``parts`` tangent passes. Choose the last layer: that costs as much as its product with
        the features, ``parts`` times.
      parts: how many parts vote, at least 2; at most as many as there are clean examples.

    Returns:
      The weighting. It wants the clean losses per example, ``[m]``.

    Raises:
      ValueError, TypeError: an argument does not fit.

    >>> import jax.numpy as jnp
    >>> from l2rw_jax import reweighted_value_and_grad
    >>> def losses(w, batch):
    ...     return (batch["x"] * w - batch["y"]) ** 2
    >>> batch = {"x": jnp.array([1.0, 2.0, 3.0]), "y": jnp.array([1.0, 2.0, -3.0])}
    >>> clean = {"x": jnp.array([1.0, 1.1]), "y": jnp.array([1.0, 1.0])}
    >>> fn = reweighted_value_and_grad(losses, losses, weighting=evidence())
    >>> print(fn(jnp.array(0.5), batch, clean)[0][1].weights.round(2))
    [0.96 0.04 0.  ]
    """
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 2:
        raise ValueError(f"parts: got {parts!r}; takes an integer of at least 2.")
    return _Evidence(mask, parts)


@dataclasses.dataclass(frozen=True, eq=False)
class _Evidence(_Stateless):
    mask: Mask
    parts: int

    def value_and_grad(self, step: Step) -> Value:
        axis_name = step.axis_name
        params = vary(step.params, axis_name)
        pick, put = partition(params, self.mask)

        def clean_losses_fn(moving: list[jax.Array]) -> jax.Array:
            losses = step.clean_losses_fn(put(params, moving))
            return _validate.check_clean_losses(losses)

        clean_losses, clean_pullback = jax.vjp(clean_losses_fn, pick(params))
        (directions,) = jax.vmap(clean_pullback)(_shares(clean_losses, self.parts, axis_name))
        clean_sum = jnp.sum(at_least_float32(clean_losses))
        clean_size = len(clean_losses)
        if axis_name is not None:
            clean_size *= jax.lax.axis_size(axis_name)
            clean_sum, directions = jax.lax.psum((clean_sum, directions), axis_name)
            directions = vary(directions, axis_name)
        directions, _ = scaled(directions)
        params = put(params, after([d[0] for d in directions], pick(params)))

        losses, votes, aux, pullback = tangents_and_vjp(
            _validate.checked(step.losses_fn), params, directions, pick, put, several=True
        )
        weights, scores = _weigh_votes(
            at_least_float32(votes), at_least_float32(losses), clean_sum / clean_size, axis_name
        )
        loss, grads = weighted_sum(weights, losses, pullback, axis_name)
        clean_loss = (clean_sum / clean_size).astype(clean_losses.dtype)
        return (loss, ReweightAux(weights, scores, losses, clean_loss, aux)), grads


def _shares(losses: jax.Array, parts: int, axis_name: AxisName) -> jax.Array:
    """Each clean example's share in the mean loss of every part, ``[parts, m]``, like the losses.

    Parts take turns, so that they are of nearly equal size, and the same ones on any number of
    devices.
    """
    whole, index = len(losses), jnp.arange(len(losses))
    if axis_name is not None:
        whole *= jax.lax.axis_size(axis_name)
        index += jax.lax.axis_index(axis_name) * len(losses)
    if whole < 2:
        raise ValueError(
            f"clean_loss_fn's result: got {whole} clean example; evidence takes at least 2, for "
            "the spread of their votes."
        )
    parts = min(parts, whole)
    turn = index % parts
    counts = whole // parts + (jnp.arange(parts) < whole % parts)
    shares = (turn[None, :] == jnp.arange(parts)[:, None]) / counts[:, None]
    # The zeros are sharded as the losses are, which an explicit mesh asks of their cotangents.
    return shares.astype(losses.dtype) + jnp.zeros_like(losses)[None]


def _weigh_votes(
    votes: jax.Array, losses: jax.Array, clean_loss: jax.Array, axis_name: AxisName
) -> tuple[jax.Array, jax.Array]:
    """Evidence's weights and scores ``[b]`` from the votes ``[parts, b]``."""

    def total(x: jax.Array) -> jax.Array:
        return jnp.sum(x) if axis_name is None else jax.lax.psum(jnp.sum(x), axis_name)

    # In units of an example's largest vote, or the squares of tiny ones would vanish.
    largest = jnp.max(jnp.abs(votes), axis=0)
    votes = votes / jnp.where(largest > 0, largest, 1)[None]
    mean, error = votes.mean(0), votes.std(0, ddof=1) / len(votes) ** 0.5
    scores = jnp.where(mean == 0, 0, mean / error)
    usable = jnp.isfinite(losses) & ~jnp.isnan(scores)
    known = jnp.where(usable, losses, 0)
    batch_loss = total(known) / jnp.maximum(total(usable.astype(losses.dtype)), 1)
    # In units of the clean loss, whose square could overflow; a loss of zero is not divided by.
    unit = jnp.maximum(jnp.abs(clean_loss), 3e-4 * jnp.abs(batch_loss))
    unit = jnp.where(unit > 0, unit, 1)
    excess = jnp.maximum(batch_loss / unit - clean_loss / unit, 0)
    doubt = _SHARPNESS * jnp.maximum(known / unit - clean_loss / unit, 0) * excess
    raw = jnp.where(usable, ndtr(scores + _BENEFIT_OF_DOUBT) / (1 + doubt), 0)
    return example_weights(raw, axis_name=axis_name), jnp.where(usable, scores, jnp.nan)


@_validate.renamed(inner="lookahead", lookahead_mask="mask")
def learned(
    weight_fn: LearnedWeightsFn,
    *,
    lookahead: optax.GradientTransformation,
    mask: Mask = None,
) -> Weighting:
    r"""Weights by a function whose parameters are trained to lower the clean loss.

    Meta-Weight-Net (Shu et al., NeurIPS 2019) and its relatives. The parameters are a pair
    ``(params, phi)``, and so is the gradient:

    .. math:: \sum_i w_i \nabla \ell_i \quad\text{and}\quad
              \nabla_\varphi L_{clean}\big(\theta + U(\textstyle\sum_i w_i \nabla \ell_i, s, \theta)
              \big), \qquad w_i = W(\varphi; \ell)_i

    The loss functions see ``params`` alone. Both gradients are at the given phi. (Meta-Weight-Net
    as published steps phi first and weights anew: two more passes for weights that are one step
    younger.)

    Args:
      weight_fn: ``(phi, losses, batch) -> [b]``, the weights, at least 0; they need not sum to one.
        It sees the whole batch on every device, and the losses as constants.
      lookahead: the optimizer U of the look-ahead step, as ``optax.sgd(0.1)``. Its rate matters.
      mask: the parameters that move in the look-ahead (see ``example_scores``).

    Returns:
      The weighting.

    Raises:
      TypeError: an argument does not fit.

    >>> import jax, jax.numpy as jnp, optax
    >>> from l2rw_jax import reweighted_value_and_grad
    >>> def losses(w, batch):
    ...     return (batch["x"] * w - batch["y"]) ** 2
    >>> batch = {"x": jnp.array([1.0, 2.0]), "y": jnp.array([1.0, -2.0])}  # the second is wrong
    >>> clean = {"x": jnp.array([1.0]), "y": jnp.array([1.0])}
    >>> weighting = learned(
    ...     lambda phi, losses, batch: jax.nn.sigmoid(phi) / 2, lookahead=optax.sgd(0.1)
    ... )
    >>> fn = reweighted_value_and_grad(losses, losses, weighting=weighting)
    >>> (loss, aux), (grads, phi_grads) = fn((jnp.array(0.5), jnp.zeros(2)), batch, clean)
    >>> print((phi_grads < 0).tolist())  # the first one's weight should grow
    [True, False]
    """
    if not callable(weight_fn):
        raise TypeError(f"weight_fn: got {type(weight_fn).__name__}; takes a function.")
    if lookahead is None:
        raise TypeError(
            "lookahead: got None; takes an optax.GradientTransformation, for example "
            "optax.sgd(0.1): its learning rate matters here."
        )
    _validate.check_options(lookahead, "forward")
    return _Learned(lookahead, weight_fn, mask)


@dataclasses.dataclass(frozen=True, eq=False)
class _Learned(_WithLookahead):
    weight_fn: LearnedWeightsFn
    mask: Mask

    def init(self, params: optax.Params) -> optax.OptState:
        return super().init(_validate.check_pair(params)[0])

    def update(
        self, grads: optax.Updates, state: optax.OptState, params: optax.Params
    ) -> optax.OptState:
        return super().update(grads[0], state, params[0])

    def value_and_grad(self, step: Step) -> Value:
        axis_name = step.axis_name
        params, phi = _validate.check_pair(step.params)
        optimizer, state = _validate.resolve_lookahead(self.lookahead, step.lookahead_state, params)
        params, phi = vary((params, phi), axis_name)
        pick, put = partition(params, self.mask)
        losses, jvp, aux = jax.linearize(_validate.checked(step.losses_fn), params, has_aux=True)
        pullback = jax.linear_transpose(jvp, params)

        def weights_of(phi: Any) -> jax.Array:
            weights = _on_whole_batch(
                lambda losses, batch: self.weight_fn(phi, losses, batch),
                "weight_fn's result",
                losses,
                step.batch,
                axis_name,
            )
            return jnp.where(_usable(weights), weights, 0)

        weights, weights_pullback = jax.vjp(weights_of, phi)
        loss, grads = weighted_sum(weights, losses, pullback, axis_name)
        clean_loss, direction = clean_direction(
            step.clean_losses_fn, params, optimizer, state, vary(grads, axis_name), pick, put
        )
        if axis_name is not None:
            clean_loss, direction = jax.lax.pmean((clean_loss, direction), axis_name)
            direction = vary(direction, axis_name)
        slopes = tangents_later(jvp, params, pick, put)(direction)
        (phi_grads,) = weights_pullback(slopes.astype(weights.dtype))
        if axis_name is not None:
            phi_grads = jax.lax.psum(phi_grads, axis_name)
        return (loss, ReweightAux(weights, -slopes, losses, clean_loss, aux)), (grads, phi_grads)


def by_loss(weights_fn: WeightsFn) -> Weighting:
    r"""Weights by a function of the losses and the batch, without clean examples.

    Args:
      weights_fn: ``(losses, batch) -> [b]``, the weights, at least 0; they need not sum to one. It
        sees the whole batch on every device. A weight that is negative or not finite counts as
        zero, and the example's score becomes NaN.

    Returns:
      The weighting; ``clean_loss_fn`` and ``clean_batch`` may be None with it.

    Raises:
      TypeError: ``weights_fn`` is no function.

    >>> import jax.numpy as jnp
    >>> from l2rw_jax import reweighted_value_and_grad
    >>> def losses(w, batch):
    ...     return (batch["x"] * w - batch["y"]) ** 2
    >>> batch = {"x": jnp.array([1.0, 2.0]), "y": jnp.array([1.0, -2.0])}
    >>> small = by_loss(lambda losses, batch: (losses <= jnp.median(losses)) * 1.0)
    >>> fn = reweighted_value_and_grad(losses, None, weighting=small)
    >>> print(fn(jnp.array(0.5), batch, None)[0][1].weights)
    [1. 0.]
    """
    if not callable(weights_fn):
        raise TypeError(f"weights_fn: got {type(weights_fn).__name__}; takes a function.")
    return _ByLoss(weights_fn)


@dataclasses.dataclass(frozen=True, eq=False)
class _ByLoss(_Stateless):
    weights_fn: WeightsFn

    @property
    def needs_clean(self) -> bool:
        return False

    def value_and_grad(self, step: Step) -> Value:
        axis_name = step.axis_name
        losses, pullback, aux = jax.vjp(
            _validate.checked(step.losses_fn), vary(step.params, axis_name), has_aux=True
        )
        given = _on_whole_batch(
            self.weights_fn, "weights_fn's result", losses, step.batch, axis_name
        )
        weights = jnp.where(_usable(given), given, 0)
        scores = jnp.where(_usable(given), given, jnp.nan)
        loss, grads = weighted_sum(weights, losses, pullback, axis_name)
        no_clean_loss = jnp.full_like(loss, jnp.nan)
        return (loss, ReweightAux(weights, scores, losses, no_clean_loss, aux)), grads


def weighted_sum(
    weights: jax.Array, losses: jax.Array, pullback: Pullback, axis_name: AxisName
) -> tuple[jax.Array, optax.Updates]:
    """The weighted sum of the losses and, by their ``pullback``, its gradient.

    The weights are constants: a derivative of the sum is the gradient.
    """
    weights = jax.lax.stop_gradient(weights)
    (grads,) = pullback(weights.astype(losses.dtype))
    loss = jnp.sum(jnp.where(weights > 0, weights * losses.astype(weights.dtype), 0))
    return (loss, grads) if axis_name is None else jax.lax.psum((loss, grads), axis_name)


def _usable(weights: jax.Array) -> jax.Array:
    return jnp.isfinite(weights) & (weights >= 0)


def _on_whole_batch(
    weights_fn: WeightsFn, argument: str, losses: jax.Array, batch: Any, axis_name: AxisName
) -> jax.Array:
    """The weights ``[b]`` of this part of the batch, by a function of the whole batch."""
    size = len(losses)
    losses = jax.lax.stop_gradient(losses)
    if axis_name is not None:

        def whole(x: Any) -> Any:
            rows = jnp.shape(x)[:1] == (size,)
            return jax.lax.all_gather(x, axis_name, tiled=True) if rows else x

        losses, batch = jax.tree.map(whole, (losses, batch))
    weights = _validate.check_weights(argument, weights_fn(losses, batch), losses)
    if axis_name is None:
        return weights
    first = jax.lax.axis_index(axis_name) * size
    return jax.lax.dynamic_slice_in_dim(weights, first, size)


def _known_batch(batch: Any, argument: str) -> Any:
    if batch is None:
        raise ValueError(
            f"batch: got None; {argument} is a function of it: pass batch= to the update."
        )
    return batch
