"""Whether a model can tell the classes apart; where it cannot, an audit would only guess."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm, rankdata
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors

from l2rw_jax.data.examples import take_rows
from l2rw_jax.data.scaling import Scaled, fit_scaling

_ROWS = 2000  # that are looked at
_OF_A_CLASS = 20  # of these, at least
_SIDE = 8  # pixels of an image, about
_NEIGHBOURS = 10
_RANK, _ACCURACY = 0.5, 0.8  # parts of what simple rules tell that the model must tell


class Signal(NamedTuple):
    """What simple rules tell of held-out rows' given labels.

    Attributes:
        rows: [m] the rows that were looked at, as many of each class where there are enough.
        classes: [c] the classes that were looked at.
        labels: [m] the rows' given labels, as indices of ``classes``.
        rank: how high a rule that knows nothing of a row ranks it for its own label, from 0, the
            lowest of all rows, to 1; 1/2 by chance.
        accuracy: how often the rule's best class is the given label.
        found: whether the rank is above what chance explains.
    """

    rows: np.ndarray
    classes: np.ndarray
    labels: np.ndarray
    rank: float
    accuracy: float
    found: bool


def find_signal(X: Any, given: np.ndarray, count: int) -> Signal:
    """Looks for a relation of features and given labels, by rules that cannot memorise a row.

    Networks memorise noise, so how well they fit labels that they have seen says nothing. Here a
    half of some rows predicts the other half, by a ridge regression and by nearest neighbours.

    Args:
        X: [n, d] numbers, or images [n, h, w, c].
        given: [n] integer classes.
        count: number of classes K.
    """
    rng = np.random.default_rng(0)
    rows, classes = _draw(given, count, rng)
    labels = np.searchsorted(classes, given[rows])
    features = _features(np.asarray(take_rows(X, rows)))
    order = rng.permutation(len(rows))
    half = np.zeros(len(rows), bool)
    half[order[np.argsort(labels[order], kind="stable")][::2]] = True  # and of each class
    tried = []
    for rule in (_ridge, _neighbours):
        rank, z, right = zip(*_held_out(rule, features, labels, len(classes), half), strict=True)
        tried.append((np.mean(z), np.mean(rank), np.mean(right)))
    z, ranks, accuracies = zip(*tried, strict=True)
    # The more rows, the less is left to chance: one noise in ten passes for 30 rows.
    bar = norm.isf(min(0.1, 100 / len(rows) ** 2))
    return Signal(rows, classes, labels, max(ranks), max(accuracies), max(z) > bar)


def doubt(signal: Signal, probabilities: np.ndarray) -> str | None:
    """Why an audit by a model would only guess; None if it does not.

    Args:
        signal: of the same rows.
        probabilities: [m, c] the model's, of the signal's rows and classes.
    """
    nothing = "the model cannot tell the classes apart: the audit says nothing"
    if not signal.found:
        return (
            f"{nothing}. On held-out rows, simple rules predict the given labels no better than "
            "chance: do features and labels belong to the same rows?"
        )
    rank, _ = _rank(probabilities, signal.labels)
    share = np.maximum(probabilities.mean(0), 1e-30)
    accuracy = np.mean((probabilities / share).argmax(1) == signal.labels)
    if rank - 0.5 >= _RANK * (signal.rank - 0.5) and accuracy >= _ACCURACY * signal.accuracy:
        return None
    return (
        f"{nothing}. It agrees with {accuracy:.0%} of the given labels, and a simple rule predicts "
        f"{signal.accuracy:.0%} of held-out ones: train it for more steps"
    )


def _draw(given: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of as many classes as there is room for, up to as many of each."""
    classes = np.arange(count)
    most = _ROWS // _OF_A_CLASS
    if count > most:
        classes = np.sort(rng.choice(count, most, replace=False))
    order = rng.permutation(np.flatnonzero(np.isin(given, classes)))
    order = order[np.argsort(given[order], kind="stable")]
    place = np.arange(len(order)) - np.searchsorted(given[order], given[order])  # in its class
    return np.sort(order[place < _ROWS // len(classes)]), classes


def _features(X: np.ndarray) -> np.ndarray:
    """Scaled features [m, d]; of images, the means of squares."""
    if X.ndim == 4:
        h, w = (max(1, side // _SIDE) for side in X.shape[1:3])
        X = X[:, : X.shape[1] // h * h, : X.shape[2] // w * w].astype(np.float32)
        m, height, width, c = X.shape
        X = X.reshape(m, height // h, h, width // w, w, c).mean((2, 4)).reshape(m, -1)
    return Scaled(X, fit_scaling("X", X))[:][:, 0, 0].astype(np.float64)


def _held_out(
    rule: Any, features: np.ndarray, labels: np.ndarray, count: int, half: np.ndarray
) -> Iterator[tuple[float, float, float]]:
    """The rank, its z and the accuracy, of each half by the other."""
    for known in (half, ~half):
        y = labels[~known]
        scores = rule(features[known], labels[known], features[~known], count)
        yield *_rank(scores, y), float(np.mean(scores.argmax(1) == y))


def _ridge(known: np.ndarray, labels: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    targets = np.eye(count)[labels]
    return Ridge(alpha=len(known)).fit(known, targets).predict(rows) - targets.mean(0)


def _neighbours(known: np.ndarray, labels: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    near = int(np.clip(len(known) // count // 2, 1, _NEIGHBOURS))
    model = NearestNeighbors(n_neighbors=near, algorithm="brute").fit(known)
    return np.eye(count)[labels[model.kneighbors(rows, return_distance=False)]].mean(1)


def _rank(scores: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The mean rank, 0 to 1, of rows for their label's score; and its z over all permutations."""
    of_label = rankdata(scores, axis=0)[:, labels] / (len(labels) + 1)  # [i, j]: i for j's label
    mean = of_label.mean()
    rest = of_label - of_label.mean(0) - of_label.mean(1, keepdims=True) + mean
    deviation = np.sqrt((rest**2).sum() / max(1, len(labels) - 1)) / len(labels)
    rank = float(np.diag(of_label).mean())
    return rank, float((rank - mean) / deviation) if deviation > 1e-12 else 0.0
