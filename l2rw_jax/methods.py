"""The methods that the paper compares, behind one signature.

A ``Method`` says how to weight a batch, by which loss to train and how to draw the batch;
``METHODS`` names them all, and the trainer knows nothing else of them. Its ``value_and_grad`` is
``make(per_example_loss_fn, clean_loss_fn, *, rng, axis_name=None)`` and returns
``fn(params, batch, clean_batch) -> ((loss, ReweightAux), grads)``:

- ``per_example_loss_fn`` is ``(params, batch) -> ([b], aux)``, ``clean_loss_fn`` is
  ``(params, clean_batch) -> []``, ``rng`` a key for this step.
- ``batch`` is a dict with ``image``, ``label``, and the classes' counts ``[K]`` among the training
  labels as they are (``label_counts``) and as they were before corruption (``true_counts``).
- A method with ``init_weighting`` has its phi under ``weighting`` in ``params``, a dict, and asks
  for the look-ahead's ``learning_rate`` in the batch, ``[]``.
- ``aux`` is a dict with ``logits``, which ``clean_only`` and ``evidence`` ask for, and for
  ``evidence`` ``features``, what the last layer sees.
- A method that does not look at the clean loss leaves NaN for it, and its scores are its weights.
- With ``axis_name`` the result is the whole batch's on one device, whatever the method.
"""

import difflib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2rw_jax import losses
from l2rw_jax._learned_weightings import groups, init_mwnet, learned, mwnet
from l2rw_jax._passes import vary
from l2rw_jax._types import AxisName, LossFn
from l2rw_jax._weightings import (
    BatchValueAndGrad,
    MakeValueAndGrad,
    batch_size,
    by,
    equal,
    hard_mining,
    inverse_loss,
    kept,
    proportion,
    random,
    weighted,
)
from l2rw_jax.evidence import evidence_weights
from l2rw_jax.gradients import ReweightAux, reweighted_value_and_grad, weighted_sum
from l2rw_jax.weights import example_weights

WEIGHTINGS = ("proportional", "sign", "relative")  # of l2rw, see score_weights


class Method(NamedTuple):
    """How a method of training weights a batch, computes its loss and draws it.

    Attributes:
      value_and_grad: makes the function for a batch's loss and gradient.
      loss: ``(logits, labels) -> [b]``, the training loss; that of the clean batch and of every
        evaluation is cross-entropy.
      balanced: whether batches are drawn equally from every class.
      transition: S-Model's initial label transition, ``"identity"`` or ``"confusion"``; ``""`` for
        no such layer.
      needs: what it needs beside labels: ``"clean"``, the trusted examples, or ``"truth"``, the
        labels before corruption, which only an experiment knows.
      init_weighting: ``(key, num_classes) -> phi``, the first parameters of a learned weighting;
        None where nothing is learned.
    """

    value_and_grad: MakeValueAndGrad
    loss: Callable[[jax.Array, jax.Array], jax.Array] = losses.cross_entropy
    balanced: bool = False
    transition: str = ""
    needs: str = ""
    init_weighting: Callable[[jax.Array, int], Any] | None = None


def l2rw(
    per_example_loss_fn: LossFn,
    clean_loss_fn: LossFn,
    *,
    rng: jax.Array,
    axis_name: AxisName = None,
    inner_state: optax.OptState = None,
    weighting: str = "proportional",
    min_weight: float = 0.0,
    equal_share: float = 0.0,
    **options: Any,
) -> BatchValueAndGrad:
    """Weights by the clean batch's meta-gradient: the paper's method.

    ``weighting``, ``min_weight`` and ``equal_share`` are those of ``score_weights``, ``options``
    those of ``reweighted_value_and_grad``: inner, mode, lookahead_mask; ``inner_state`` is the
    inner optimizer's. Where the batch has ``scored``, ``[]`` bool, and it is false, the examples
    keep their weights, ``kept_weight`` ``[b]``: such a step costs what a plain one does.
    """
    weights_fn = functools.partial(
        score_weights,
        weighting=weighting,
        min_weight=min_weight,
        equal_share=equal_share,
        axis_name=axis_name,
    )
    value_and_grad = reweighted_value_and_grad(
        per_example_loss_fn,
        clean_loss_fn,
        has_aux=True,
        weights_fn=weights_fn,
        axis_name=axis_name,
        **options,
    )
    scored = functools.partial(value_and_grad, inner_state=inner_state)
    unscored = by(kept)(per_example_loss_fn, clean_loss_fn, rng=rng, axis_name=axis_name)

    def scored_or_not(
        params: optax.Params, batch: Any, clean_batch: Any
    ) -> tuple[tuple[jax.Array, ReweightAux], optax.Updates]:
        if "scored" not in batch:
            return scored(params, batch, clean_batch)
        return jax.lax.cond(batch["scored"], scored, unscored, params, batch, clean_batch)

    return scored_or_not


