"""Cells of a table as numbers: of every type, missing ones, and numbers that stand for these."""

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from l2rw_jax.audit.errors import counted
from l2rw_jax.audit.layout import MISSING

NO_NUMBERS = "they hold no numbers"
MIXED = "text stands among their numbers"
DATES = "they hold dates"

_WORDS = 3  # that stand for missing cells in one column
_DATES = ("datetime64", "datetime", "date", "timedelta64", "timedelta", "time", "period")
# Numbers that people write where nothing was measured: they count as missing if they are far from
# all others, by so many times the range of these.
_CODE = re.compile(r"-([7-9])\1*(\.\d+)?|([7-9])\3{2,}(\.\d+)?|-9[78]")
_LIMITS = {2.0**bits - 1 for bits in (15, 16, 31, 32, 63, 64)} | {-(2.0**b) for b in (15, 31, 63)}
_HUGE = 1e20  # climate's; others write 1e30 or the largest float
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


def to_numbers(cells: pd.Series, missing: Sequence[str] = ()) -> Cells:
    """A column of any type as numbers; true is 1.

    Up to three words among numbers count as missing, such as "unknown". More words, or one with a
    digit, such as "12 kg" or "1,234", make the column one of text.

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
    words = list(strange.unique())
    if len(digits) or len(words) > _WORDS:
        return Cells(None, MIXED, [*digits, *words][:1])
    return Cells(numbers.to_numpy(np.float64), text=words)


def codes_of(values: np.ndarray) -> list[float]:
    """The numbers of a column that stand for a missing one: -9999 and its like, far from all else.

    >>> codes_of(np.array([0.1, 5, 3, -9999])), codes_of(np.array([9000.0, 9999, 8000]))
    ([-9999.0], [])
    """
    ends = np.nanmin(values, initial=np.inf), np.nanmax(values, initial=-np.inf)
    if not any(map(is_code, ends)):
        return []
    distinct = np.unique(values[~np.isnan(values)])
    low = list(itertools.takewhile(is_code, distinct))
    high = list(itertools.takewhile(is_code, distinct[len(low) :][::-1]))
    rest = distinct[len(low) : len(distinct) - len(high)]
    if len(rest) < 2:
        return []
    reach = _FAR * (rest[-1] - rest[0])
    return [
        float(code)
        for code in [*low, *reversed(high)]
        if code < rest[0] - reach or code > rest[-1] + reach
    ]


def is_code(value: float) -> bool:
    """Whether people write a number where nothing was measured, such as -9999."""
    huge = abs(value) >= _HUGE and np.isfinite(value)
    return bool(huge or value in _LIMITS or _CODE.fullmatch(f"{value:.15g}"))


def told_codes(name: object, values: np.ndarray, codes: list[float]) -> list[str]:
    """Lines that tell where a column [n] holds codes of `codes_of`, and what else it holds."""
    rest = values[~np.isin(values, codes)]
    lines = []
    for code in codes:
        rows = np.flatnonzero(values == code)
        lines.append(
            f"warning: column {name!r} holds {code:.15g} in {counted(len(rows), 'row')}, first in "
            f"row {rows[0]} (counted from 0), far from all else "
            f"({np.nanmin(rest):.4g}..{np.nanmax(rest):.4g})"
        )
    return lines
