"""How likely a label is right, by a classifier's probabilities."""

from collections.abc import Iterable, Iterator

import numpy as np

_BLOCK = 2**22  # probabilities at a time


Beliefs = np.ndarray | Iterable[np.ndarray]  # [n, K], or blocks of its rows


def label_quality(probabilities: Beliefs, labels: np.ndarray) -> np.ndarray:
    r"""How likely each label is right, given that it was given.

    .. math:: q_i = \frac{p_{iy} T_{yy}}{\sum_k p_{ik} T_{ky}}, \quad y = y_i, \quad
              T_{ky} = \frac{\sum_{j: y_j = y} p_{jk}}{\sum_j p_{jk}}

    Bayes' rule: T is how often the examples of class k have the label y, by the networks' own
    probabilities. A label that many wrong examples have got is doubted more than another. (Taking
    T anew from the result, and so on, is expectation maximisation. It made the result worse on
    human labels: the networks are too sure of labels that they have seen, and each round adds to
    that.)

    Args:
      probabilities: ``[n, K]``, the networks' p; or its blocks of rows, in order, which are gone
        through twice, where all are too many to hold.
      labels: ``[n]`` integers in 0..K-1, each at least once.

    Returns:
      ``[n]`` in 0..1.

    >>> p = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    >>> label_quality(p, np.array([0, 1, 1, 1])).round(2)  # the second label is wrong
    array([0.99, 0.16, 0.87, 0.94])
    """
    given = np.zeros((0, 0))  # [y, k]
    for rows, p in _blocks(probabilities):
        if not given.size:
            given = np.zeros((p.shape[1], p.shape[1]), p.dtype)
        order = np.argsort(labels[rows], kind="stable")
        present, first = np.unique(labels[rows][order], return_index=True)
        given[present] += np.add.reduceat(p[order], first, axis=0)
    given /= np.maximum(given.sum(0), 1e-30)  # T transposed
    quality = np.empty(len(labels), given.dtype)
    for rows, p in _blocks(probabilities):
        y = labels[rows]
        right = p[np.arange(len(y)), y] * given[y, y]
        quality[rows] = right / np.maximum(np.einsum("nk,nk->n", p, given[y]), 1e-30)
    return quality


def _blocks(probabilities: Beliefs) -> Iterator[tuple[slice, np.ndarray]]:
    """Slices of rows, and their probabilities."""
    if isinstance(probabilities, np.ndarray):
        size = max(1, _BLOCK // probabilities.shape[1])
        probabilities = np.split(probabilities, range(size, len(probabilities), size))
    start = 0
    for part in probabilities:
        yield slice(start, start + len(part)), part
        start += len(part)
