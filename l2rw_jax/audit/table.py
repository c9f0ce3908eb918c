"""The audit itself: from rows and doubtful labels to a table of which labels are wrong."""

import copy
import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from l2rw_jax.audit.arguments import check_rows, index_labels, read_given, read_ids, read_trusted
from l2rw_jax.audit.calibrate import (
    MIN_KIND,
    confident_classes,
    probability_wrong,
    representative,
)
from l2rw_jax.audit.errors import AuditError, listed
from l2rw_jax.audit.signal import Signal, doubt, find_signal
from l2rw_jax.data.examples import absent_classes, take_rows

_ROWS = 65536  # predicted at a time, at most
_PROBABILITIES = 2**24  # likewise
_FALLBACK = "reed_soft"  # a robust loss that learns rare and many classes, where gce does not
_FEWEST = 2  # trusted rows that can steer
_MANY = 1000  # trusted rows that steer well on their own: docs/howto/audit.md
_FEW = 20  # so many fractions may be classes, such as half stars
_TOP = 3  # most probable classes that are kept of each row


class Audit(NamedTuple):
    """What an audit finds.

    Attributes:
        table: as of `audit_labels`.
        wrong: [n] the estimated probability that a given label is wrong; 0 or 1 if verified; NaN
            if the model cannot tell.
        suggested: [n] the best other class, where it is likelier than the given one; else the given
            one. The verified one of verified rows.
        calibrated: [n] bools: the verified rows that the probability is from; None where there
            are too few.
        steering: how many verified rows steered the training.
        doubt: why the audit says nothing; None if it does.
    """

    table: pd.DataFrame
    wrong: np.ndarray
    suggested: np.ndarray
    calibrated: np.ndarray | None
    steering: int
    doubt: str | None


def audit_labels(
    X: Any, y: Any, trusted: Any = None, *, ids: Any = None, classifier: Any = None
) -> pd.DataFrame:
    """Says of every label whether it is probably wrong, by a robust classifier trained on all.

    ``is_label_issue`` means: the estimated probability p that the given label is wrong is at
    least 1/2. So at least half of the flagged labels are expected to be wrong. There are two
    estimates of p, both a logistic regression on the label's quality (Platt's calibration):

    - With ``trusted=(mask, true_labels)`` and at least 5 right and 5 wrong given labels among the
      trusted rows, it is fitted to these. All rows are trained on with their *given* label, and
      the verified labels only steer the weights. So a trusted row is scored as every other row is,
      and p holds for the others. It holds best if the trusted rows are a random sample. If a first
      fit without them shows that they are not, they do not steer. If fewer than 1,000 steer, the
      scores are by the networks of both fits.
    - Otherwise it is fitted to confident learning's count: a label counts as wrong if another
      class reaches its threshold, which is the mean probability of that class among the rows
      given it. Unlike the model's own probabilities, this allows for classes on which the model is
      always unsure. Nothing verifies it: a network that has learnt wrong labels by heart
      misses them, and a network that cannot tell two classes apart may flag right labels.

    If the networks tell the classes apart no better than chance, or far worse than a simple rule
    on held-out rows, a warning says so, and no label is flagged but what is verified.

    Args:
        X: [n, d] numbers, an array or a data frame, or images [n, h, w, c] uint8; may be
            memory-mapped.
        y: [n] labels as given, of any type that sorts; at least two classes of two rows each.
        trusted: [n] bool mask of rows whose given label is verified; or a pair of a mask and the
            true labels [n], of which those of masked rows are read; or None. They steer only if
            they have every class.
        ids: [n] unique ids; None numbers the rows.
        classifier: an object with the interface of `ReweightClassifier`; None is one with its
            defaults. It is fitted.

    Returns:
        A frame of n rows in the order of X, with the columns `is_label_issue` (bool),
        `label_score` (the classifier's `label_quality_`, 0 to 1, low is bad), `given_label`,
        `predicted_label` (of an issue, the best other class; of a trusted row, the true label),
        `id`, `mean_weight` (in training; 1 is the average) and `trusted` (bool). What is known of
        a trusted row decides whether it is an issue.

    Raises:
        AuditError: lengths that differ, ids that repeat, fewer than two classes, a class of one
            row, a trusted label that is no class.

    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> given = np.where(np.arange(150) % 10 == 0, (y + 1) % 3, y)  # 15 labels are wrong
    >>> table = audit_labels(X, given)
    >>> worst = table.sort_values("label_score").head(15)
    >>> int((given != y)[worst.index].sum()) >= 10  # most of them are found
    True
    """
    audit = run_audit(X, y, trusted, ids=ids, classifier=classifier)
    if audit.doubt:
        warnings.warn(audit.doubt, UserWarning, stacklevel=2)
    return audit.table


