"""From a config to the data of a run: load, thin, split, corrupt, put on the device."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2rw_jax import data
from l2rw_jax.training.config import ConfigError


class Part(NamedTuple):
    """Some examples of a set of images, by index.

    Attributes:
      index: rows of the images.  # shape=(n,), dtype=int32
      label: labels to train on or to test by.  # shape=(n,), dtype=int32
    """

    index: Any
    label: Any


class RunData(NamedTuple):
    """The data of a run.

    Attributes:
      images: all images of the training set.  # shape=(N, h, w, c), dtype=uint8
      train: what is trained on, labels corrupted.
      corrupted: whether a training label was changed.  # shape=(n,), dtype=bool
      clean: the trusted examples.
      val: the hyper-validation set, corrupted like the training set.
      test_images: images of the test set.  # shape=(M, h, w, c), dtype=uint8
      test_labels: their labels.  # shape=(M,), dtype=int32
    """

    images: Any
    train: Part
    corrupted: Any
    clean: Part
    val: Part
    test_images: Any
    test_labels: Any


def prepare(config):
    """Loads and splits the data of a run; everything random in it follows from ``config.seed``.

    Args:
      config: a validated config.

    Returns:
      ``(RunData, num_classes)``, the arrays on the host.

    Raises:
      ConfigError: the data cannot be loaded, or not split as the config asks.
    """
    try:
        return _prepare(config)
    except (ValueError, OSError) as error:
        raise ConfigError(f"config.dataset={config.dataset}: {error}") from error


def _prepare(config):
    dataset = data.load(config.dataset, data_dir=config.data_dir or None)
    num_classes = len(config.classes) or dataset.num_classes
    chosen, labels = _select(dataset.train_labels, config.classes, dataset.num_classes)
    test_chosen, test_labels = _select(dataset.test_labels, config.classes, dataset.num_classes)
    # A stream each, so that more noise, say, leaves the split as it is.
    imbalance_seed, split_seed, noise_seed, val_noise_seed = (
        int(seed) for seed in np.random.SeedSequence(config.seed).generate_state(4)
    )

    kept = _thin(config.imbalance, labels, num_classes, imbalance_seed)
    chosen, labels = chosen[kept], labels[kept]
    train, clean, val = data.split(
        labels,
        clean_size=config.clean_size,
        val_size=config.val_size,
        num_classes=num_classes,
        balanced=config.clean_balanced,
        seed=split_seed,
    )
    if config.batch_size > len(train):
        raise ValueError(
            f"config.batch_size is {config.batch_size}, but only {len(train)} images are left to "
            "train on: make it smaller"
        )
    noisy, corrupted = _corrupt(config.noise, labels[train], num_classes, noise_seed)
    val_noisy, _ = _corrupt(config.noise, labels[val], num_classes, val_noise_seed)

    def part(index, label):
        return Part(chosen[index].astype(np.int32), label.astype(np.int32))

    run_data = RunData(
        images=dataset.train_images,
        train=part(train, noisy),
        corrupted=corrupted,
        clean=part(clean, labels[clean]),
        val=part(val, val_noisy),
        test_images=dataset.test_images[test_chosen] if config.classes else dataset.test_images,
        test_labels=test_labels,
    )
    return run_data, num_classes


def to_device(run_data):
    """Puts a run's arrays on the device, the images as uint8."""
    return jax.tree.map(jnp.asarray, run_data)


def _select(labels, classes, num_classes):
    """Indices of the examples of ``classes``, and their labels renumbered in that order."""
    if not classes and not (labels.min() >= 0 and labels.max() < num_classes):
        span = f"{labels.min()}..{labels.max()}"
        raise ValueError(f"its labels span {span}: give a set labelled 0..{num_classes - 1}")
    if not classes:
        return np.arange(len(labels)), np.asarray(labels)
    distinct = len(set(classes)) == len(classes) > 1
    if not distinct or not all(0 <= label < num_classes for label in classes):
        raise ValueError(f"config.classes is {classes}: give two or more of 0..{num_classes - 1}")
    renumber = np.full(num_classes, -1, np.int32)
    renumber[list(classes)] = np.arange(len(classes))
    chosen = np.flatnonzero(renumber[labels] >= 0)
    return chosen, renumber[labels[chosen]]


def _thin(imbalance, labels, num_classes, seed):
    if imbalance.kind == "majority":
        return data.majority_subset(
            labels, imbalance.share, majority=num_classes - 1, total=imbalance.total, seed=seed
        )
    if imbalance.kind == "long_tail":
        return data.long_tail_subset(labels, imbalance.share, num_classes=num_classes, seed=seed)
    return np.arange(len(labels))


def _corrupt(noise, labels, num_classes, seed):
    if noise.kind == "uniform":
        return data.uniform_flip(labels, noise.ratio, num_classes=num_classes, seed=seed)
    if noise.kind == "background":
        return data.background_flip(
            labels,
            noise.ratio,
            background=noise.background,
            num_classes=num_classes,
            seed=seed,
        )
    return labels, np.zeros(len(labels), bool)
