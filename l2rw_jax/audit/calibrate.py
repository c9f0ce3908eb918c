"""From a label's quality to the probability that the label is wrong."""

from typing import NamedTuple

import numpy as np
from scipy.stats import ks_2samp
from sklearn.linear_model import LogisticRegression

MIN_KIND = 5  # verified labels of each kind, right and wrong, that a calibration takes
_RESAMPLES = 200
STRATA = 10  # equal parts of the rows by their scores


class Share(NamedTuple):
    """An estimated share of wrong labels with its 95 % interval, NaN where there is none."""

    estimate: float
    low: float
    high: float


def probability_wrong(quality: np.ndarray, known: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Platt's calibration: a logistic regression of "wrong" on the logit of the quality.

    Args:
        quality: [n] in 0..1, low is bad.
        known: [m] qualities of labels of which it is known whether they are wrong.
        wrong: [m] bools: whether they are.

    Returns:
        [n] probabilities, which never rise with the quality.
    """
    if wrong.all() or not wrong.any():
        return np.full(len(quality), float(wrong.any()))
    # This solver starts no threads, which would cost more than the fit.
    model = LogisticRegression(solver="newton-cholesky").fit(_logit(known)[:, None], wrong)
    slope, bias = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope >= 0:  # the quality says nothing
        return np.full(len(quality), wrong.mean())
    return 1 / (1 + np.exp(-(slope * _logit(quality) + bias)))


def check_first(order: np.ndarray, count: int = 100) -> np.ndarray:
    """Rows to check before any is verified: as many of each tenth of the scores, shuffled.

    The tenths are equal, so every row is as likely to be drawn as any other: the share of wrong
    labels among the drawn rows has no bias, and they can steer the next training.

    Args:
        order: [n] rows by their scores.
        count: how many to draw, a multiple of ten.

    Returns:
        [count] rows, or fewer where a tenth has too few.
    """
    rng = np.random.default_rng(0)
    strata = [part for part in np.array_split(order, STRATA) if len(part)]
    drawn = [rng.choice(part, min(count // STRATA, len(part)), replace=False) for part in strata]
    return rng.permutation(np.concatenate(drawn))


def representative(quality: np.ndarray, mask: np.ndarray) -> bool:
    """Whether the trusted rows can stand for all rows, by their qualities.

    Rows that were checked because they look wrong cannot: they would steer the training away from
    all rows like them. (On human labels, the 100 worst rows cost 7 points of accuracy. To draw a
    part with as many of each tenth still did worse than not to steer.)

    Args:
        quality: [n] in 0..1.
        mask: [n] bools: the trusted rows.

    Returns:
        False if the qualities of trusted rows and of others differ (Kolmogorov-Smirnov, p < 0.001).
    """
    if mask.all() or not mask.any():
        return True
    return bool(ks_2samp(quality[mask], quality[~mask]).pvalue >= 1e-3)


def confident_classes(
    given: np.ndarray, own: np.ndarray, classes: np.ndarray, probabilities: np.ndarray, count: int
) -> np.ndarray:
    """The class that each row belongs to with confidence (confident learning, Northcutt 2021).

    A class's threshold is the mean probability of the class among the rows given it. Of a row's
    classes that reach their thresholds, the most probable one is confident.

    Args:
        given: [n] integer classes.
        own: [n] the probability of the given class.
        classes: [n, t] a row's most probable classes, in falling order.
        probabilities: [n, t] theirs.
        count: number of classes K.

    Returns:
        [n] classes; the given one where none reaches its threshold.
    """
    rows = np.bincount(given, minlength=count)
    threshold = np.bincount(given, own, count) / np.maximum(rows, 1)
    threshold[rows == 0] = np.inf
    # Float32 means round: a row that is as sure as its class's mean reaches it.
    reaches = probabilities >= threshold[classes] - 1e-6
    first = classes[np.arange(len(given)), reaches.argmax(1)]
    return np.where(reaches.any(1), first, given)


def shares(
    quality: np.ndarray,
    groups: np.ndarray,
    count: int,
    wrong: np.ndarray,
    verified: np.ndarray | None,
) -> list[Share]:
    """The share of wrong labels over all rows, then in each group.

    With verified rows, the interval is of the calibration's uncertainty: the middle 95 % of 200
    estimates, each from verified labels drawn anew by their estimated probabilities (a parametric
    bootstrap; resampling rows gives intervals that are too narrow where few are ambiguous).

    Args:
        quality: [n] qualities.
        groups: [n] integers, a row's group.
        count: number of groups K.
        wrong: [n] probabilities that a label is wrong; 0 or 1 where that is verified.
        verified: [n] bools: the rows that the calibration is from; None for no interval.

    Returns:
        K + 1 shares; NaN for a group without rows.
    """
    estimate = _means(wrong, groups, count)
    if verified is None:
        return [Share(value, np.nan, np.nan) for value in estimate]
    rng = np.random.default_rng(0)
    known, truth = quality[verified], wrong[verified] > 0.5
    # If right and wrong labels separate perfectly, the fit is too sure: of n rows that agree with
    # it, half of one could still have been different (Jeffreys' prior).
    probability = (len(known) * probability_wrong(known, known, truth) + 0.5) / (len(known) + 1)
    resampled = []
    for _ in range(_RESAMPLES):
        drawn = rng.random(len(known)) < probability
        again = probability_wrong(quality, known, drawn)
        resampled.append(_means(np.where(verified, wrong, again), groups, count))
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    return [Share(*map(float, each)) for each in zip(estimate, low, high, strict=True)]


def _means(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    sizes = np.bincount(groups, minlength=count)
    sums = np.bincount(groups, values, count)
    with np.errstate(invalid="ignore"):
        return np.concatenate([[values.mean()], sums / sizes])


def _logit(quality: np.ndarray) -> np.ndarray:
    clipped = np.clip(np.asarray(quality, np.float64), 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))
