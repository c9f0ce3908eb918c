"""What the command's flags name, read and checked: rows, their labels, their verified labels."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l2rw_jax.audit.errors import AuditError
from l2rw_jax.audit.features import read_features
from l2rw_jax.audit.pictures import (
    Picture,
    Pictures,
    by_stem,
    read_images,
    read_tfds,
    relabelled,
)
from l2rw_jax.audit.table import check_classes
from l2rw_jax.audit.tables import is_file, listed, read_checked, read_header, read_labels
from l2rw_jax.audit.walk import find_files


class Rows(NamedTuple):
    """The rows of an audit.

    Attributes:
        X: [n, d] features, or images [n, h, w, c] uint8.
        ids: [n] text.
        labels: [n] text, as given.
        trusted: [n] bools: rows whose label is verified.
        true_labels: [n] text; the verified label of trusted rows.
        chosen: [n] bools: trusted rows that were checked because they look wrong.
        picture: from an id to its picture; None where there are none.
        unreadable: by file or folder, why it was left out.
        columns: the names of the features, if they are a table's.
        left_out: the names of that table's other columns, which hold no numbers.
    """

    X: Any
    ids: np.ndarray
    labels: np.ndarray
    trusted: np.ndarray
    true_labels: np.ndarray
    chosen: np.ndarray
    picture: Picture | None
    unreadable: dict[str, str]
    columns: list[str] | None = None
    left_out: tuple[str, ...] = ()


def check_flags(flags: argparse.Namespace) -> None:
    """Raises AuditError unless the flags name one source of rows, and its labels.

    Files are looked for here, before any is read.
    """
    if not (flags.images or flags.features or flags.tfds):
        raise AuditError("no rows: give --images, --features or --tfds")
    if flags.images and flags.tfds:
        raise AuditError("--images and --tfds: give one of them")
    if flags.data_dir and not flags.tfds:
        raise AuditError("--data_dir: says where --tfds finds its sets; give it with --tfds")
    for flag in ("features", "labels"):
        if path := getattr(flags, flag):
            is_file(f"--{flag}", path)
    for path in flags.trusted:
        is_file("--trusted", path)
    if flags.images:
        find_files(flags.images)
    if flags.features:
        if not flags.labels and flags.features.suffix.lower() not in (".csv", ".parquet"):
            raise AuditError(
                f"--features={flags.features}: needs --labels, a table of their labels"
            )
        if (flags.images or flags.tfds) and not flags.id_column:
            raise AuditError(
                "--id_column: missing; it names the column of ids by which --features finds its "
                "pictures"
            )
    elif flags.labels and flags.images and not flags.id_column:
        raise AuditError(
            "--id_column: missing; it names the column of --labels that holds the files' paths"
        )
    elif flags.id_column and not flags.labels:
        raise AuditError("--id_column: names a column of --labels; give --labels too")


def read_rows(flags: argparse.Namespace, scratch: Path) -> Rows:
    """Reads the rows, their labels and the verified labels.

    Args:
        flags: the command's.
        scratch: a folder for decoded images.

    Raises:
        AuditError: what is read does not fit together.
    """
    rows = _read_features(flags) if flags.features else _read_pictures(flags, scratch)
    classes, counts = np.unique(rows.labels, return_counts=True)
    check_classes(_where(flags), classes, counts)
    return _read_trusted(flags.trusted, rows)


def _where(flags: argparse.Namespace) -> str:
    name = next(n for n in ("labels", "features", "images", "tfds") if getattr(flags, n))
    return f"--{name}={getattr(flags, name)}"


def _read_features(flags: argparse.Namespace) -> Rows:
    table = flags.labels or flags.features
    flag = "--labels" if flags.labels else "--features"
    labels = read_labels(flag, table, flags.label_column, flags.id_column)
    own = () if flags.labels else (flags.label_column,)
    if flags.id_column and not flags.labels:
        own = (*own, flags.id_column)
    X, columns = read_features(flags.features, own)
    if len(X) != len(labels.labels):
        raise AuditError(
            f"--features={flags.features} has {len(X)} rows and --labels={flags.labels} "
            f"{len(labels.labels)}: give a label for each row, in the same order"
        )
    picture = None
    if flags.images:
        picture = by_stem(flags.images)
    elif flags.tfds:
        picture = read_tfds(flags.tfds, flags.data_dir).picture
    rows = _rows(X, labels.ids, labels.labels, picture, {})
    if columns is None:
        return rows
    others = {*read_header(flags.features)} - {*columns, *own}
    return rows._replace(columns=columns, left_out=tuple(sorted(others)))


def _read_pictures(flags: argparse.Namespace, scratch: Path) -> Rows:
    table = None
    if flags.labels:
        table = read_labels("--labels", flags.labels, flags.label_column, flags.id_column)
    if flags.images:
        source = read_images(flags.images, flags.size, scratch, classes=table is None)
    else:
        source = read_tfds(flags.tfds, flags.data_dir)
    if table:
        if flags.id_column is None:  # the row's number
            source = _numbered(source, len(table.ids), flags)
        source = relabelled(source, table.ids, table.labels, f"--labels={flags.labels}")
    return _rows(source.X, source.ids, source.labels, source.picture, source.unreadable)


def _numbered(source: Pictures, count: int, flags: argparse.Namespace) -> Pictures:
    if count != len(source.ids):
        raise AuditError(
            f"--labels={flags.labels} has {count} rows and --tfds={flags.tfds} {len(source.ids)}: "
            f"give a label for each row in the same order, or --id_column"
        )
    named = source.ids
    return source._replace(
        ids=np.arange(count).astype(str), picture=lambda row_id: source.picture(named[int(row_id)])
    )


def _rows(
    X: Any,
    ids: np.ndarray,
    labels: np.ndarray,
    picture: Picture | None,
    unreadable: dict[str, str],
) -> Rows:
    none = np.zeros(len(ids), bool)
    return Rows(X, ids, labels, none, labels, none, picture, unreadable)


def _read_trusted(paths: Sequence[Path], rows: Rows) -> Rows:
    """The rows with the verified labels of files; where two files differ, the later one counts."""
    place = {row_id: row for row, row_id in enumerate(rows.ids)}
    classes = np.unique(rows.labels)
    trusted, true, chosen = rows.trusted.copy(), rows.labels.copy(), rows.chosen.copy()
    for path in paths:
        table, by_look = read_checked("--trusted", path)
        unknown = [row_id for row_id in table.ids if row_id not in place]
        if unknown:
            raise AuditError(
                f"--trusted={path}: {len(unknown)} ids belong to no row: {listed(unknown, 3)}; "
                f"ids look like {listed(rows.ids, 2)}"
            )
        strange = ~np.isin(table.labels, classes)
        if strange.any():
            raise AuditError(
                f"--trusted={path}: label {str(table.labels[np.argmax(strange)])!r} is no class; "
                f"the classes are {listed(classes)}"
            )
        index = [place[row_id] for row_id in table.ids]
        chosen[index] = by_look & (chosen[index] | ~trusted[index])
        trusted[index], true[index] = True, table.labels
    return rows._replace(trusted=trusted, true_labels=true, chosen=chosen)
