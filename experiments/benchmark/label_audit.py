"""Compares the label audit with cleanlab's on data whose wrong labels are known.

python -m experiments.benchmark.label_audit --data=digits --trusted=50
python -m experiments.benchmark.label_audit --data=npz:human.npz --output=results/label-audit-human

An .npz holds given_labels besides what ``l2rw_jax.data.load`` reads; digits get 40 % uniform noise.
The trusted rows get their true labels first ("both labels": the audit gets these and the given
ones), and no figure counts them. F1 is that of as many rows as are wrong, lowest scores first;
precision and recall are those of the flagged rows. Writes OUTPUT.json and OUTPUT.md after each
seed. Needs the extra ``benchmark``.
"""

import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from sklearn import metrics
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from experiments import programs
from l2rw_jax import _extras, data
from l2rw_jax.audit import audit_labels
from l2rw_jax.classifier import ReweightClassifier
from l2rw_jax.reports import mean_interval, to_markdown
from l2rw_jax.training import ConfigError
from l2rw_jax.training import workdir as files

DATA = flags.DEFINE_string("data", "digits", "digits, or npz:PATH with given_labels.")
OUTPUT = flags.DEFINE_string("output", "results/label-audit-digits", "Start of the files' names.")
TRUSTED = flags.DEFINE_integer("trusted", 1000, "How many rows are verified, drawn at random.", 2)
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of trusted rows, networks, folds, noise.", 1)
STEPS = flags.DEFINE_integer("steps", None, "Of a network; by default the classifier's choice.", 1)
NOTE = flags.DEFINE_string("note", "", "What a reader of the figures should know.")

FIGURES = ("AUROC", "average precision", "F1", "precision", "recall", "test accuracy", "seconds")


class Task(NamedTuple):
    """What a seed's audits get; ``true`` and ``given`` of untrusted rows are for the figures."""

    features: np.ndarray  # [n, d]
    given: np.ndarray  # [n] labels as they came
    labels: np.ndarray  # [n] the given ones, and the true ones of trusted rows
    true: np.ndarray  # [n]
    trusted: np.ndarray  # [n] bool
    test_features: np.ndarray
    test_labels: np.ndarray


class Found(NamedTuple):
    """What an audit finds: a score of each row (low is bad), flagged rows, a trained model."""

    scores: dict[str, np.ndarray]  # by the name of the table's row
    flagged: np.ndarray  # [n] bool
    model: Any


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


def ours(name: str, known: Callable[[Task], tuple[Any, Any]]) -> Callable[[Task, int], Found]:
    """The label audit with its default classifier; ``known`` gives its labels and ``trusted``."""

    def audit(task: Task, seed: int) -> Found:
        model = ReweightClassifier(steps=STEPS.value, random_state=seed)
        table = audit_labels(task.features, *known(task), classifier=model)
        score, flagged = table.label_score.to_numpy(), table.is_label_issue.to_numpy()
        return Found({name: score}, flagged, model)

    return audit


def logistic_regression(task: Task, seed: int) -> Found:
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
    return Found(dict(zip(names, scores, strict=True)), flagged, cleaned)


def network(task: Task, seed: int) -> Found:
    """An audit by cleanlab with a network of ours: one of them, trained by plain SGD."""
    import cleanlab

    model = ReweightClassifier("baseline", networks=1, steps=STEPS.value, random_state=seed)
    cleaned = cleanlab.classification.CleanLearning(
        model, seed=seed, find_label_issues_kwargs={"n_jobs": 1}
    )
    issues = cleaned.fit(task.features, task.labels).get_label_issues()
    scores = {"cleanlab, CleanLearning on the MLP": issues.label_quality.to_numpy()}
    return Found(scores, issues.is_label_issue.to_numpy(), cleaned)


AUDITS = (
    ours("ours, trusted rows", lambda task: (task.labels, task.trusted)),
    logistic_regression,
    ours("ours, both labels", lambda task: (task.given, (task.trusted, task.true))),
    network,
    ours("ours, no trusted rows", lambda task: (task.labels, None)),
)


def figures(task: Task, found: Found, seconds: float) -> Iterator[dict[str, Any]]:
    """The figures over the rows that are not trusted, for each of the scores."""
    rest = ~task.trusted
    wrong, flagged = (task.given != task.true)[rest], found.flagged[rest]
    accuracy = np.mean(found.model.predict(task.test_features) == task.test_labels)
    precision = metrics.precision_score(wrong, flagged, zero_division=0)
    recall = metrics.recall_score(wrong, flagged)
    for name, score in found.scores.items():
        auroc = metrics.roc_auc_score(wrong, -score[rest])
        average = metrics.average_precision_score(wrong, -score[rest])
        f1 = wrong[np.argsort(score[rest], kind="stable")[: wrong.sum()]].mean()
        values = auroc, average, f1, precision, recall, accuracy, seconds
        yield {"audit": name} | dict(zip(FIGURES, map(float, values), strict=True))


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and 95 % interval over the seeds, a line an audit, as Markdown."""
    lines = []
    for name in dict.fromkeys(row["audit"] for row in rows):
        cells = [name]
        for figure in FIGURES:
            mean, half = mean_interval([row[figure] for row in rows if row["audit"] == name])
            form = ".0f" if figure == "seconds" else ".3f"
            cells.append(f"{mean:{form}}" + ("" if half is None else f" ± {half:{form}}"))
        lines.append(cells)
    return to_markdown(["audit", *FIGURES], lines) + "\n"


def read() -> data.Dataset:
    """The set of ``--data``, checked."""
    column = "given_labels" if DATA.value.startswith("npz:") else None
    try:
        dataset = data.load(DATA.value, column=column)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--data={DATA.value}: {error}") from error
    if TRUSTED.value > (most := len(dataset.train_labels) // 2):
        raise ConfigError(f"--trusted: got {TRUSTED.value}; takes at most {most}, half of the rows")
    if column and np.sum(dataset.given_labels != dataset.train_labels) <= TRUSTED.value:
        raise ConfigError(f"--data={DATA.value}: more given_labels must be wrong than --trusted")
    return dataset


def main() -> None:
    """Audits, and writes the two files after each seed."""
    try:
        _extras.require("benchmark", "cleanlab")
    except ImportError as error:
        raise ConfigError(str(error)) from error
    dataset = read()
    programs.prepare_output(OUTPUT.value)
    content: dict[str, Any] = programs.about("benchmark.label_audit")
    content["versions"] |= {name: metadata.version(name) for name in ("scikit-learn", "cleanlab")}
    content |= {"note": NOTE.value, "rows": []}
    for seed in range(SEEDS.value):
        task = draw(dataset, TRUSTED.value, seed)
        content["wrong_labels"] = float(np.mean(task.given != task.true))
        for audit in AUDITS:
            start = time.perf_counter()
            found = audit(task, seed)
            for row in figures(task, found, time.perf_counter() - start):
                content["rows"].append({"seed": seed} | row)
                print(f"seed {seed}: {row['audit']}, {row['seconds']:.0f} s", file=sys.stderr)
        files.write_json(f"{OUTPUT.value}.json", content)
        Path(f"{OUTPUT.value}.md").write_text(table(content["rows"]))
    print(table(content["rows"]))


if __name__ == "__main__":
    programs.run(main)
