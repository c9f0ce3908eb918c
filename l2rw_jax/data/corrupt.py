"""Label noise and class imbalance, on the host and fixed by an integer seed.

Counts are exact: `round` (half to even) of the ratio times the number of examples.
"""

import numpy as np

from l2rw_jax.data._check import check_integer, check_labels, check_ratio, check_seed
from l2rw_jax.data._draw import draw_per_class, spread


def uniform_flip(
    labels: np.ndarray, ratio: float, *, num_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Moves round(ratio * n) examples to another class, each other class being equally likely.

    Args:
        labels: [n] integers in 0..num_classes-1.
        ratio: share of the examples to corrupt, in [0, 1).
        num_classes: number of classes, at least 2.
        seed: seed of the draw, an integer of at least 0.

    Returns:
        noisy labels [n] int32, and corrupted [n] bool, true exactly where the label changed.

    Raises:
        ValueError: bad labels or seed, or ratio outside [0, 1).

    >>> noisy, corrupted = uniform_flip(np.zeros(10, int), 0.4, num_classes=3, seed=0)
    >>> int(corrupted.sum()), bool(np.all(corrupted == (noisy != 0)))
    (4, True)
    """
    num_classes = check_integer("num_classes", num_classes, 2)
    labels = check_labels(labels, num_classes)
    ratio = check_ratio("ratio", ratio)
    rng = np.random.default_rng(check_seed(seed))
    chosen = rng.choice(len(labels), round(ratio * len(labels)), replace=False)
    # A shift by 1..K-1 cannot land on the old class, so the noise rate is exact.
    shift = rng.integers(1, num_classes, size=len(chosen))
    return _relabel(labels, chosen, (labels[chosen] + shift) % num_classes)


def background_flip(
    labels: np.ndarray, ratio: float, *, background: int, num_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Moves round(ratio * k) of the k examples outside the background class into it.

    Args:
        labels: [n] integers in 0..num_classes-1.
        ratio: share of the non-background examples to corrupt, in [0, 1).
        background: the class that takes them.
        num_classes: number of classes, at least 2.
        seed: seed of the draw, an integer of at least 0.

    Returns:
        noisy labels [n] int32, and corrupted [n] bool, true exactly where the label changed.

    Raises:
        ValueError: bad labels or seed, ratio outside [0, 1), or background not a class.

    >>> noisy, _ = background_flip(np.array([0, 1, 2, 1]), 0.7, background=0, num_classes=3, seed=0)
    >>> int((noisy == 0).sum())
    3
    """
    num_classes = check_integer("num_classes", num_classes, 2)
    labels = check_labels(labels, num_classes)
    ratio = check_ratio("ratio", ratio)
    background = check_integer("background", background, 0, num_classes - 1)
    others = np.flatnonzero(labels != background)
    rng = np.random.default_rng(check_seed(seed))
    chosen = rng.choice(others, round(ratio * len(others)), replace=False)
    return _relabel(labels, chosen, background)


def majority_subset(
    labels: np.ndarray, share: float, *, majority: int, total: int, seed: int
) -> np.ndarray:
    """Draws round(share * total) examples of one class, the rest evenly from the other classes.

    The classes are those that occur in labels. What does not divide evenly goes to classes
    chosen at random, at most one more example each.

    Args:
        labels: [n] integers of at least 0.
        share: share of the majority class, in [0, 1).
        majority: the majority class.
        total: number of examples to draw.
        seed: seed of the draw, an integer of at least 0.

    Returns:
        indices [total] int64, sorted.

    Raises:
        ValueError: bad labels or seed, share outside [0, 1), total < 1, fewer than two classes, or
            a class with too few examples.

    >>> labels = np.repeat([4, 9], 1000)
    >>> indices = majority_subset(labels, 0.995, majority=9, total=1000, seed=0)
    >>> np.bincount(labels[indices])[[4, 9]].tolist()
    [5, 995]
    """
    labels = check_labels(labels)
    share = check_ratio("share", share)
    majority = check_integer("majority", majority, 0)
    total = check_integer("total", total, 1)
    others = [int(label) for label in np.unique(labels) if label != majority]
    if not others:
        raise ValueError(f"labels hold no class but majority={majority}: give at least two classes")
    rng = np.random.default_rng(check_seed(seed))
    count = round(share * total)
    rest = spread(rng, total - count, len(others))
    counts = {majority: count, **dict(zip(others, rest.tolist(), strict=True))}
    return draw_per_class(rng, labels, counts)


def long_tail_subset(
    labels: np.ndarray, ratio: float, *, num_classes: int, seed: int
) -> np.ndarray:
    """Thins class c of K to floor(count_c * ratio ** (c / (K - 1))) examples, at least one.

    Args:
        labels: [n] integers in 0..num_classes-1.
        ratio: size of the last class over that of class 0 when all start equal, in (0, 1].
        num_classes: number of classes K, at least 2.
        seed: seed of the draw, an integer of at least 0.

    Returns:
        Sorted int64 indices into labels.

    Raises:
        ValueError: bad labels or seed, ratio outside (0, 1], or a class without examples.

    >>> labels = np.repeat([0, 1, 2], 100)
    >>> np.bincount(labels[long_tail_subset(labels, 0.01, num_classes=3, seed=0)]).tolist()
    [100, 10, 1]
    """
    num_classes = check_integer("num_classes", num_classes, 2)
    labels = check_labels(labels, num_classes)
    ratio = check_ratio("ratio", ratio, zero=False)
    counts = np.bincount(labels, minlength=num_classes)
    kept = np.maximum(1, counts * ratio ** (np.arange(num_classes) / (num_classes - 1)))
    rng = np.random.default_rng(check_seed(seed))
    return draw_per_class(rng, labels, dict(enumerate(kept.astype(int).tolist())))


def _relabel(
    labels: np.ndarray, chosen: np.ndarray, new: np.ndarray | int
) -> tuple[np.ndarray, np.ndarray]:
    noisy = labels.copy()
    noisy[chosen] = new
    return noisy, noisy != labels
