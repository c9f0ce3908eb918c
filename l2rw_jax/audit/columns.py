"""What each column of a table is: a feature, or one that is left out, and why."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from l2rw_jax.audit.cells import NO_NUMBERS, Cells, codes_of, to_numbers, told_codes
from l2rw_jax.audit.errors import counted
from l2rw_jax.audit.layout import UNNAMED

NAMELESS = "it has no name"
LABEL = "it has the name of the label column"
ROW_NUMBERS = "it numbers the rows"
KEY = "it names the rows in --labels, too"
TWIN = "it alone tells the given labels"
CONSTANT = "it holds one value alone"
EMPTY = "more than half of its cells are missing"

_FEWEST = 10  # rows from which anything is said of a column
_SAMPLE = 5000  # rows that say whether a column parts the classes
_TOLD = 5  # columns that are told one by one
_LISTED = 10  # and named in one line


class Columns(NamedTuple):
    """What the columns of a table are.

    Attributes:
        numbers: [n, d] floats, NaN where a cell is missing: the features.
        left_out: the other columns, and why.
        codes: by column, what counts as missing in it beside `layout.MISSING`.
        indicators: the columns for which a feature says where they are missing.
        notes: lines that tell the user.
    """

    numbers: pd.DataFrame
    left_out: dict[str, str]
    codes: dict[str, list[float | str]]
    indicators: list[str]
    notes: list[str]


def choose_columns(frame: pd.DataFrame, labels: np.ndarray, reserved: Mapping[str, str]) -> Columns:
    """Decides which columns are features.

    Args:
        frame: n rows, without the columns of ids and of these labels.
        labels: [n] the given labels.
        reserved: columns that are no features whatever they hold, and why.
    """
    left_out: dict[str, str] = {}
    shown: dict[str, str] = {}  # a cell of a column that holds no numbers
    numbers: dict[str, np.ndarray] = {}
    codes: dict[str, list[float | str]] = {}
    notes: list[str] = []
    classes, labels = np.unique(labels, return_inverse=True)
    for name in frame:
        no_feature = NAMELESS if UNNAMED.fullmatch(name) else reserved.get(name)
        cells = Cells(None, no_feature) if no_feature else to_numbers(frame[name])
        if cells.numbers is None:
            ids = cells.why == NO_NUMBERS and numbers_rows(_digits(frame[name]))
            left_out[name] = ROW_NUMBERS if ids else cells.why
            if cells.text and not ids:
                shown[name] = cells.text[0]
            continue
        values, far = cells.numbers, codes_of(cells.numbers)
        if far:
            values = np.where(np.isin(values, far), np.nan, values)
        if reason := _why_not(values, labels, len(classes)):
            left_out[name] = reason
            continue
        numbers[name] = values
        if cells.text or far:
            codes[name] = [*cells.text, *far]
        notes += [_told_text(name, frame[name], text) for text in cells.text]
        notes += [f"{line}: it counts as missing" for line in told_codes(name, cells.numbers, far)]
    if len(notes) > _TOLD:
        notes[_TOLD:] = [f"warning: and so in {counted(len(notes) - _TOLD, 'more case')}"]
    table = pd.DataFrame(numbers, index=pd.RangeIndex(len(frame)))
    indicators, told = _indicators(table, labels, len(classes))
    notes += told
    for name, values in numbers.items():
        if parts(values, labels, len(classes)):
            notes.append(
                f"warning: {name!r} alone parts the given classes; it is used: was it made from "
                f"the labels?"
            )
    notes += _told_left_out(left_out, shown, frame.shape[1])
    return Columns(table, left_out, codes, indicators, notes)


def _indicators(
    table: pd.DataFrame, labels: np.ndarray, classes: int
) -> tuple[list[str], list[str]]:
    """The columns for which a feature says where they are missing; and lines on the others."""
    missing = table.isna()
    some = [str(name) for name in table if missing[name].any()]
    twins = [name for name in some if is_twin(missing[name].to_numpy(float), labels, classes)]
    notes = [
        f"warning: where {name!r} is missing tells the given labels: not used" for name in twins
    ]
    return [name for name in some if name not in twins], notes


def _told_left_out(left_out: dict[str, str], shown: dict[str, str], columns: int) -> list[str]:
    """A line for each reason."""
    notes = []
    for reason in dict.fromkeys(left_out.values()):
        names = [name for name, why in left_out.items() if why == reason]
        told = [
            f"{name!r} ({shown[name][:30]!r})" if name in shown else repr(name)
            for name in names[:_LISTED]
        ]
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        notes.append(
            f"warning: {len(names)} of {columns} columns left out, since {reason}: "
            f"{', '.join(told)}{more}"
        )
    return notes


def _digits(cells: pd.Series) -> np.ndarray:
    """The numbers in ids such as r0, r1 ...; NaN if the cells are no such ids."""
    parted = cells.astype(object).map(str).str.extract(r"^(\D*)(\d+)(\D*)$")
    alike = parted[0].nunique() == parted[2].nunique() == 1
    return parted[1].astype(float).to_numpy() if alike else np.full(len(cells), np.nan)


def _why_not(values: np.ndarray, labels: np.ndarray, classes: int) -> str | None:
    """The reason to leave a column of numbers out, or None."""
    missing = np.isnan(values)
    held = values[~missing]
    if 2 * len(held) < len(values):
        return EMPTY
    if not missing.any() and (held == held[0]).all():
        return CONSTANT
    if numbers_rows(values):
        return ROW_NUMBERS
    return TWIN if is_twin(values, labels, classes) else None


def numbers_rows(values: np.ndarray) -> bool:
    """Whether a column numbers the rows, and so tells their order instead of what they are.

    It does if its values, in any order, are all as far apart; or are integers that repeat ten
    times less than if they were drawn from their range; or rise by the same step from row to row,
    with few starts.

    Args:
        values: [n] numbers; rows of NaN say nothing.

    >>> numbers_rows(np.arange(100.0)), numbers_rows(np.arange(100.0) // 3)
    (True, False)
    """
    values = values[~np.isnan(values)]
    n = len(values)
    if n < _FEWEST or np.isinf(values).any():
        return False
    ordered = np.sort(values)
    if not 0 < ordered[-1] / 2 - ordered[0] / 2 < 1e30:  # no squares and sums that overflow
        return False
    gaps, steps = np.diff(ordered), np.diff(values)
    if np.ptp(gaps) <= 1e-6 * gaps[0]:
        return True
    distinct = 1 + np.count_nonzero(gaps)
    if np.abs(ordered).max() < 2**53 and (values % 1 == 0).all():
        unit = np.gcd.reduce(gaps.astype(int))  # type: ignore[call-overload]
        span = 1 + gaps.sum() / unit
        repeats = n + span * math.expm1(-n / span)  # expected of numbers that are drawn
        if repeats >= 20 and n - distinct <= repeats / 10:
            return True
    step = np.median(steps)
    return bool(step != 0 and np.mean(steps == step) >= 0.9 and 2 * distinct >= n)


def is_twin(values: np.ndarray, labels: np.ndarray, classes: int) -> bool:
    """Whether a column is another way to write the given labels, but for 1 % of the rows.

    It is if it takes at most two values for each class, and each value stands for a class; or if
    one of two values stands for one class. A feature that agrees less is a good one; a feature of
    many values, such as a measurement, is none however well it parts the classes.

    Args:
        values: [n] numbers; rows of NaN say nothing.
        labels: [n] integers.
        classes: how many they are.
    """
    known = ~np.isnan(values)
    values, labels = values[known], labels[known]
    n = len(labels)
    if n < max(_FEWEST, 4 * classes) or len(set(values[:1000])) > 2 * classes + 50:
        return False
    codes = pd.factorize(values)[0]
    sizes: np.ndarray = np.bincount(labels, minlength=classes)
    rows: np.ndarray = np.bincount(codes)
    common = np.argsort(-rows, kind="stable")[: 2 * classes]
    if rows[common].sum() < 0.99 * n:
        return False
    place = np.full(len(rows), -1)
    place[common] = np.arange(len(common))
    kept = place[codes] >= 0
    table = np.zeros((len(common), classes), int)
    np.add.at(table, (place[codes[kept]], labels[kept]), 1)
    if _rare(n - int(table.max(1).sum()), n - int(sizes.max()), n):
        return True
    if len(common) > 2 and rows[common[2:]].sum() > 0.01 * n:
        return False
    unlike = rows[common[:2], None] + sizes - 2 * table[:2]
    least = np.minimum(sizes, n - sizes)
    return bool(((least >= 5) & _rare(unlike, least, n)).any())


def _rare(wrong: np.ndarray | int, rest: np.ndarray | int, n: int) -> np.ndarray | bool:
    """Whether so many rows are few of all, and few of those that are not of the commonest kind."""
    return (wrong <= 0.01 * n) & (wrong <= 0.1 * rest)


def parts(values: np.ndarray, labels: np.ndarray, classes: int) -> bool:
    """Whether thresholds on a column tell the given labels, but for 1 % of some rows.

    As in `is_twin`, but a class may take many values: two intervals at most.
    """
    known = np.flatnonzero(~np.isnan(values))
    # In a random order: rows of one value then tell their class only if all have the same.
    known = np.random.default_rng(0).permutation(known)[:_SAMPLE]
    if len(known) < _FEWEST:
        return False
    ordered = labels[known[np.argsort(values[known], kind="stable")]]
    rest = len(ordered) - int(np.max(np.bincount(ordered)))
    changes = np.count_nonzero(np.diff(ordered))
    return bool(changes < 2 * classes + min(0.02 * len(ordered), 0.2 * rest) and rest > 5 * classes)


def _told_text(name: str, cells: pd.Series, text: str) -> str:
    count = int((cells.astype(object).map(str).str.strip() == text).sum())
    return (
        f"warning: column {name!r} holds {text[:30]!r} in {counted(count, 'row')}, among numbers: "
        f"it counts as missing"
    )
