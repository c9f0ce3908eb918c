"""How likely a label is right, by a classifier's probabilities."""

import numpy as np


def label_quality(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    r"""How likely each label is right, given that it was given.

    .. math:: q_i = \frac{p_{iy} T_{yy}}{\sum_k p_{ik} T_{ky}}, \quad y = y_i, \quad
              T_{ky} = \frac{\sum_{j: y_j = y} p_{jk}}{\sum_j p_{jk}}

    Bayes' rule: T is how often the examples of class k have the label y, by the networks' own
    probabilities. A label that many wrong examples have got is doubted more than another. (Taking
    T anew from the result, and so on, is expectation maximisation. It made the result worse on
    human labels: the networks are too sure of labels that they have seen, and each round adds to
    that.)

    Args:
      probabilities: ``[n, K]``, the networks' p.
      labels: ``[n]`` integers in 0..K-1, each at least once.

    Returns:
      ``[n]`` in 0..1.

    >>> p = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    >>> label_quality(p, np.array([0, 1, 1, 1])).round(2)  # the second label is wrong
    array([0.99, 0.16, 0.87, 0.94])
    """
    given = np.stack(
        [probabilities[labels == label].sum(0) for label in range(len(probabilities.T))]
    )
    given = given / np.maximum(given.sum(0), 1e-30)  # [y, k], T transposed
    right = probabilities[np.arange(len(labels)), labels] * np.diag(given)[labels]
    return right / np.maximum(np.einsum("nk,nk->n", probabilities, given[labels]), 1e-30)
