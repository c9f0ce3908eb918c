"""The methods of the comparison, each an entry: a weighting, a loss, how batches are drawn.

``METHODS`` names them all, and the trainer knows nothing else of them. The losses see a batch of
``image`` and ``label``.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2rw_jax import losses
from l2rw_jax._messages import nearest
from l2rw_jax.weightings import Weighting, by_loss, evidence, l2rw, learned
from l2rw_jax.weights import example_weights


class StepInfo(NamedTuple):
    """What a step knows beside its batches.

    Attributes:
      rng: a key for this step, the same on all devices.
      learning_rate: the current rate.  # shape=()
      label_counts: training examples by label.  # shape=(K,)
      true_counts: training examples by class before corruption.  # shape=(K,)
    """

    rng: jax.Array
    learning_rate: jax.Array
    label_counts: jax.Array
    true_counts: jax.Array


class Method(NamedTuple):
    """How a method of training weights a batch, computes its loss and draws it.

    Attributes:
      weighting: makes a step's weighting.
      loss: ``(logits, labels) -> [b]``, the training loss; that of the clean batch and of every
        evaluation is cross-entropy.
      balanced: whether batches are drawn equally from every class.
      on_clean: whether the clean batch is trained on, in place of the training batch.
      transition: S-Model's initial label transition, ``"identity"`` or ``"confusion"``; ``""`` for
        no such layer.
      needs: what it needs beside labels: ``"clean"``, the trusted examples, or ``"truth"``, the
        labels before corruption, which only an experiment knows.
      init_weighting: ``(key, num_classes) -> phi``, the first parameters of a learned weighting;
        None where nothing is learned.
    """

    weighting: Callable[[StepInfo], Weighting]
    loss: Callable[[jax.Array, jax.Array], jax.Array] = losses.cross_entropy
    balanced: bool = False
    on_clean: bool = False
    transition: str = ""
    needs: str = ""
    init_weighting: Callable[[jax.Array, int], Any] | None = None


# Weights by the losses and the batch, ``(losses [b], batch) -> [b]``.


def equal(losses: jax.Array, batch: Any) -> jax.Array:
    """Equal weights: ordinary training on the mean loss."""
    del batch
    return jnp.ones_like(losses) / len(losses)


def random(losses: jax.Array, batch: Any, *, rng: jax.Array) -> jax.Array:
    r"""Rectified Gaussian weights, :math:`w_i = \max(z_i, 0) / \sum_j \max(z_j, 0)`."""
    del batch
    return example_weights(jax.random.normal(rng, losses.shape, losses.dtype))


def by_ratio(losses: jax.Array, batch: Any, *, ratio: jax.Array) -> jax.Array:
    r"""Weights by a ratio of the label's class, :math:`w_i = r_{y_i} / b`.

    They sum to one on average, not in each batch. Normalised in each, the majority would get all
    the weight of a batch that holds nothing else.
    """
    return ratio[batch["label"]].astype(losses.dtype) / len(losses)


def proportion(info: StepInfo) -> Weighting:
    r"""Weights by the inverse frequency of the label's class: all classes count the same.

    .. math:: r_k = n / (K n_k)
    """
    counts = info.label_counts
    return by_loss(functools.partial(by_ratio, ratio=counts.sum() / (counts.size * counts)))


def weighted(info: StepInfo) -> Weighting:
    r"""Oracle weights: the true over the noisy frequency of the label's class.

    .. math:: r_k = n^{true}_k / n^{noisy}_k

    A class that the noise made three times as frequent counts for a third.
    """
    ratio = info.true_counts / jnp.maximum(info.label_counts, 1)
    return by_loss(functools.partial(by_ratio, ratio=ratio))


def hard_mining(losses: jax.Array, batch: Any, *, majority: jax.Array) -> jax.Array:
    """Equal weights for the minority and as many of the majority: those with the highest losses.

    The majority is the class with the most training labels. A batch without any other class keeps
    one example.
    """
    major = batch["label"] == majority
    order = jnp.argsort(jnp.where(major, -losses, jnp.inf))
    place = jnp.zeros_like(order).at[order].set(jnp.arange(len(order), dtype=order.dtype))
    chosen = ~major | (place < jnp.maximum(jnp.sum(~major), 1))
    return example_weights(chosen.astype(losses.dtype))


def inverse_loss(losses: jax.Array, batch: Any) -> jax.Array:
    r"""Weights by the inverse of the loss, :math:`w_i \propto 1 / (\ell_i + 0.3)`, that sum to one.

    An example with a loss that is not finite has weight zero.
    """
    del batch
    # The constant was measured, on digits with uniform noise and on human label noise.
    return example_weights(1 / (losses + 0.3))


# Weights that are learned, ``(phi, losses [b], batch) -> [b]``, and their first phi.


def mwnet(phi: Any, losses: jax.Array, batch: Any) -> jax.Array:
    r"""Meta-Weight-Net (Shu et al., NeurIPS 2019): a network of the loss.

    .. math:: b \, w_i = \sigma(V^\top \max(U \ell_i + c, 0) + d)
    """
    del batch
    hidden, output = phi["hidden"], phi["output"]
    activations = jax.nn.relu(losses[:, None] @ hidden["kernel"] + hidden["bias"][None])
    logits = activations @ output["kernel"] + output["bias"][None]
    return jax.nn.sigmoid(logits)[:, 0] / len(losses)


def init_mwnet(key: jax.Array, num_classes: int) -> Any:
    """The first parameters of Meta-Weight-Net's network, 1-100-1, drawn as in its authors' code."""
    del num_classes
    keys = jax.random.split(key, 4)

    def uniform(key: jax.Array, shape: tuple[int, ...], inputs: int) -> jax.Array:
        return jax.random.uniform(key, shape, minval=-(inputs**-0.5), maxval=inputs**-0.5)

    return {
        "hidden": {"kernel": uniform(keys[0], (1, 100), 1), "bias": uniform(keys[1], (100,), 1)},
        "output": {"kernel": uniform(keys[2], (100, 1), 100), "bias": uniform(keys[3], (1,), 100)},
    }


def by_label(phi: jax.Array, losses: jax.Array, batch: Any) -> jax.Array:
    r"""A weight for each label, :math:`b \, w_i = \sigma(\varphi_{y_i})`."""
    return jax.nn.sigmoid(phi[batch["label"]]) / len(losses)


def output_layer(params: optax.Params) -> Any:
    """The mask of a network's last layer, which all models here call ``output``."""
    return {name: name == "output" for name in params}


