"""CSV and Parquet tables as text: labels, verified labels, results."""

import csv
import importlib.util
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from l2rw_jax._files import write_whole
from l2rw_jax.audit.errors import AuditError

# What a spreadsheet would run as a formula, and the same behind apostrophes: a sign starts one only
# where no number follows. The script of report.html has the same expression.
_FORMULA = re.compile(r"'*(?:[=@\t\r\n]|[+-](?![0-9]*\.?[0-9]+\Z))")


class Labels(NamedTuple):
    """A table of labels: ids [n] and labels [n], both text."""

    ids: np.ndarray
    labels: np.ndarray


def read_labels(flag: str, path: Path, label_column: str, id_column: str | None) -> Labels:
    """Reads a table's labels; without an id column, a row's id is its number, from 0.

    Args:
        flag: the flag that names the file, for errors.
        path: a .csv or .parquet file.
        label_column: the column of the labels.
        id_column: the column of the ids; None numbers the rows.

    Returns:
        Labels.

    Raises:
        AuditError: the file cannot be read, has no such column, or an empty or repeated cell.
    """
    columns = [label_column] + ([id_column] if id_column else [])
    frame = read_table(flag, path, columns, text=columns)
    labels = text_cells(flag, path, label_column, frame[label_column])
    if id_column is None:
        return Labels(np.arange(len(labels)).astype(str), labels)
    return Labels(_ids(flag, path, id_column, frame), labels)


def read_checked(flag: str, path: Path) -> tuple[Labels, np.ndarray]:
    """Reads a table id, label of verified rows, and their column `list`, if there is one.

    Args:
        flag: the flag that names the file, for errors.
        path: a .csv or .parquet file.

    Returns:
        Labels, and [n] bools: the rows of the list `issues`, checked because they look wrong.

    Raises:
        AuditError: as of `read_labels`.
    """
    labels = read_labels(flag, path, "label", "id")
    if "list" not in read_header(path):
        return labels, np.zeros(len(labels.ids), bool)
    frame = read_table(flag, path, ["list"], text=["list"])
    return labels, (frame["list"] == "issues").to_numpy()


def read_ids(flag: str, path: Path, id_column: str) -> np.ndarray:
    """Reads the column of ids, which are unique; the errors are those of `read_labels`."""
    frame = read_table(flag, path, [id_column], text=[id_column])
    return _ids(flag, path, id_column, frame)


def read_table(
    flag: str, path: Path, columns: Sequence[str], *, text: Sequence[str], every: bool = False
) -> pd.DataFrame:
    """Reads the named columns, or every one, of a CSV or Parquet file.

    Args:
        flag: the flag that names the file, for errors.
        path: the file.
        columns: the columns that must be there.
        text: those that are read as text.
        every: whether to read the other columns too.

    Returns:
        A frame of at least one row.

    Raises:
        AuditError: no such file or column, no table, or no rows.
    """
    is_file(flag, path)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise AuditError(f"{flag}={path}: give a .csv or .parquet file")
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise AuditError(f"{flag}={path}: Parquet needs pyarrow: pip install pyarrow, or give CSV")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # pandas only warns of cells that it drops
            found = [str(name) for name in read_header(path)]
            for column in columns:
                if column not in found:
                    raise AuditError(
                        f"{flag}={path}: no column {column!r}; its columns are {listed(found)}"
                    )
            frame = _read(path, None if every else list(dict.fromkeys(columns)), text)
    except AuditError:
        raise
    except UnicodeDecodeError as error:
        raise AuditError(f"{flag}={path}: not UTF-8 ({error.reason}): save it as UTF-8") from None
    except pd.errors.EmptyDataError:
        raise AuditError(f"{flag}={path}: the file is empty: give a header and rows") from None
    except Exception as error:  # whatever a parser finds wrong
        reason = str(error).strip().partition("\n")[0]
        raise AuditError(f"{flag}={path}: cannot be read as a table ({reason})") from None
    if frame.empty:
        raise AuditError(f"{flag}={path}: the table has no rows")
    return frame


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Writes a frame with every text quoted, so that no spreadsheet runs a cell as a formula."""
    safe = frame.assign(
        **{
            name: [guard(str(cell)) for cell in frame[name]]
            for name in frame
            if not pd.api.types.is_numeric_dtype(frame[name])
        }
    )
    text = safe.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    write_whole(path, text.encode())


def guard(cell: str) -> str:
    """Puts an apostrophe before what a spreadsheet would run, or what looks so guarded already.

    >>> guard("=1+1"), guard("'=1+1"), guard("-1"), guard("cat")
    ("'=1+1", "''=1+1", '-1', 'cat')
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def unguard(cells: Sequence[str]) -> list[str]:
    """The cells that `guard` was given; a column that it has not made is taken as it is.

    >>> unguard(["'=1+1", "''=1+1", "cat"]), unguard(["=1+1", "'=1+1"])
    (['=1+1', "'=1+1", 'cat'], ['=1+1', "'=1+1"])
    """
    raw = any(cell[:1] != "'" and _FORMULA.match(cell) for cell in cells)
    if raw:  # guard leaves no such cell
        return list(cells)
    return [cell[1:] if _FORMULA.match(cell) else cell for cell in cells]


