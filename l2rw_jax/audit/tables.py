"""Tables: reading CSV and Parquet, labels and verified labels in them, writing results."""

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
from l2rw_jax._messages import reason
from l2rw_jax.audit.errors import AuditError, listed
from l2rw_jax.audit.kinds import TABLE, kind_of, open_text
from l2rw_jax.audit.layout import MISSING, UNNAMED, read_layout, refuse_repeated_names

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
        path: a table, as of `read_table`.
        label_column: the column of the labels.
        id_column: the column of the ids; None numbers the rows.

    Returns:
        Labels.

    Raises:
        AuditError: the file cannot be read, has no such column, or an empty or repeated cell.
    """
    columns = [label_column] + ([id_column] if id_column else [])
    frame = read_table(flag, path, columns, text=columns)
    return labels_of(flag, path, frame, label_column, id_column)


def labels_of(
    flag: str, path: Path, frame: pd.DataFrame, label_column: str, id_column: str | None
) -> Labels:
    """`read_labels` of a table that is read already."""
    labels = text_cells(flag, path, label_column, frame[label_column])
    if id_column is None:
        return Labels(np.arange(len(labels)).astype(str), labels)
    return Labels(ids_of(flag, path, frame, id_column), labels)


def read_checked(flag: str, path: Path) -> tuple[Labels, np.ndarray]:
    """Reads a table id, label of verified rows, and their column `list`, if there is one.

    Args:
        flag: the flag that names the file, for errors.
        path: a table, as of `read_table`.

    Returns:
        Labels, and [n] bools: the rows of the list `issues`, checked because they look wrong.

    Raises:
        AuditError: as of `read_labels`.
    """
    frame = read_table(flag, path, ["label", "id"], text=["label", "id", "list"])
    labels = labels_of(flag, path, frame, "label", "id")
    by_look = frame["list"] == "issues" if "list" in frame else np.zeros(len(frame), bool)
    return labels, np.asarray(by_look, bool)


def read_table(
    flag: str, path: Path, columns: Sequence[str], *, text: Sequence[str], every: bool = False
) -> pd.DataFrame:
    """Reads a Parquet file, or text of cells that a comma, semicolon, tab or bar separates.

    Text may be compressed. Named levels of a frame's index are columns, as in
    `DataFrame.reset_index`.

    Args:
        flag: the flag that names the file, for errors.
        path: the file.
        columns: the columns that must be there.
        text: those that are read as text, where they are there.
        every: whether to keep the other columns, too.

    Returns:
        A frame of at least one row; the names of its columns are text and unlike.

    Raises:
        AuditError: no such file or column, no table, or no rows.
    """
    kind = kind_of(flag, path, TABLE)
    if kind == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise AuditError(f"{flag}={path}: Parquet needs pyarrow: pip install pyarrow, or give CSV")
    try:
        with warnings.catch_warnings():
            # pandas only warns of cells that it drops.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            if kind == "parquet":
                frame = _read_parquet(flag, path)
            else:
                frame = _read_text(flag, path, text if every else None)
    except AuditError:
        raise
    except UnicodeDecodeError as error:
        raise AuditError(f"{flag}={path}: not UTF-8 ({error.reason}): save it as UTF-8") from None
    except pd.errors.EmptyDataError:
        raise AuditError(f"{flag}={path}: the file is empty: give a header and rows") from None
    except Exception as error:  # whatever a parser finds wrong
        told = f"cannot be read as a table ({reason(error)})"
        raise AuditError(f"{flag}={path}: {told}") from None
    for column in columns:
        if column not in frame:
            raise AuditError(
                f"{flag}={path}: no column {column!r}; its columns are {listed(list(frame))}"
            )
    if not len(frame):
        raise AuditError(f"{flag}={path}: the table has no rows")
    return frame if every else frame[[name for name in dict.fromkeys(text) if name in frame]]


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
    cells = cells.astype(object).map(lambda cell: _decoded(flag, path, column, cell))
    empty = np.asarray(cells.isna() | (cells.map(str).str.strip() == ""), bool)
    if empty.any():
        more = f" and {empty.sum() - 1} more" if empty.sum() > 1 else ""
        raise AuditError(
            f"{flag}={path}: column {column!r} is empty in row {int(np.argmax(empty))} "
            f"(counted from 0){more}: fill it in or leave the row out"
        )
    if pd.api.types.infer_dtype(cells) == "floating" and (cells % 1 == 0).all():
        cells = cells.map(int)  # whole numbers that once stood beside missing ones
    return np.array(unguard([str(cell) for cell in cells]))


def _decoded(flag: str, path: Path, column: str, cell: Any) -> Any:
    try:
        return cell.decode() if isinstance(cell, bytes) else cell
    except UnicodeDecodeError:
        raise AuditError(
            f"{flag}={path}: column {column!r} holds bytes, not UTF-8, such as "
            f"{cell!r:.40}; save it as text"
        ) from None


def refuse_repeated(what: str, ids: np.ndarray) -> None:
    """Raises AuditError if an id comes twice."""
    repeated = pd.Series(ids).duplicated().to_numpy()
    if repeated.any():
        raise AuditError(
            f"{what}: id {str(ids[np.argmax(repeated)])!r} comes more than once; ids must be unique"
        )


def ids_of(flag: str, path: Path, frame: pd.DataFrame, column: str) -> np.ndarray:
    """The column of ids, which are unique; the errors are those of `read_labels`."""
    ids = text_cells(flag, path, column, frame[column])
    refuse_repeated(f"{flag}={path}: column {column!r}", ids)
    return ids


def _read_parquet(flag: str, path: Path) -> pd.DataFrame:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        refuse_repeated_names(flag, path, file.schema_arrow.names)
        table = file.read()
    table.validate(full=True)  # text that is not UTF-8
    frame = table.to_pandas()
    names = ["_".join(map(str, n)) if isinstance(n, tuple) else str(n) for n in frame.columns]
    levels = [level for level, name in enumerate(frame.index.names) if name is not None]
    index = {str(frame.index.names[i]): frame.index.get_level_values(i).array for i in levels}
    refuse_repeated_names(flag, path, [*index, *names])
    frame = frame.set_axis(names, axis=1).reset_index(drop=True)
    return pd.concat([pd.DataFrame(index, index=frame.index), frame], axis=1) if index else frame


def _read_text(flag: str, path: Path, text: Sequence[str] | None) -> pd.DataFrame:
    """The table in a text file; cells of the named columns, or of all, stay text as they are."""
    layout = read_layout(flag, path)
    others = [] if text is None else [name for name in layout.names if name not in text]
    with open_text(path) as file:
        frame = pd.read_csv(
            file,
            sep=layout.separator,
            decimal=layout.decimal,
            skiprows=layout.skipped,
            header=0,
            names=layout.names,
            index_col=False,
            encoding="utf-8-sig",
            skipinitialspace=True,
            low_memory=False,
            # As text, a label "NA" or an id "007" stays what it is.
            dtype={name: str for name in layout.names if name not in others},
            na_values={name: sorted(MISSING) for name in others},
            keep_default_na=False,
        )
    _refuse_repeated_header(flag, path, frame)
    return frame


def _refuse_repeated_header(flag: str, path: Path, frame: pd.DataFrame) -> None:
    """Raises AuditError if the header comes again, as where files were joined."""
    again = np.ones(len(frame), bool)
    for name in frame:
        if not UNNAMED.fullmatch(name):
            if pd.api.types.is_numeric_dtype(frame[name]):
                return
            again &= np.asarray(frame[name].astype(object) == name, bool)
    if again.any() and not again.all():
        raise AuditError(
            f"{flag}={path}: row {int(np.argmax(again))} (counted from 0) repeats the header; "
            f"leave it out"
        )