def run_audit(
    X: Any,
    y: Any,
    trusted: Any = None,
    *,
    ids: Any = None,
    classifier: Any = None,
    chosen: np.ndarray | None = None,
) -> Audit:
    """`audit_labels` with all that it finds; arguments and errors are the same.

    Trusted rows that are ``chosen``, [n] bools, were checked because they look wrong: they do not
    steer.
    """
    given = read_given("y", y)
    check_rows(X, given)
    ids = read_ids(ids, len(given))
    classes, given_class, counts = index_labels(given)
    check_classes("y", classes, counts)
    mask, true_class = read_trusted(trusted, given_class, classes)
    if classifier is None:
        from l2rw_jax.classifier import ReweightClassifier

        classifier = ReweightClassifier()
    changed = mask & (true_class != given_class)
    sample = mask if chosen is None else mask & ~chosen
    steering, signal = _fit(classifier, X, given_class, true_class, classes, sample)
    quality = np.asarray(classifier.label_quality_, np.float64)
    own, top, probabilities = _predict(classifier, X, classes, given_class)
    other = np.where(top[:, 0] == given_class, top[:, 1], top[:, 0])

    calibrated = mask if _enough(changed, mask) else None
    if nothing := doubt(signal, _seen(classifier, X, signal)):
        calibrated, wrong = None, np.full(len(given), np.nan)
    elif calibrated is not None:
        wrong = probability_wrong(quality, quality[mask], changed[mask])
    else:
        confident = confident_classes(given_class, own, top, probabilities, len(classes))
        wrong = probability_wrong(quality, quality, confident != given_class)
    wrong = np.where(mask, changed, wrong)
    issue = wrong >= 0.5
    suggested = np.where(issue | (top[:, 0] != given_class), other, given_class)
    predicted = np.where(issue, suggested, top[:, 0])
    table = pd.DataFrame(
        {
            "is_label_issue": issue,
            "label_score": quality,
            "given_label": given,
            "predicted_label": classes[np.where(mask, true_class, predicted)],
            "id": ids,
            "mean_weight": np.asarray(classifier.weights_, np.float64),
            "trusted": mask,
        }
    )
    suggested = classes[np.where(mask, true_class, suggested)]
    return Audit(table, wrong, suggested, calibrated, steering, nothing)


def _fit(
    classifier: Any,
    X: Any,
    given: np.ndarray,
    true: np.ndarray,
    classes: np.ndarray,
    sample: np.ndarray,
) -> tuple[int, Signal]:
    """Fits without trusted rows; then with the sample of them, if it can stand for all rows.

    Both fits' networks are kept where the sample is small: a small sample may steer badly;
    averaging with the unsteered networks limits the loss.

    Args:
        classifier: is fitted.
        X: [n, ...].
        given: [n] indices of the given labels' classes.
        true: [n] likewise, of the verified labels where there are any.
        classes: [K] labels.
        sample: [n] bools: the verified rows that may steer.

    Returns:
        How many rows steer; and what simple rules tell of the given labels.
    """
    rows = np.flatnonzero(sample)
    steers = len(rows) >= _FEWEST
    # A method that was chosen by name may need trusted rows.
    automatic = getattr(classifier, "method", "auto") == "auto"
    if automatic or not steers:
        signal = _fit_unsteered(classifier, X, given, classes)
    if automatic and steers:
        steers = representative(np.asarray(classifier.label_quality_), sample)
        steers = steers and _has_every_class(true[rows], classes)
    if not steers:
        return 0, signal
    unsteered = copy.copy(classifier)
    pair = (take_rows(X, rows), classes[true[rows]])
    changed = (true != given)[rows].any()
    classifier.fit(X, classes[given], trusted=pair if changed else sample)
    if not automatic:
        return len(rows), find_signal(X, given, len(classes))
    if len(rows) < _MANY and hasattr(classifier, "_add_networks"):
        classifier._add_networks(unsteered, X, classes[given])
    return len(rows), signal


