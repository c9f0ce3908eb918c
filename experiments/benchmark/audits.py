"""Label audits that are compared: ours and cleanlab's, each with the same rows, and their metrics.

Their program is ``label_audit``.
"""

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from l2rw_jax import data
from l2rw_jax.audit import audit_labels
from l2rw_jax.classifier import ReweightClassifier
from l2rw_jax.reports import mean_interval, to_markdown
from l2rw_jax.reports.figures import COLORS, write

SCORED = ("AUROC", "average precision", "F1")
METRICS = (*SCORED, "precision", "recall", "test accuracy", "pruned accuracy", "seconds", "GB")
DIGITS = {"seconds": 0, "GB": 1}  # digits behind the point; 3 elsewhere


class Task(NamedTuple):
    """What a seed's audits get; ``true`` and ``given`` of untrusted rows are for the metrics."""

    features: np.ndarray  # [n, d]
    given: np.ndarray  # [n] labels as they came
    labels: np.ndarray  # [n] the given ones, and the true ones of trusted rows
    true: np.ndarray  # [n]
    trusted: np.ndarray  # [n] bool
    test_features: np.ndarray
    test_labels: np.ndarray


class Found(NamedTuple):
    """What an audit finds: a score of each row (low is bad), flagged rows, predicted test labels.

    ``seconds`` and ``gigabytes``, the peak memory of its process, are filled in by ``alone``.
    """

    scores: dict[str, np.ndarray]  # by the name of the table's row
    flagged: np.ndarray  # [n] bool
    predicted: np.ndarray
    seconds: float = 0.0
    gigabytes: float = 0.0


Audit = Callable[[Task, int, int | None], Found]  # of a task, a seed and the steps


def default_output(name: str, check: bool) -> str:
    """Where the tables of the data of that name go: another place for each kind of comparison.

    >>> default_output("digits", False), default_output("npz:data/human.npz", True)
    ('results/label-audit-digits', 'results/label-audit-human-check')
    """
    return f"results/label-audit-{Path(name.removeprefix('npz:')).stem}{'-check' if check else ''}"


def draw(dataset: data.Dataset, trusted: int, seed: int) -> Task:
    """The task of a seed."""
    features, test_features = (
        images.reshape(len(images), -1).astype(np.float32)
        for images in (np.asarray(dataset.train_images), dataset.test_images)
    )
    true, given = dataset.train_labels, dataset.given_labels
    if given is None:
        given, _ = data.uniform_flip(true, 0.4, num_classes=dataset.num_classes, seed=seed)
    mask = np.zeros(len(true), bool)
    mask[np.random.default_rng(seed).choice(len(true), trusted, replace=False)] = True
    labels = np.where(mask, true, given)
    return Task(features, given, labels, true, mask, test_features, dataset.test_labels)


def ours(
    task: Task, seed: int, steps: int | None = None, *, name: str, known: str, method: str = "auto"
) -> Found:
    """The label audit with its default classifier.

    ``known`` is what it gets: ``mask``, the labels with those of trusted rows corrected and which
    rows these are; ``both``, the given labels and the true ones of trusted rows; ``none``; or
    ``given``, the given labels and a mask of rows that nobody has looked at.
    """
    labels, trusted = {
        "mask": (task.labels, task.trusted),
        "both": (task.given, (task.trusted, task.true)),
        "none": (task.labels, None),
        "given": (task.given, task.trusted),
    }[known]
    model = ReweightClassifier(method, steps=steps, random_state=seed)
    table = audit_labels(task.features, labels, trusted, classifier=model)
    score, flagged = table.label_score.to_numpy(), table.is_label_issue.to_numpy()
    return Found({name: score}, flagged, model.predict(task.test_features))


def logistic_regression(task: Task, seed: int, steps: int | None = None) -> Found:
    """An audit by cleanlab with the out-of-fold predictions of a logistic regression."""
    import cleanlab

    X, y = task.features, task.labels
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    predicted = cross_val_predict(model, X, y, cv=5, method="predict_proba")
    flagged = cleanlab.filter.find_label_issues(y, predicted, n_jobs=1)
    cleaned = cleanlab.classification.CleanLearning(model, seed=seed)
    cleaned.fit(X, y, label_issues=flagged)
    quality = cleanlab.rank.get_label_quality_scores
    methods = "self_confidence", "normalized_margin"
    names = [f"cleanlab, logistic regression, {method}" for method in methods]
    scores = [quality(y, predicted, method=method) for method in methods]
    found = dict(zip(names, scores, strict=True))
    return Found(found, flagged, cleaned.predict(task.test_features))


