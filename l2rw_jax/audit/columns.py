"""What each column of a table is: a feature, or one that is left out, and why."""

import itertools
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from l2rw_jax.audit.errors import counted
from l2rw_jax.audit.layout import MISSING, UNNAMED

NO_NUMBERS = "they hold no numbers"
MIXED = "text stands among their numbers"
DATES = "they hold dates"
NAMELESS = "it has no name"
LABEL = "it has the name of the label column"
ROW_NUMBERS = "it numbers the rows"
TWIN = "it alone tells the given labels"
CONSTANT = "it holds one value alone"
EMPTY = "more than half of its cells are missing"

_FEWEST = 10  # rows from which anything is said of a column
_SAMPLE = 5000  # rows that say whether a column parts the classes
_TOLD = 5  # columns that are told one by one
_DATES = ("datetime64", "datetime", "date", "timedelta64", "timedelta", "time", "period")
# Numbers that people write where nothing was measured: they count as missing if they are far from
# all others, by so many times the range of these.
_CODE = re.compile(r"-9+(\.\d+)?|9{3,}(\.\d+)?")
_LIMITS = (-(2**15), -(2**31), 2**31 - 1, -(2**63), 2**63 - 1)
_HUGE = 1e30
_FAR = 3


class Cells(NamedTuple):
    """A column as numbers.

    Attributes:
        numbers: [n] floats, NaN where a cell is missing; None if the column holds no numbers.
        why: the reason why it holds none.
        text: what stands for a missing cell in it; or a cell that shows that it holds no numbers.
    """

    numbers: np.ndarray | None
    why: str = ""
    text: Sequence[str] = ()


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


def choose_columns(frame: pd.DataFrame, labels: np.ndarray, label_column: str) -> Columns:
    """Decides which columns are features.

    Args:
        frame: n rows, without the columns of ids and of these labels.
        labels: [n] the given labels.
        label_column: the label column's name, which may be in the frame once more.
    """
    left_out: dict[str, str] = {}
    shown: dict[str, str] = {}  # how a column is told
    numbers: dict[str, np.ndarray] = {}
    codes: dict[str, list[float | str]] = {}
    notes: list[str] = []
    classes, labels = np.unique(labels, return_inverse=True)
    for name in frame:
        cells = Cells(None, NAMELESS) if UNNAMED.fullmatch(name) else to_numbers(frame[name])
        if name == label_column:
            cells = Cells(None, LABEL)
        if cells.numbers is None:
            ids = cells.why == NO_NUMBERS and numbers_rows(_digits(frame[name]))
            left_out[name] = ROW_NUMBERS if ids else cells.why
            if cells.text and not ids:
                shown[name] = f"{name!r} ({cells.text[0][:30]!r})"
            continue
        far = codes_of(cells.numbers)
        values = np.where(np.isin(cells.numbers, far), np.nan, cells.numbers)
        if reason := _why_not(values, labels, len(classes)):
            left_out[name] = reason
            continue
        numbers[name] = values
        if cells.text or far:
            codes[name] = [*cells.text, *far]
        notes += [_told_text(name, frame[name], text) for text in cells.text]
        notes += [_told_code(name, cells.numbers, values, code) for code in far]
    if len(notes) > _TOLD:
        notes[_TOLD:] = [f"warning: and so in {counted(len(notes) - _TOLD, 'more case')}"]
    indicators = []
    for name, values in numbers.items():
        missing = np.isnan(values)
        if missing.any():
            if is_twin(missing.astype(float), labels, len(classes)):
                notes.append(f"warning: where {name!r} is missing tells the given labels: not used")
            else:
                indicators.append(name)
        if parts(values, labels, len(classes)):
            notes.append(
                f"warning: {name!r} alone parts the given classes; it is used: was it made from "
                f"the labels?"
            )
    for reason in dict.fromkeys(left_out.values()):
        names = [shown.get(name, repr(name)) for name, why in left_out.items() if why == reason]
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        notes.append(
            f"warning: {len(names)} of {frame.shape[1]} columns left out, since {reason}: "
            f"{', '.join(names[:10])}{more}"
        )
    index = pd.RangeIndex(len(frame))
    return Columns(pd.DataFrame(numbers, index=index), left_out, codes, indicators, notes)


