"""Weightings by the losses and the batch alone, without a clean set.

A weighting is ``(losses, batch, rng, axis_name) -> weights [b]``, the batch as ``methods`` has it.
``by`` makes a method of it. The weights are constants to the gradient.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from l2rw_jax._passes import vary
from l2rw_jax._types import AxisName, LossFn
from l2rw_jax.gradients import ReweightAux, weighted_sum
from l2rw_jax.weights import example_weights

# What a step gives: (params, batch, clean_batch) -> ((loss, aux), grads).
BatchValueAndGrad = Callable[
    [optax.Params, Any, Any], tuple[tuple[jax.Array, ReweightAux], optax.Updates]
]

# (losses [b], batch, rng, axis_name) -> weights [b]
WeightsFn = Callable[[jax.Array, Any, jax.Array, AxisName], jax.Array]


class MakeValueAndGrad(Protocol):
    """Makes a method's function for a batch's loss and gradient, for one step."""

    def __call__(
        self,
        per_example_loss_fn: LossFn,
        clean_loss_fn: LossFn,
        *,
        rng: jax.Array,
        axis_name: AxisName = None,
    ) -> BatchValueAndGrad:
        """Returns ``fn(params, batch, clean_batch) -> ((loss, ReweightAux), grads)``."""


def equal(losses: jax.Array, batch: Any, rng: jax.Array, axis_name: AxisName) -> jax.Array:
    """Equal weights: ordinary training on the mean loss."""
    del batch, rng
    return jnp.ones_like(losses) / batch_size(losses, axis_name)


def random(losses: jax.Array, batch: Any, rng: jax.Array, axis_name: AxisName) -> jax.Array:
    r"""Rectified Gaussian weights, :math:`w_i = \max(z_i, 0) / \sum_j \max(z_j, 0)`."""
    del batch
    size = batch_size(losses, axis_name)
    scores = own_part(jax.random.normal(rng, (size,), losses.dtype), axis_name)
    return example_weights(scores, axis_name=axis_name)


def proportion(losses: jax.Array, batch: Any, rng: jax.Array, axis_name: AxisName) -> jax.Array:
    r"""Weights by the inverse frequency of the label's class, so that all classes count the same.

    .. math:: w_i = \frac{1}{b} \frac{n}{K n_{y_i}}

    They sum to one on average, not in each batch. Normalised in each, the majority would get all
    the weight of a batch that holds nothing else.
    """
    del rng
    counts = batch["label_counts"]
    ratio = counts.sum() / (counts.size * counts)
    return ratio[batch["label"]].astype(losses.dtype) / batch_size(losses, axis_name)


def hard_mining(losses: jax.Array, batch: Any, rng: jax.Array, axis_name: AxisName) -> jax.Array:
    """Equal weights for the minority and as many of the majority: those with the highest losses.

    The majority is the class with the most training labels. A batch without any other class keeps
    one example.
    """
    del rng
    major = batch["label"] == jnp.argmax(batch["label_counts"])
    if axis_name is not None:  # the highest losses of the whole batch, not of this part
        losses, major = jax.lax.all_gather((losses, major), axis_name, tiled=True)
    order = jnp.argsort(jnp.where(major, -losses, jnp.inf))
    place = jnp.zeros_like(order).at[order].set(jnp.arange(len(order), dtype=order.dtype))
    chosen = ~major | (place < jnp.maximum(jnp.sum(~major), 1))
    scores = own_part(chosen.astype(losses.dtype), axis_name)
    return example_weights(scores, axis_name=axis_name)


def weighted(losses: jax.Array, batch: Any, rng: jax.Array, axis_name: AxisName) -> jax.Array:
    r"""Oracle weights: the true over the noisy frequency of the label's class.

    .. math:: w_i = \frac{1}{b} n^{true}_{y_i} / n^{noisy}_{y_i}

    A class that the noise made three times as frequent counts for a third. They sum to one on
    average, not in each batch.
    """
    del rng
    ratio = batch["true_counts"] / jnp.maximum(batch["label_counts"], 1)
    return ratio[batch["label"]].astype(losses.dtype) / batch_size(losses, axis_name)


def inverse_loss(losses: jax.Array, batch: Any, rng: jax.Array, axis_name: AxisName) -> jax.Array:
    r"""Weights by the inverse of the loss, :math:`w_i \propto 1 / (\ell_i + 0.3)`, that sum to one.

    An example with a loss that is not finite has weight zero.
    """
    del batch, rng
    # The constant was measured, on digits with uniform noise and on labels by people.
    return example_weights(1 / (losses + 0.3), axis_name=axis_name)


def kept(losses: jax.Array, batch: Any, rng: jax.Array, axis_name: AxisName) -> jax.Array:
    """The weights that the examples last got (``kept_weight``, NaN: none yet), that sum to one.

    An example that has none yet gets the mean weight.
    """
    del rng
    weights = batch["kept_weight"]
    weights = jnp.where(jnp.isnan(weights), 1 / batch_size(losses, axis_name), weights)
    return example_weights(weights, axis_name=axis_name)


def by(weights_fn: WeightsFn) -> MakeValueAndGrad:
    """The method whose weights are ``(losses, batch, rng, axis_name) -> [b]``."""

    def make(
        per_example_loss_fn: LossFn,
        clean_loss_fn: LossFn,
        *,
        rng: jax.Array,
        axis_name: AxisName = None,
    ) -> BatchValueAndGrad:
        del clean_loss_fn

        def value_and_grad(
            params: optax.Params, batch: Any, clean_batch: Any
        ) -> tuple[tuple[jax.Array, ReweightAux], optax.Updates]:
            del clean_batch
            losses, pullback, aux = jax.vjp(
                lambda p: per_example_loss_fn(p, batch), vary(params, axis_name), has_aux=True
            )
            weights = weights_fn(losses, batch, rng, axis_name)
            loss, grads = weighted_sum(weights, losses, pullback, axis_name)
            no_clean_loss = jnp.full_like(loss, jnp.nan)
            return (loss, ReweightAux(weights, weights, losses, no_clean_loss, aux)), grads

        return value_and_grad

    return make


def batch_size(losses: jax.Array, axis_name: AxisName) -> int:
    """Examples in the whole batch, which ``axis_name`` divides."""
    return len(losses) * (1 if axis_name is None else jax.lax.axis_size(axis_name))


def own_part(whole: jax.Array, axis_name: AxisName) -> jax.Array:
    """This device's part of an array ``[b]`` for the whole batch, which ``axis_name`` divides."""
    if axis_name is None:
        return whole
    size = len(whole) // jax.lax.axis_size(axis_name)
    return jax.lax.dynamic_slice_in_dim(whole, jax.lax.axis_index(axis_name) * size, size)
