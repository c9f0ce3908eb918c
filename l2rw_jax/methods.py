"""The methods that the paper compares, behind one signature.

A ``Method`` says how to weight a batch, by which loss to train and how to draw the batch;
``METHODS`` names them all, and the trainer knows nothing else of them. Its ``value_and_grad`` is
``make(per_example_loss_fn, clean_loss_fn, *, rng, axis_name=None)`` and returns
``fn(params, batch, clean_batch) -> ((loss, ReweightAux), grads)``:

- ``per_example_loss_fn`` is ``(params, batch) -> ([b], aux)``, ``clean_loss_fn`` is
  ``(params, clean_batch) -> []``, ``rng`` a key for this step.
- ``batch`` is a dict with ``image``, ``label``, ``progress`` (the share of the training that is
  done, ``[]``), and the classes' counts ``[K]`` among the training labels as they are
  (``label_counts``) and as they were before corruption (``true_counts``).
- ``evidence`` asks for ``logits`` and ``features`` (what the last layer sees) in ``aux``, a dict.
- A method that does not look at the clean loss leaves NaN for it, and its scores are its weights.
- With ``axis_name`` the result is the whole batch's on one device, whatever the method.
"""

import difflib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from l2rw_jax import losses
from l2rw_jax._passes import vary
from l2rw_jax._types import AxisName, LossFn
from l2rw_jax.evidence import evidence_weights
from l2rw_jax.gradients import ReweightAux, reweighted_value_and_grad, weighted_sum
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


class Method(NamedTuple):
    """What tells one method of training from another.

    Attributes:
      value_and_grad: makes the function for a batch's loss and gradient.
      loss: ``(logits, labels) -> [b]``, the training loss; that of the clean batch and of every
        evaluation is cross-entropy.
      balanced: whether batches are drawn equally from every class.
      transition: S-Model's initial label transition, ``"identity"`` or ``"confusion"``; ``""`` for
        no such layer.
      needs: what it needs beside labels: ``"clean"``, the trusted examples, or ``"truth"``, the
        labels before corruption, which only an experiment knows.
    """

    value_and_grad: MakeValueAndGrad
    loss: Callable[[jax.Array, jax.Array], jax.Array] = losses.cross_entropy
    balanced: bool = False
    transition: str = ""
    needs: str = ""


def l2rw(
    per_example_loss_fn: LossFn,
    clean_loss_fn: LossFn,
    *,
    rng: jax.Array,
    axis_name: AxisName = None,
    inner_state: optax.OptState = None,
    **options: Any,
) -> BatchValueAndGrad:
    """Weights by the clean batch's meta-gradient: the paper's method.

    ``options`` are those of ``reweighted_value_and_grad``: inner, mode, lookahead_mask, min_weight;
    ``inner_state`` is the inner optimizer's.
    """
    del rng
    value_and_grad = reweighted_value_and_grad(
        per_example_loss_fn, clean_loss_fn, has_aux=True, axis_name=axis_name, **options
    )
    return functools.partial(value_and_grad, inner_state=inner_state)


def evidence(
    per_example_loss_fn: LossFn,
    clean_loss_fn: LossFn,
    *,
    rng: jax.Array,
    axis_name: AxisName = None,
) -> BatchValueAndGrad:
    """Weights by the clean examples' votes, as far as they agree: see ``l2rw_jax.evidence``."""
    del clean_loss_fn, rng

    def value_and_grad(
        params: optax.Params, batch: Any, clean_batch: Any
    ) -> tuple[tuple[jax.Array, ReweightAux], optax.Updates]:
        losses, pullback, aux = jax.vjp(
            lambda p: per_example_loss_fn(p, batch), vary(params, axis_name), has_aux=True
        )
        clean_losses, clean = per_example_loss_fn(params, clean_batch)
        weights, scores = evidence_weights(
            *(aux["logits"], batch["label"], aux["features"]),
            *(clean["logits"], clean_batch["label"], clean["features"]),
            axis_name=axis_name,
        )
        loss, grads = weighted_sum(weights, losses, pullback, axis_name)
        clean_loss = clean_losses.mean()
        if axis_name is not None:
            clean_loss = jax.lax.pmean(clean_loss, axis_name)
        return (loss, ReweightAux(weights, scores, losses, clean_loss, aux)), grads

    return value_and_grad


def equal(losses: jax.Array, batch: Any, rng: jax.Array, axis_name: AxisName) -> jax.Array:
    """Equal weights: ordinary training on the mean loss."""
    del batch, rng
    return jnp.ones_like(losses) / _batch_size(losses, axis_name)


def random(losses: jax.Array, batch: Any, rng: jax.Array, axis_name: AxisName) -> jax.Array:
    r"""Rectified Gaussian weights, :math:`w_i = \max(z_i, 0) / \sum_j \max(z_j, 0)`."""
    del batch
    size = _batch_size(losses, axis_name)
    scores = own_part(jax.random.normal(rng, (size,), losses.dtype), axis_name)
    return example_weights(scores, axis_name=axis_name)