def to_numbers(cells: pd.Series, missing: Sequence[str] = ()) -> Cells:
    """A column of any type as numbers; true is 1.

    Text among numbers counts as missing if it has no digit, such as "unknown"; with a digit, such
    as "12 kg" or "1,234", it makes the column one of text.

    Args:
        cells: the column.
        missing: texts that count as missing whatever else it holds.
    """
    dtype = cells.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        cells = cells.astype(object)
    elif pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype):
        return Cells(cells.to_numpy(np.float64, na_value=np.nan))  # bools, too
    kind = pd.api.types.infer_dtype(cells, skipna=True)
    if kind in _DATES:
        return Cells(None, DATES, [str(cell) for cell in cells.dropna()[:1]])
    if kind in ("integer", "floating", "mixed-integer-float", "decimal", "boolean"):
        return Cells(np.array([_float(cell) for cell in cells.astype(object)]))
    return _text_to_numbers(cells, MISSING.union(missing))


def _float(cell: object) -> float:
    try:
        return np.nan if pd.isna(cell) else float(cell)  # type: ignore[arg-type]
    except OverflowError:
        return np.inf


def _text_to_numbers(cells: pd.Series, missing: frozenset[str]) -> Cells:
    text = cells.astype(object).map(str).str.strip()
    held = cells.notna() & ~text.isin(missing)
    truths = text.str.lower().map({"true": 1.0, "false": 0.0})
    numbers = pd.to_numeric(text.where(held), errors="coerce").fillna(truths)
    strange = text[held & numbers.isna()]
    digits = strange[strange.str.contains(r"\d", regex=True)]
    if 2 * len(strange) > held.sum():
        return Cells(None, NO_NUMBERS, [strange.iloc[0]])
    if len(digits):
        return Cells(None, MIXED, [digits.iloc[0]])
    return Cells(numbers.to_numpy(np.float64), text=list(strange.unique()))


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
        values: [n] numbers; NaN is no row's number.

    >>> numbers_rows(np.arange(100.0)), numbers_rows(np.arange(100.0) // 3)
    (True, False)
    """
    n = len(values)
    if n < _FEWEST or not np.isfinite(values).all():
        return False
    ordered = np.sort(values)
    if not 0 < ordered[-1] / 2 - ordered[0] / 2 < _HUGE:
        return False
    gaps, steps = np.diff(ordered), np.diff(values)
    if np.ptp(gaps) <= 1e-6 * gaps[0]:
        return True
    distinct = 1 + np.count_nonzero(gaps)
    if np.abs(ordered).max() < 2**53 and (values % 1 == 0).all():
        span = 1 + gaps.sum() / math.gcd(*gaps.astype(int).tolist())
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


def codes_of(values: np.ndarray) -> list[float]:
    """The numbers of a column that stand for a missing one: -9999 and its like, far from all else.

    >>> codes_of(np.array([0.1, 5, 3, -9999])), codes_of(np.array([9000.0, 9999, 8000]))
    ([-9999.0], [])
    """
    ends = np.nanmin(values, initial=np.inf), np.nanmax(values, initial=-np.inf)
    if not any(map(_is_code, ends)):
        return []
    distinct = np.unique(values[~np.isnan(values)])
    low = list(itertools.takewhile(_is_code, distinct))
    high = list(itertools.takewhile(_is_code, distinct[len(low) :][::-1]))
    rest = distinct[len(low) : len(distinct) - len(high)]
    if len(rest) < 2:
        return []
    reach = _FAR * (rest[-1] - rest[0])
    return [
        float(code)
        for code in [*low, *reversed(high)]
        if code < rest[0] - reach or code > rest[-1] + reach
    ]


def _is_code(value: float) -> bool:
    huge = abs(value) >= _HUGE and np.isfinite(value)
    return bool(huge or value in _LIMITS or _CODE.fullmatch(f"{value:.15g}"))


def _told_text(name: str, cells: pd.Series, text: str) -> str:
    count = int((cells.astype(object).map(str).str.strip() == text).sum())
    return (
        f"warning: column {name!r} holds {text[:30]!r} in {counted(count, 'row')}, among numbers: "
        f"it counts as missing"
    )


def _told_code(name: str, numbers: np.ndarray, values: np.ndarray, code: float) -> str:
    rows = np.flatnonzero(numbers == code)
    return (
        f"warning: column {name!r} holds {code:.15g} in {counted(len(rows), 'row')}, first in row "
        f"{rows[0]} (counted from 0), far from all else "
        f"({np.nanmin(values):.4g}..{np.nanmax(values):.4g}): it counts as missing"
    )
