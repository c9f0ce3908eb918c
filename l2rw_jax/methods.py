"""The ways to weight a batch that the paper compares, behind one signature.

A method is a function ``method(per_example_loss_fn, *, rng, axis_name=None)`` that returns
``fn(params, batch, clean_batch) -> ((loss, ReweightAux), grads)``. ``per_example_loss_fn`` is
``(params, batch) -> ([b], aux)``, ``batch`` a dict with ``image`` and ``label``, ``rng`` a key for
this step. A method that does not look at the clean loss leaves NaN for it. ``METHODS`` names them
all; the trainer knows nothing else of them.
"""

import difflib

import jax
import jax.numpy as jnp

from l2rw_jax.gradients import ReweightAux, reweighted_value_and_grad, weighted_sum
from l2rw_jax.scores import vary
from l2rw_jax.weights import example_weights


def l2rw(per_example_loss_fn, *, rng, axis_name=None):
    """Weights by the clean batch's meta-gradient: the paper's method."""
    del rng

    def clean_loss_fn(params, clean_batch):
        return per_example_loss_fn(params, clean_batch)[0].mean()

    return reweighted_value_and_grad(
        per_example_loss_fn, clean_loss_fn, has_aux=True, axis_name=axis_name
    )


def baseline(per_example_loss_fn, *, rng, axis_name=None):
    """Equal weights: ordinary training on the mean loss."""
    del rng
    return _weighted(per_example_loss_fn, lambda losses, batch: jnp.ones_like(losses), axis_name)


def random(per_example_loss_fn, *, rng, axis_name=None):
    r"""Rectified Gaussian weights, :math:`w_i = \max(z_i, 0) / \sum_j \max(z_j, 0)`."""
    if axis_name is not None:
        rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))

    def gaussian(losses, batch):
        del batch
        return jax.random.normal(rng, losses.shape, losses.dtype)

    return _weighted(per_example_loss_fn, gaussian, axis_name)


def clean_only(per_example_loss_fn, *, rng, axis_name=None):
    """Trains on the clean batch alone; every weight of the training batch is zero."""
    on_clean = baseline(per_example_loss_fn, rng=rng, axis_name=axis_name)

    def value_and_grad(params, batch, clean_batch):
        (loss, aux), grads = on_clean(params, clean_batch, None)
        nothing = jnp.zeros(batch["label"].shape, aux.losses.dtype)
        aux = aux._replace(weights=nothing, scores=nothing, losses=nothing, val_loss=loss)
        return (loss, aux), grads

    return value_and_grad


METHODS = {"baseline": baseline, "random": random, "clean_only": clean_only, "l2rw": l2rw}


def get_method(name):
    """Returns the method of that name.

    Raises:
      ValueError: there is none; names the nearest.

    >>> get_method("l2rw").__name__
    'l2rw'
    """
    if name not in METHODS:
        nearest = difflib.get_close_matches(str(name), METHODS, 1, cutoff=0)[0]
        raise ValueError(
            f"method: got {name!r}; takes one of {', '.join(METHODS)}; did you mean {nearest!r}?"
        )
    return METHODS[name]


def _weighted(per_example_loss_fn, scores_fn, axis_name):
    """A method whose scores are a function ``(losses, batch) -> [b]`` of the batch alone."""

    def value_and_grad(params, batch, clean_batch):
        del clean_batch
        losses, pullback, aux = jax.vjp(
            lambda p: per_example_loss_fn(p, batch), vary(params, axis_name), has_aux=True
        )
        scores = scores_fn(losses, batch)
        weights = example_weights(scores, axis_name=axis_name)
        loss, grads = weighted_sum(weights, losses, pullback, axis_name)
        return (
            loss,
            ReweightAux(weights, scores, losses, jnp.full_like(loss, jnp.nan), aux),
        ), grads

    return value_and_grad
