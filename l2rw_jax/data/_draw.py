"""Draws by class, shared by `corrupt` and `split`."""

from collections.abc import Mapping

import numpy as np


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
