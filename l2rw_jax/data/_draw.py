"""Draws by class, shared by `corrupt` and `split`."""

from collections.abc import Mapping

import numpy as np


def check_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns labels as an int32 array after checking them.

    Args:
        labels: [n] integer class indices.
        num_classes: number of classes K, at least 2.

    Raises:
        ValueError: K < 2, or labels are not [n] integers in 0..K-1.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}: give at least 2 classes")
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels is {labels.dtype} {list(labels.shape)}: give integers of shape [n]"
        )
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"labels span {labels.min()}..{labels.max()}: give classes 0..{num_classes - 1}, "
            f"or raise num_classes"
        )
    return labels.astype(np.int32)


def spread(rng: np.random.Generator, total: int, parts: int) -> np.ndarray:
    """Splits total into integers [parts] that differ by at most 1, the larger ones at random."""
    counts = np.full(parts, total // parts)
    counts[rng.permutation(parts)[: total % parts]] += 1
    return counts


def draw_per_class(
    rng: np.random.Generator, labels: np.ndarray, counts: Mapping[int, int]
) -> np.ndarray:
    """Draws `counts[c]` examples of each class c without replacement.

    Returns:
        Sorted int64 indices into labels.

    Raises:
        ValueError: a class has too few examples.
    """
    drawn = []
    for label, count in counts.items():
        members = np.flatnonzero(labels == label)
        if count > len(members):
            raise ValueError(
                f"class {label} has {len(members)} examples but {count} are needed: ask for fewer"
            )
        drawn.append(rng.choice(members, count, replace=False))
    return np.sort(np.concatenate(drawn))
