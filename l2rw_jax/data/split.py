"""Clean, validation and training parts of one training set."""

from typing import NamedTuple

import numpy as np

from l2rw_jax.data._check import check_bool, check_integer, check_labels, check_seed
from l2rw_jax.data._draw import draw_per_class, spread


class Split(NamedTuple):
    """Pairwise disjoint, sorted int64 indices that together cover the training set."""

    train: np.ndarray
    clean: np.ndarray
    val: np.ndarray


def split(
    labels: np.ndarray,
    *,
    clean_size: int,
    val_size: int,
    num_classes: int,
    balanced: bool = True,
    seed: int,
) -> Split:
    """Draws the clean set, then a uniform validation set from the rest; what is left is training.

    Args:
        labels: [n] integers in 0..num_classes-1.
        clean_size: number of clean examples.
        val_size: number of validation examples.
        num_classes: number of classes K, at least 2.
        balanced: draw clean_size // K clean examples of each class, and one more of randomly
            chosen classes where that does not divide; otherwise draw uniformly.
        seed: seed of the draw, an integer of at least 0.

    Returns:
        Split of all n indices.

    Raises:
        ValueError: bad labels, size or seed, a class with too few examples, or no example
            left to train on.

    >>> parts = split(np.arange(20) % 2, clean_size=4, val_size=6, num_classes=2, seed=0)
    >>> [len(part) for part in parts], int((parts.clean % 2).sum())
    ([10, 4, 6], 2)
    """
    num_classes = check_integer("num_classes", num_classes, 2)
    labels = check_labels(labels, num_classes)
    clean_size = check_integer("clean_size", clean_size, 0)
    val_size = check_integer("val_size", val_size, 0)
    check_bool("balanced", balanced)
    if clean_size + val_size >= len(labels):
        raise ValueError(
            f"clean_size {clean_size} and val_size {val_size} leave none of {len(labels)} examples "
            f"to train on: make them smaller"
        )
    rng = np.random.default_rng(check_seed(seed))
    everything = np.arange(len(labels))
    if balanced:
        counts = spread(rng, clean_size, num_classes)
        clean = draw_per_class(rng, labels, dict(enumerate(counts.tolist())))
    else:
        clean = np.sort(rng.choice(everything, clean_size, replace=False))
    rest = np.setdiff1d(everything, clean, assume_unique=True)
    val = np.sort(rng.choice(rest, val_size, replace=False))
    return Split(np.setdiff1d(rest, val, assume_unique=True), clean, val)