def text_cells(flag: str, path: Path, column: str, cells: pd.Series) -> np.ndarray:
    """A column as text; raises AuditError where a cell is empty."""
    empty = cells.isna() | (cells.astype(str).str.strip() == "")
    if empty.any():
        raise AuditError(
            f"{flag}={path}: column {column!r} is empty in row {int(np.argmax(empty))} "
            f"(counted from 0): fill it in or leave the row out"
        )
    return np.array(unguard([str(cell) for cell in cells]))


def refuse_repeated(what: str, ids: np.ndarray) -> None:
    """Raises AuditError if an id comes twice."""
    repeated = pd.Series(ids).duplicated().to_numpy()
    if repeated.any():
        raise AuditError(
            f"{what}: id {str(ids[np.argmax(repeated)])!r} comes more than once; ids must be unique"
        )


def is_file(flag: str, path: Path) -> None:
    """Raises AuditError unless the path is a file that can be read."""
    if not path.exists():
        raise AuditError(f"{flag}={path}: no such file")
    if not path.is_file():
        raise AuditError(f"{flag}={path}: not a file")


def listed(names: Sequence[Any] | np.ndarray, most: int = 10) -> str:
    """The first names, quoted, and how many more there are."""
    text = ", ".join(repr(str(name)) for name in names[:most])
    return text + (f" and {len(names) - most} more" if len(names) > most else "")


def _ids(flag: str, path: Path, column: str, frame: pd.DataFrame) -> np.ndarray:
    ids = text_cells(flag, path, column, frame[column])
    refuse_repeated(f"{flag}={path}: column {column!r}", ids)
    return ids


def read_header(path: Path) -> Sequence[str]:
    """The names of the columns of a .csv or .parquet file."""
    if path.suffix.lower() == ".csv":
        return list(pd.read_csv(path, nrows=0, encoding="utf-8-sig", index_col=False).columns)
    import pyarrow.parquet

    return list(pyarrow.parquet.read_schema(path).names)


def _read(path: Path, columns: Sequence[str] | None, text: Sequence[str]) -> pd.DataFrame:
    if path.suffix.lower() == ".parquet":
        return pd.read_parquet(path, columns=None if columns is None else list(columns))
    options: dict[str, Any] = {"encoding": "utf-8-sig", "index_col": False}
    # As text, a label "NA" or an id "007" stays what it is.
    as_text = options | {"dtype": str, "keep_default_na": False}
    if columns is not None:  # all are read, so that rows of too many cells are noticed
        return pd.read_csv(path, **as_text)[list(columns)]
    frame = pd.read_csv(path, **options)
    if text:
        cells = pd.read_csv(path, usecols=list(text), **as_text)
        frame = frame.assign(**{name: cells[name] for name in text})
    return frame
