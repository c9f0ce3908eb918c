"""Does checking some rows make the next audit better? True labels stand in for who checks.

Its program is ``label_audit``, with ``--check``.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmark.audits import SCORED, Found, Task, ours, ranking
from l2rw_jax.audit.calibrate import check_first, representative
from l2rw_jax.reports import mean_interval, to_markdown

FIRST, CHECKED, UNCHECKED = "first audit", "after the check", "same rows, not looked at"
COLUMNS = (*SCORED, "AUROC, all rows", "test accuracy")
_POINTS = {"test accuracy"}  # shown in percent


class Round(NamedTuple):
    """A seed's first audit, and the task with its suggested rows as the trusted ones."""

    seed: int
    task: Task
    scores: np.ndarray  # [n] of the first audit
    stands_for_all: bool  # whether the audit lets the suggested rows steer


def first(task: Task, seed: int, steps: int | None, count: int) -> tuple[Round, dict[str, Any]]:
    """Audits without trusted rows, and draws the rows that its report says to check first."""
    task = task._replace(trusted=np.zeros(len(task.true), bool), labels=task.given)
    found = ours(task, seed, steps, name=FIRST, known="none")
    scores = found.scores[FIRST]
    mask = np.zeros(len(scores), bool)
    mask[check_first(np.argsort(scores, kind="stable"), count)] = True
    labels = np.where(mask, task.true, task.given)
    task = task._replace(trusted=mask, labels=labels)
    done = Round(seed, task, scores, representative(scores, mask))
    return done, row(done, FIRST, found, known=False)


def again(before: Round, steps: int | None, name: str) -> dict[str, Any]:
    """The next audit: with the true labels of the suggested rows, or (control) their given ones.

    The method is the one that ``auto`` takes with trusted rows.
    """
    known = "both" if name == CHECKED else "given"
    audit = partial(ours, name=name, known=known, method="evidence")
    found = audit(before.task, before.seed, steps)
    return row(before, name, found, known=name == CHECKED)


def row(before: Round, name: str, found: Found, *, known: bool) -> dict[str, Any]:
    """An audit's figures over the rows that are not suggested; "all rows" has these too.

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
    """Of each later audit and figure: what it has more than the first one of the same seed."""
    before = {row["seed"]: row for row in rows if row["audit"] == FIRST}
    for name in (CHECKED, UNCHECKED):
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
    for name in (CHECKED, UNCHECKED):
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