def _fit_unsteered(classifier: Any, X: Any, given: np.ndarray, classes: np.ndarray) -> Signal:
    """Fits without trusted rows; once more by another loss, if the first has learnt too little."""
    classifier.fit(X, classes[given], trusted=None)
    signal = find_signal(X, given, len(classes))
    choice, used = getattr(classifier, "method", None), getattr(classifier, "method_", None)
    if (
        choice == "auto"
        and used != _FALLBACK
        and signal.found
        and doubt(signal, _seen(classifier, X, signal))
    ):
        try:
            classifier.method = _FALLBACK
            classifier.fit(X, classes[given], trusted=None)
        finally:
            classifier.method = choice
    return signal


def _has_every_class(codes: np.ndarray, classes: np.ndarray) -> bool:
    """Whether the trusted rows have; warns if not."""
    absent = np.setdiff1d(np.arange(len(classes)), codes)
    if len(absent):
        told = absent_classes(classes[absent], len(classes))
        told += "; so they do not steer, but may calibrate: verify a row of each class"
        warnings.warn(told, UserWarning, stacklevel=5)
    return not len(absent)


def check_classes(what: str, classes: np.ndarray, counts: np.ndarray) -> None:
    """Raises AuditError unless these are classes: at least two, and two rows of each."""
    rows, few = int(counts.sum()), classes[counts < 2]
    if len(classes) < 2:
        raise AuditError(f"{what}: one class alone, {str(classes[0])!r}: give at least two classes")
    numbers = pd.to_numeric(pd.Series(classes.astype(str)), errors="coerce")
    measured = bool(numbers.notna().all())
    fractions = measured and bool((numbers % 1 != 0).any())
    if 2 * len(classes) > max(rows, 2 * _FEW) or (fractions and len(classes) > _FEW):
        kind, of = ("distinct numbers", "a measurement") if measured else ("distinct", "an id")
        raise AuditError(
            f"{what}: {len(classes)} of {rows} labels are {kind}, such as {listed(classes[:2])}: "
            f"is it {of}? The audit takes classes; give at least 2 rows of each"
        )
    if len(few) == 1:
        raise AuditError(
            f"{what}: class {str(few[0])!r} has one row; give at least 2 of each class, or leave "
            f"it out"
        )
    if len(few):
        raise AuditError(
            f"{what}: {len(few)} of {len(classes)} classes have one row: {listed(few, 5)}; give at "
            f"least 2 of each class, or leave them out"
        )


def _predict(
    classifier: Any, X: Any, classes: np.ndarray, given: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The given class's probability [n], and the most probable classes and theirs [n, t]."""
    if not np.array_equal(classifier.classes_, classes):
        raise AuditError("classifier: its classes_ are not the sorted classes of y")
    count = min(_TOP, len(classes))
    own = np.empty(len(given), np.float32)
    top = np.empty((len(given), count), np.int64)
    best = np.empty((len(given), count), np.float32)
    size = max(1, min(_ROWS, _PROBABILITIES // len(classes)))
    for start in range(0, len(given), size):
        part = slice(start, start + size)
        left = _probabilities(classifier, X, part)
        rows = np.arange(len(left))
        own[part] = left[rows, given[part]]
        for place in range(count):  # at a tie, the first class
            top[part, place] = chosen = left.argmax(1)
            best[part, place] = left[rows, chosen]
            left[rows, chosen] = -1
    return own, top, best


def _seen(classifier: Any, X: Any, signal: Signal) -> np.ndarray:
    """The probabilities of the signal's rows and classes, [m, c]."""
    return _probabilities(classifier, X, signal.rows)[:, signal.classes]


def _probabilities(classifier: Any, X: Any, rows: Any) -> np.ndarray:
    """Of some rows, [b, K], as the caller's own; the fit has warned of what is odd about them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return np.array(classifier.predict_proba(take_rows(X, rows)))


def _enough(changed: np.ndarray, mask: np.ndarray) -> bool:
    wrong = int(changed.sum())
    return min(wrong, int(mask.sum()) - wrong) >= MIN_KIND