def score_weights(
    scores: jax.Array,
    losses: jax.Array,
    *,
    weighting: str = "proportional",
    min_weight: float = 0.0,
    equal_share: float = 0.0,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Weights by the scores in one of three ways, mixed with equal weights.

    .. math:: w_i = (1 - a) \, \frac{\max(v_i, 0)}{\sum_j \max(v_j, 0)} + \frac{a}{b}

    ``weighting`` is ``"proportional"``, :math:`v_i = u_i`, the paper's; ``"sign"``, the scores'
    signs; or ``"relative"``, :math:`v_i = u_i / (\ell_i + 0.1)`, nearly the score of the loss's
    logarithm, so that a large loss does not count for being large. ``min_weight`` is the least
    :math:`v_i`, ``equal_share`` is a. A score that is not finite has weight zero.
    """
    finite = jnp.isfinite(scores)
    if weighting == "sign":
        scores = jnp.where(finite, jnp.sign(scores), jnp.nan)
    elif weighting == "relative":
        scores = scores / (losses + 0.1)
    weights = example_weights(scores, min_weight=min_weight, axis_name=axis_name)
    if not equal_share:
        return weights
    return (1 - equal_share) * weights + equal_share * finite / batch_size(losses, axis_name)


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


def clean_only(
    per_example_loss_fn: LossFn,
    clean_loss_fn: LossFn,
    *,
    rng: jax.Array,
    axis_name: AxisName = None,
) -> BatchValueAndGrad:
    """Trains on the clean batch alone; every weight of the training batch is zero.

    ``aux`` has the training batch's logits, for the record; everything else is the clean batch's.
    """
    on_clean = by(equal)(per_example_loss_fn, clean_loss_fn, rng=rng, axis_name=axis_name)

    def value_and_grad(
        params: optax.Params, batch: Any, clean_batch: Any
    ) -> tuple[tuple[jax.Array, ReweightAux], optax.Updates]:
        (loss, aux), grads = on_clean(params, clean_batch, None)
        nothing = jnp.zeros(batch["label"].shape, aux.losses.dtype)
        _, seen = per_example_loss_fn(params, batch)
        aux = aux._replace(weights=nothing, scores=nothing, losses=nothing, clean_loss=loss)
        aux = aux._replace(aux=aux.aux | {"logits": seen["logits"]})
        return (loss, aux), grads

    return value_and_grad


METHODS = {
    "baseline": Method(by(equal)),
    "random": Method(by(random)),
    "clean_only": Method(clean_only, needs="clean"),
    "l2rw": Method(l2rw, needs="clean"),
    "evidence": Method(evidence, needs="clean"),
    "mwnet": Method(learned(mwnet), needs="clean", init_weighting=init_mwnet),
    "groups": Method(
        learned(groups),
        needs="clean",
        init_weighting=lambda key, num_classes: jnp.zeros(num_classes),
    ),
    "proportion": Method(by(proportion)),
    "resample": Method(by(equal), balanced=True),
    "hard_mining": Method(by(hard_mining)),
    "weighted": Method(by(weighted), needs="truth"),
    "inverse_loss": Method(by(inverse_loss)),
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