def proportion(losses: jax.Array, batch: Any, rng: jax.Array, axis_name: AxisName) -> jax.Array:
    r"""Weights by the inverse frequency of the label's class, so that all classes count the same.

    .. math:: w_i = \frac{1}{b} \frac{n}{K n_{y_i}}

    They sum to one in the mean and not in each batch: else the majority would have all the weight
    of a batch that holds nothing else.
    """
    del rng
    counts = batch["label_counts"]
    ratio = counts.sum() / (counts.size * counts)
    return ratio[batch["label"]].astype(losses.dtype) / _batch_size(losses, axis_name)


def hard_mining(losses: jax.Array, batch: Any, rng: jax.Array, axis_name: AxisName) -> jax.Array:
    """Equal weights for the minority and as many of the majority: those with the highest losses.

    The majority is the class with the most training labels. A batch without any other class keeps
    one example.
    """
    del rng
    major = batch["label"] == jnp.argmax(batch["label_counts"])
    if axis_name is not None:  # which losses are the highest is the whole batch's matter
        losses, major = jax.lax.all_gather((losses, major), axis_name, tiled=True)
    order = jnp.argsort(jnp.where(major, -losses, jnp.inf))
    place = jnp.zeros_like(order).at[order].set(jnp.arange(len(order), dtype=order.dtype))
    chosen = ~major | (place < jnp.maximum(jnp.sum(~major), 1))
    scores = own_part(chosen.astype(losses.dtype), axis_name)
    return example_weights(scores, axis_name=axis_name)


def weighted(losses: jax.Array, batch: Any, rng: jax.Array, axis_name: AxisName) -> jax.Array:
    r"""Weights by the oracle's class frequencies: true over noisy, of the label's class.

    .. math:: w_i = \frac{1}{b} n^{true}_{y_i} / n^{noisy}_{y_i}

    A class that the noise made three times as frequent counts for a third. They sum to one in the
    mean and not in each batch.
    """
    del rng
    ratio = batch["true_counts"] / jnp.maximum(batch["label_counts"], 1)
    return ratio[batch["label"]].astype(losses.dtype) / _batch_size(losses, axis_name)


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


def clean_only(
    per_example_loss_fn: LossFn,
    clean_loss_fn: LossFn,
    *,
    rng: jax.Array,
    axis_name: AxisName = None,
) -> BatchValueAndGrad:
    """Trains on the clean batch alone; every weight of the training batch is zero."""
    on_clean = by(equal)(per_example_loss_fn, clean_loss_fn, rng=rng, axis_name=axis_name)

    def value_and_grad(
        params: optax.Params, batch: Any, clean_batch: Any
    ) -> tuple[tuple[jax.Array, ReweightAux], optax.Updates]:
        (loss, aux), grads = on_clean(params, clean_batch, None)
        nothing = jnp.zeros(batch["label"].shape, aux.losses.dtype)
        aux = aux._replace(weights=nothing, scores=nothing, losses=nothing, clean_loss=loss)
        return (loss, aux), grads

    return value_and_grad


METHODS = {
    "baseline": Method(by(equal)),
    "random": Method(by(random)),
    "clean_only": Method(clean_only, needs="clean"),
    "l2rw": Method(l2rw, needs="clean"),
    "evidence": Method(evidence, needs="clean"),
    "proportion": Method(by(proportion)),
    "resample": Method(by(equal), balanced=True),
    "hard_mining": Method(by(hard_mining)),
    "weighted": Method(by(weighted), needs="truth"),
    "gce": Method(by(equal), functools.partial(losses.generalized_cross_entropy, q=0.7)),
    "label_smoothing": Method(
        by(equal), functools.partial(losses.smoothed_cross_entropy, smoothing=0.1)
    ),
    "reed_soft": Method(by(equal), functools.partial(losses.reed, beta=0.95, hard=False)),
    "reed_hard": Method(by(equal), functools.partial(losses.reed, beta=0.8, hard=True)),
    "s_model": Method(by(equal), transition="identity"),
    "s_model_conf": Method(by(equal), transition="confusion", needs="truth"),
}


def get_method(name: str) -> Method:
    """Returns the ``Method`` of that name.

    Raises:
      ValueError: there is none; names the nearest.

    >>> get_method("s_model").transition
    'identity'
    """
    if name not in METHODS:
        nearest = difflib.get_close_matches(str(name), METHODS, 1, cutoff=0)[0]
        raise ValueError(
            f"method: got {name!r}; takes one of {', '.join(METHODS)}; did you mean {nearest!r}?"
        )
    return METHODS[name]


def _batch_size(losses: jax.Array, axis_name: AxisName) -> int:
    """Examples in the whole batch, which ``axis_name`` divides."""
    return len(losses) * (1 if axis_name is None else jax.lax.axis_size(axis_name))


def own_part(whole: jax.Array, axis_name: AxisName) -> jax.Array:
    """This device's part of an array ``[b]`` for the whole batch, which ``axis_name`` divides."""
    if axis_name is None:
        return whole
    size = len(whole) // jax.lax.axis_size(axis_name)
    return jax.lax.dynamic_slice_in_dim(whole, jax.lax.axis_index(axis_name) * size, size)
