"""Does checking some rows make the next audit better? True labels stand in for who checks.

Its program is ``label_audit``, with ``--check``.
"""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import numpy as np

from experiments.benchmark.audits import SCORED, Found, Task, ranking
from l2rw_jax.audit import audit_labels
from l2rw_jax.audit.calibrate import check_first, representative
from l2rw_jax.classifier import ReweightClassifier
from l2rw_jax.reports import mean_interval, to_markdown

FIRST, CHECKED = "first audit", "after the check"
STEERED = "after the check, steered networks alone"
UNCHECKED = "same rows, not looked at"
COLUMNS = (*SCORED, "AUROC, all rows", "test accuracy")
_POINTS = {"test accuracy"}  # shown in percent


class Round(NamedTuple):
    """A seed's task with the rows that the first audit suggests as the trusted ones."""

    seed: int
    task: Task
    stands_for_all: bool  # whether the audit lets the suggested rows steer


class Remembering(ReweightClassifier):
    """Fits without trusted rows once, since that gives the same every time."""

    _unsteered: dict[str, Any]

    def fit(self, X: Any, y: Any, trusted: Any = None) -> Self:
        """As `ReweightClassifier.fit`."""
        if trusted is None and hasattr(self, "_unsteered"):
            self.__dict__.update(self._unsteered)
            return self
        super().fit(X, y, trusted)
        if trusted is None:
            self._unsteered = dict(self.__dict__)
        else:
            self.steered_ = copy.copy(self)
        return self


def rounds(
    task: Task, seed: int, steps: int | None, count: int, control: bool
) -> list[dict[str, Any]]:
    """The audits of a seed: the first one, the one after the check, and those to compare with."""
    model = Remembering(steps=steps, random_state=seed)

    def found(name: str, trusted: Any = None) -> Found:
        table = audit_labels(task.features, task.given, trusted, classifier=model)
        return _found(name, table["label_score"].to_numpy(), model, task)

    first = found(FIRST)
    mask = np.zeros(len(task.true), bool)
    mask[check_first(np.argsort(first.scores[FIRST], kind="stable"), count)] = True
    done = Round(seed, task._replace(trusted=mask), representative(first.scores[FIRST], mask))
    checked = found(CHECKED, (mask, task.true))
    rows = [row(done, FIRST, first, known=False), row(done, CHECKED, checked, known=True)]
    if done.stands_for_all:
        steered = _found(STEERED, model.steered_.label_quality_, model.steered_, task)
        rows.append(row(done, STEERED, steered, known=True))
    if control:
        rows.append(row(done, UNCHECKED, found(UNCHECKED, mask), known=False))
    return rows


def _found(name: str, scores: np.ndarray, model: Any, task: Task) -> Found:
    scores = np.asarray(scores, np.float64)
    return Found({name: scores}, scores < 0.5, model.predict(task.test_features))


def row(before: Round, name: str, found: Found, *, known: bool) -> dict[str, Any]:
    """An audit's metrics over the rows that are not suggested; "all rows" has these too.

    There, if they are ``known``, a wrong one comes first and a right one last.
    """
    task, score = before.task, found.scores[name]
    wrong, rest = task.given != task.true, ~task.trusted
    everything = np.where(task.trusted, np.where(wrong, -1, 2), score) if known else score
    accuracy = float(np.mean(found.predicted == task.test_labels))
    values = (*ranking(wrong[rest], score[rest]), ranking(wrong, everything)[0], accuracy)
    about = {"seed": before.seed, "audit": name, "stands for all": before.stands_for_all}
    return about | dict(zip(COLUMNS, values, strict=True))


def differences(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str, list[float]]]:
    """Of each later audit and metric: what it has more than the first one of the same seed."""
    before = {row["seed"]: row for row in rows if row["audit"] == FIRST}
    for name in (CHECKED, STEERED, UNCHECKED):
        later = [row for row in rows if row["audit"] == name and row["seed"] in before]
        for column in COLUMNS:
            yield name, column, [row[column] - before[row["seed"]][column] for row in later]


def table(rows: list[dict[str, Any]]) -> str:
    """Each audit's means, and the later ones' mean paired gains with 95 % intervals."""
    lines = []
    for name in dict.fromkeys(row["audit"] for row in rows):
        mine = [row for row in rows if row["audit"] == name]
        cells = [f"{name} ({len(mine)} seeds)"]
        for column in COLUMNS:
            mean, half = mean_interval([row[column] for row in mine])
            cells.append(_text(column, mean, half))
        lines.append(cells)
    for name in (CHECKED, STEERED, UNCHECKED):
        gains = [values for audit, _, values in differences(rows) if audit == name]
        if gains and gains[0]:
            pairs = zip(COLUMNS, gains, strict=True)
            cells = [_text(column, *mean_interval(values), sign="+") for column, values in pairs]
            lines.append([f"gain: {name} − {FIRST}", *cells])
    return to_markdown(["audit", *COLUMNS], lines) + "\n"


def _text(column: str, mean: float | None, half: float | None, sign: str = "") -> str:
    assert mean is not None
    scale, form = (100, ".2f") if column in _POINTS else (1, ".4f")
    unit = " %" if column in _POINTS else ""
    return f"{scale * mean:{sign}{form}}{unit}" + (
        "" if half is None else f" ± {scale * half:{form}}"
    )