def _plain(info: StepInfo) -> Weighting:
    del info
    return by_loss(equal)


METHODS = {
    "baseline": Method(_plain),
    "random": Method(lambda info: by_loss(functools.partial(random, rng=info.rng))),
    "clean_only": Method(_plain, on_clean=True, needs="clean"),
    "l2rw": Method(lambda info: l2rw(), needs="clean"),
    "evidence": Method(lambda info: evidence(output_layer), needs="clean"),
    "mwnet": Method(
        lambda info: learned(mwnet, lookahead=optax.sgd(info.learning_rate)),
        needs="clean",
        init_weighting=init_mwnet,
    ),
    "groups": Method(
        lambda info: learned(by_label, lookahead=optax.sgd(info.learning_rate)),
        needs="clean",
        init_weighting=lambda key, num_classes: jnp.zeros(num_classes),
    ),
    "proportion": Method(proportion),
    "resample": Method(_plain, balanced=True),
    "hard_mining": Method(
        lambda info: by_loss(functools.partial(hard_mining, majority=jnp.argmax(info.label_counts)))
    ),
    "weighted": Method(weighted, needs="truth"),
    "inverse_loss": Method(lambda info: by_loss(inverse_loss)),
    "gce": Method(_plain, functools.partial(losses.generalized_cross_entropy, q=0.7)),
    "label_smoothing": Method(
        _plain, functools.partial(losses.smoothed_cross_entropy, smoothing=0.1)
    ),
    "reed_soft": Method(_plain, functools.partial(losses.reed, beta=0.95, hard=False)),
    "reed_hard": Method(_plain, functools.partial(losses.reed, beta=0.8, hard=True)),
    "s_model": Method(_plain, transition="identity"),
    "s_model_conf": Method(_plain, transition="confusion", needs="truth"),
}


def get_method(name: str) -> Method:
    """Returns the ``Method`` of that name.

    Raises:
      ValueError: there is none; names the nearest.

    >>> get_method("s_model").transition
    'identity'
    """
    if name not in METHODS:
        raise ValueError(
            f"method: got {name!r}; takes one of {', '.join(METHODS)}; "
            f"did you mean {nearest(name, METHODS)!r}?"
        )
    return METHODS[name]
