"""The audit itself: from rows and doubtful labels to a table of which labels are wrong."""

import copy
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from l2rw_jax.audit.calibrate import (
    MIN_KIND,
    confident_classes,
    probability_wrong,
    representative,
)
from l2rw_jax.audit.errors import AuditError, listed

_ROWS = 65536  # predicted at a time
_FEWEST = 2  # trusted rows that can steer
_MANY = 1000  # trusted rows that steer well on their own: docs/howto/audit.md
_FEW = 20  # so many fractions may be classes, such as half stars
_TOP = 3  # most probable classes that are kept of each row


class Audit(NamedTuple):
    """What an audit finds.

    Attributes:
        table: as of `audit_labels`.
        wrong: [n] the estimated probability that a given label is wrong; 0 or 1 if verified.
        suggested: [n] the best class beside the given one; the verified one if they differ.
        calibrated: [n] bools: the verified rows that the probability is from; None where there
            are too few.
        steering: how many verified rows steered the training.
    """

    table: pd.DataFrame
    wrong: np.ndarray
    suggested: np.ndarray
    calibrated: np.ndarray | None
    steering: int


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

    Args:
        X: [n, d] numbers, or images [n, h, w, c] uint8; may be memory-mapped.
        y: [n] labels as given, of any type that sorts; at least two classes of two rows each.
        trusted: [n] bool mask of rows whose given label is verified; or a pair of a mask and the
            true labels [n], of which those of masked rows are read; or None.
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
    return run_audit(X, y, trusted, ids=ids, classifier=classifier).table


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
    given = np.asarray(y)
    _check_rows(X, given)
    ids = _check_ids(ids, len(given))
    mask, true = _check_trusted(trusted, given)
    classes, counts = np.unique(given, return_counts=True)
    check_classes("y", classes, counts)
    unknown = mask & ~np.isin(true, classes)
    if unknown.any():
        label = true[np.argmax(unknown)]
        raise AuditError(f"trusted: label {str(label)!r} is none of the classes of y")
    if classifier is None:
        from l2rw_jax.classifier import ReweightClassifier

        classifier = ReweightClassifier()
    changed = mask & (true != given)
    sample = mask if chosen is None else mask & ~chosen
    steering = _fit(classifier, X, given, sample, true)
    quality = np.asarray(classifier.label_quality_, np.float64)
    given_class = np.searchsorted(classes, given)
    own, top, probabilities = _predict(classifier, X, classes, given_class)
    second = np.where(top[:, 0] == given_class, top[:, 1], top[:, 0])

    calibrated = mask if _enough(changed, mask) else None
    if calibrated is not None:
        wrong = probability_wrong(quality, quality[mask], changed[mask])
    else:
        confident = confident_classes(given_class, own, top, probabilities, len(classes))
        wrong = probability_wrong(quality, quality, confident != given_class)
    wrong = np.where(mask, changed, wrong)
    issue = wrong >= 0.5
    suggested = np.where(changed, true, classes[second])
    predicted = np.where(issue, suggested, classes[top[:, 0]])
    table = pd.DataFrame(
        {
            "is_label_issue": issue,
            "label_score": quality,
            "given_label": given,
            "predicted_label": np.where(mask, true, predicted),
            "id": ids,
            "mean_weight": np.asarray(classifier.weights_, np.float64),
            "trusted": mask,
        }
    )
    return Audit(table, wrong, suggested, calibrated, steering)


def _fit(classifier: Any, X: Any, given: np.ndarray, sample: np.ndarray, true: np.ndarray) -> int:
    """Fits without trusted rows; then with the sample of them, if it can stand for all rows.

    Both fits' networks are kept where the sample is small: a small sample may steer badly;
    averaging with the unsteered networks limits the loss.

    Returns:
        How many rows steer.
    """
    unsteered = None
    enough = sample.sum() >= _FEWEST
    # A method that was chosen by name may need trusted rows.
    if getattr(classifier, "method", "auto") == "auto" or not enough:
        classifier.fit(X, given, trusted=None)
        if not enough or not representative(np.asarray(classifier.label_quality_), sample):
            return 0
        unsteered = copy.copy(classifier)
    rows = np.flatnonzero(sample)
    pair = (np.asarray(X[rows]), true[rows])
    classifier.fit(X, given, trusted=pair if (true != given)[rows].any() else sample)
    few = len(rows) < _MANY
    if unsteered is not None and few and hasattr(classifier, "_add_networks"):
        classifier._add_networks(unsteered, X, given)
    return len(rows)


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
    for start in range(0, len(given), _ROWS):
        part = slice(start, start + _ROWS)
        probabilities = np.asarray(classifier.predict_proba(X[part]))
        own[part] = np.take_along_axis(probabilities, given[part, None], 1)[:, 0]
        top[part] = np.argsort(-probabilities, 1, kind="stable")[:, :count]
        best[part] = np.take_along_axis(probabilities, top[part], 1)
    return own, top, best


def _enough(changed: np.ndarray, mask: np.ndarray) -> bool:
    wrong = int(changed.sum())
    return min(wrong, int(mask.sum()) - wrong) >= MIN_KIND


def _check_rows(X: Any, y: np.ndarray) -> None:
    if not hasattr(X, "shape") or len(X.shape) not in (2, 4):
        got = list(X.shape) if hasattr(X, "shape") else f"a {type(X).__name__}"
        raise AuditError(f"X: got {got}; takes an array [n, d], or images [n, h, w, c]")
    if y.ndim != 1 or len(y) != X.shape[0]:
        raise AuditError(f"y: got shape {list(y.shape)} for {X.shape[0]} rows of X; takes [n]")
    if not len(y):
        raise AuditError("X: no rows")
    missing = pd.isna(y)
    if missing.any():
        raise AuditError(f"y: row {int(np.argmax(missing))} has no label; leave such rows out")


def _check_ids(ids: Any, n: int) -> np.ndarray:
    ids = np.arange(n) if ids is None else np.asarray(ids)
    if ids.shape != (n,):
        raise AuditError(f"ids: got shape {list(ids.shape)} for {n} rows; takes [n]")
    if len(np.unique(ids)) < n:
        raise AuditError("ids: an id comes more than once; takes unique ids")
    return ids


def _check_trusted(trusted: Any, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mask of trusted rows, and the labels with theirs in place."""
    if trusted is None:
        return np.zeros(len(given), bool), given
    pair = trusted if isinstance(trusted, tuple) else (trusted, given)
    if len(pair) != 2:
        raise AuditError(f"trusted: got {len(pair)} arrays; takes a mask, or a mask and labels")
    mask, labels = np.asarray(pair[0]), np.asarray(pair[1])
    if mask.dtype != bool or mask.shape != given.shape:
        raise AuditError(
            f"trusted: got {mask.dtype} {list(mask.shape)}; takes a bool mask [{len(given)}]"
        )
    if labels.shape != given.shape:
        raise AuditError(
            f"trusted: true labels of shape {list(labels.shape)}; takes [{len(given)}], of which "
            f"those of masked rows are read"
        )
    if labels.dtype.kind != given.dtype.kind:
        raise AuditError(
            f"trusted: true labels are {labels.dtype} and y is {given.dtype}; give both in one type"
        )
    return mask, np.where(mask, labels, given)