def network(task: Task, seed: int, steps: int | None = None) -> Found:
    """An audit by cleanlab with a network of ours: one of them, trained by plain SGD."""
    import cleanlab

    cleaned = cleanlab.classification.CleanLearning(
        _plain(seed, steps), seed=seed, find_label_issues_kwargs={"n_jobs": 1}
    )
    issues = cleaned.fit(task.features, task.labels).get_label_issues()
    scores = {"cleanlab, CleanLearning on the MLP": issues.label_quality.to_numpy()}
    flagged = issues.is_label_issue.to_numpy()
    return Found(scores, flagged, cleaned.predict(task.test_features))


AUDITS: tuple[Audit, ...] = (
    partial(ours, name="ours, trusted rows", known="mask"),
    logistic_regression,
    partial(ours, name="ours, both labels", known="both"),
    network,
    partial(ours, name="ours, no trusted rows", known="none"),
)


def alone(audit: Audit, task: Task, seed: int, steps: int | None) -> Found:
    """Runs an audit in a process of its own, which is how its peak memory is known."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(timed, audit, task, seed, steps).result()


def timed(audit: Audit, task: Task, seed: int, steps: int | None) -> Found:
    """What an audit finds, its seconds, and the peak memory of this process so far."""
    start = time.perf_counter()
    found = audit(task, seed, steps)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # from kB
    return found._replace(seconds=seconds, gigabytes=peak)


def pruned_accuracy(task: Task, flagged: np.ndarray, seed: int, steps: int | None) -> float:
    """The test accuracy of one network trained by plain SGD on the rows that are not flagged."""
    model = _plain(seed, steps).fit(task.features[~flagged], task.labels[~flagged])
    return float(np.mean(model.predict(task.test_features) == task.test_labels))


def rows(task: Task, found: Found, pruned: float | None) -> Iterator[dict[str, Any]]:
    """The metrics over the rows that are not trusted, for each of the scores."""
    rest = ~task.trusted
    wrong, flagged = (task.given != task.true)[rest], found.flagged[rest]
    accuracy = float(np.mean(found.predicted == task.test_labels))
    precision = float(metrics.precision_score(wrong, flagged, zero_division=0))
    recall = float(metrics.recall_score(wrong, flagged))
    for name, score in found.scores.items():
        others = precision, recall, accuracy, pruned, found.seconds, found.gigabytes
        values = (*ranking(wrong, score[rest]), *others)
        yield {"audit": name} | dict(zip(METRICS, values, strict=True))


def ranking(wrong: np.ndarray, score: np.ndarray) -> tuple[float, float, float]:
    """AUROC, average precision, and F1 of as many rows as are wrong, lowest scores first."""
    f1 = wrong[np.argsort(score, kind="stable")[: wrong.sum()]].mean()
    auroc, average = metrics.roc_auc_score, metrics.average_precision_score
    return float(auroc(wrong, -score)), float(average(wrong, -score)), float(f1)


def table(rows: list[dict[str, Any]], names: Sequence[str] = METRICS) -> str:
    """Mean and 95 % interval over the seeds, a line an audit, as Markdown."""
    lines = []
    for audit in dict.fromkeys(row["audit"] for row in rows):
        cells = [audit]
        for name in names:
            mean, half = mean_interval([row[name] for row in rows if row["audit"] == audit])
            digits = DIGITS.get(name, 3)
            text = "–" if mean is None else f"{mean:.{digits}f}"
            cells.append(text + ("" if half is None else f" ± {half:.{digits}f}"))
        lines.append(cells)
    return to_markdown(["audit", *names], lines) + "\n"


def plot(rows: list[dict[str, Any]], path: str) -> None:
    """How well each audit ranks the wrong labels: points with 95 % intervals, as PNG."""
    names = list(dict.fromkeys(row["audit"] for row in rows))
    mine = [row for row in rows if row["audit"].startswith("ours")]
    others = [row for row in rows if not row["audit"].startswith("ours")]
    better = bool(others) and all(
        min(row[name] for row in mine) > max(row[name] for row in others) for name in SCORED
    )
    figure, panels = plt.subplots(1, len(SCORED), figsize=(9, 2.8), sharey=True)
    for axes, column in zip(panels, SCORED, strict=True):
        for place, name in enumerate(names):
            mean, half = mean_interval([row[column] for row in rows if row["audit"] == name])
            color = COLORS[0] if name.startswith("ours") else COLORS[3]
            axes.errorbar(mean, place, xerr=half or 0, fmt="o", color=color, capsize=3)
        axes.set(title=column, yticks=range(len(names)), yticklabels=names)
        axes.grid(axis="x", alpha=0.3)
    panels[0].invert_yaxis()
    title = "The audit ranks wrong labels better than cleanlab" if better else "Ranking of labels"
    figure.suptitle(f"{title} (blue: ours; mean and 95 % interval)")
    figure.tight_layout()
    write(figure, path, dpi=150)
    plt.close(figure)


def _plain(seed: int, steps: int | None) -> ReweightClassifier:
    return ReweightClassifier("baseline", networks=1, steps=steps, random_state=seed)
