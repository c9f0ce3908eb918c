"""How a text file holds a table: its separator, its decimal mark, the names of its columns."""

import codecs
import csv
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from l2rw_jax.audit.errors import AuditError, listed
from l2rw_jax.audit.kinds import open_text

# Cells that hold nothing, beside blank ones: what pandas takes for that, what people write,
# and what spreadsheets write where they could not compute.
_NOTHING = """? - -- . NA na N/A n/a #N/A #NA <NA> NaN nan NAN Nan -NaN -nan NaT 1.#IND -1.#IND
1.#QNAN -1.#QNAN NULL null Null None none NONE
#DIV/0! #VALUE! #REF! #NAME? #NUM! #NULL!"""
MISSING = frozenset(["", "#N/A N/A", *_NOTHING.split()])
# What pandas calls a column without a name.
UNNAMED = re.compile(r"\s*|Unnamed: \d+(\.\d+)*(_level_\d+)?|__index_level_\d+__")

_HEAD = 1 << 22  # bytes that are looked at
_ROWS = 2000  # and rows in them
_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_POINT = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")


class Layout(NamedTuple):
    """The names of a table's columns, its separator, its decimal mark, and lines before it."""

    names: list[str]
    separator: str
    decimal: str
    skipped: int


def read_layout(flag: str, path: Path) -> Layout:
    """Finds out how a text file holds a table, by its first rows.

    Args:
        flag: the flag that names the file, for errors.
        path: the file, which may be compressed.

    Raises:
        AuditError: no header, a name that comes twice, no text at all.
        UnicodeDecodeError: it is not UTF-8.
    """
    with open_text(path) as file:
        head = file.read(_HEAD)
    cut = len(head) == _HEAD
    text = codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=not cut)
    first, _, rest = text.partition("\n")
    told = re.fullmatch(r'\s*"?sep=(.)"?\s*', first, re.IGNORECASE)  # Excel's own line
    parted = {
        each: _rows(rest if told else text, each, cut) for each in (told[1] if told else "\t;|,")
    }
    separator, rows = max(parted.items(), key=lambda item: _fits(item[1]))
    if not rows:
        raise AuditError(f"{flag}={path}: the file is empty: give a header and rows")
    names = [name.strip() for name in rows[0]]
    decimal = _decimal(flag, path, separator, rows[1:])
    if _are_values(names, rows[1:], decimal):
        raise AuditError(
            f"{flag}={path}: its first row looks like values ({listed(names, 3)}), not like names "
            f"of columns; give the table a header"
        )
    refuse_repeated_names(flag, path, [name for name in names if name])
    for i, name in enumerate(names):
        if not name:
            names[i] = f"Unnamed: {i}"
            while names.count(names[i]) > 1:
                names[i] += ".1"
    return Layout(names, separator, decimal, int(bool(told)))


def refuse_repeated_names(flag: str, path: Path, names: Sequence[str]) -> None:
    """Raises AuditError if two columns have one name."""
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise AuditError(
            f"{flag}={path}: got {count} columns named {name!r}; takes unlike names; rename them"
        )


def _rows(text: str, separator: str, cut: bool) -> list[list[str]]:
    """The first rows; a text that is cut ends in a broken one."""
    lines = io.StringIO(text, newline="")
    rows: list[list[str]] = []
    try:
        for row in csv.reader(lines, delimiter=separator, skipinitialspace=True):
            if row:
                rows.append(row)
            if len(rows) > _ROWS:
                return rows
    except csv.Error:  # a cell without end: pandas says where
        return rows
    return rows[:-1] if cut and len(rows) > 1 else rows


def _fits(rows: list[list[str]]) -> int:
    """How well a separator parts the rows: all as the header; that alone; or not at all.

    Of several that part all rows the comma, which may be a decimal mark, comes last.
    """
    cells = len(rows[0]) if rows else 0
    return (cells > 1) + (cells > 1 and all(len(row) == cells for row in rows))


def _decimal(flag: str, path: Path, separator: str, rows: list[list[str]]) -> str:
    """The decimal mark: a comma, if numbers have one and none has a point."""
    cells = [cell.strip() for row in rows for cell in row]
    commas = [cell for cell in cells if _COMMA.fullmatch(cell)]
    if separator != ";":  # else a comma is no thousands mark
        commas = [] if all(_THOUSANDS.fullmatch(cell) for cell in commas) else commas
    if separator == "," or not commas:
        return "."
    points = [cell for cell in cells if _POINT.fullmatch(cell)]
    if points:
        raise AuditError(
            f"{flag}={path}: got numbers with decimal commas and with points, such as "
            f"{commas[0]!r} and {points[0]!r}; takes one of them; save it with points"
        )
    return ","


def _are_values(names: list[str], rows: list[list[str]], decimal: str) -> bool:
    """Whether a first row looks like one of values.

    A cell looks like a value if it comes again below it, or is a number among those below it.
    Whole numbers that rise from cell to cell are names: 0, 1, 2 ... of an array's columns always,
    others, such as years, unless each looks like a value.
    """
    # A header that comes again has its own message.
    rows = [row for row in rows if len(names) == 1 or [cell.strip() for cell in row] != names]
    columns = [
        (name, [row[i].strip() for row in rows if i < len(row)])
        for i, name in enumerate(names)
        if name
    ]
    numbers = [number for name, _ in columns if (number := _number(name, decimal)) is not None]
    rising = all(a < b and a % 1 == b % 1 == 0 for a, b in itertools.pairwise([-1.0, *numbers]))
    serial = rising and numbers in ([*range(len(numbers))], [*range(1, len(numbers) + 1)])
    like = 0
    for name, cells in columns:
        number = _number(name, decimal)
        if number is None:
            like += name in cells
        elif not serial:
            below = [value for cell in cells if (value := _number(cell, decimal)) is not None]
            like += bool(below) and _among(number, below)
    enough = len(columns) if numbers and rising and not serial else len(columns) / 2
    return 0 < like >= enough


def _among(number: float, others: list[float]) -> bool:
    margin = 0.1 * (max(others) - min(others))
    return min(others) - margin <= number <= max(others) + margin


def _number(text: str, decimal: str) -> float | None:
    text = text.replace(decimal, ".")
    try:
        return None if "_" in text or math.isnan(number := float(text)) else number
    except ValueError:
        return None
