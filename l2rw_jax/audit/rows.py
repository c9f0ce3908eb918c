"""What the command's flags name, read and checked: rows, their labels, their verified labels."""

import argparse
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from l2rw_jax.audit.arrays import examine, read_array
from l2rw_jax.audit.columns import KEY, LABEL
from l2rw_jax.audit.errors import AuditError, listed
from l2rw_jax.audit.features import Recipe, table_features
from l2rw_jax.audit.kinds import TABLE, is_array, kind_of
from l2rw_jax.audit.labels import clean_labels, doubtful_labels, known_ids
from l2rw_jax.audit.layout import UNNAMED
from l2rw_jax.audit.pictures import (
    Picture,
    Pictures,
    by_stem,
    read_images,
    read_tfds,
    relabelled,
)
from l2rw_jax.audit.table import check_classes
from l2rw_jax.audit.tables import (
    Labels,
    ids_of,
    labels_of,
    read_checked,
    read_labels,
    read_table,
    refuse_repeated,
)
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
        recipe: how the features came from the columns of a table; None if they are no table's.
        left_out: the names of that table's other columns.
        notes: lines that tell the user what was found and what was done.
    """

    X: Any
    ids: np.ndarray
    labels: np.ndarray
    trusted: np.ndarray
    true_labels: np.ndarray
    chosen: np.ndarray
    picture: Picture | None
    unreadable: dict[str, str]
    recipe: Recipe | None = None
    left_out: tuple[str, ...] = ()
    notes: Sequence[str] = ()


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
    array = flags.features and is_array(flags.features)
    if flags.labels:
        kind_of("--labels", flags.labels, TABLE)
    for path in flags.trusted:
        kind_of("--trusted", path, TABLE)
    if flags.images:
        find_files(flags.images)
    if flags.features:
        if not flags.labels and array:
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
    labels = clean_labels(rows.labels)
    classes, counts = np.unique(labels, return_counts=True)
    check_classes(_where(flags), classes, counts)
    notes = [*doubtful_labels(_where(flags), rows.labels, labels), *rows.notes]
    rows = rows._replace(labels=labels, true_labels=labels, notes=notes)
    return _read_trusted(flags.trusted, rows)


def _where(flags: argparse.Namespace) -> str:
    name = next(n for n in ("labels", "features", "images", "tfds") if getattr(flags, n))
    return f"--{name}={getattr(flags, name)}"


def _read_features(flags: argparse.Namespace) -> Rows:
    if is_array(flags.features):
        labels = read_labels("--labels", flags.labels, flags.label_column, flags.id_column)
        X = read_array(flags.features)
        _check_lengths(flags, len(X), len(labels.labels))
        rows = _rows(X, labels.ids, labels.labels, None, {})
        rows = rows._replace(notes=examine(flags.features, X, clean_labels(labels.labels)))
    else:
        rows = _read_table(flags)
    if flags.images:
        return rows._replace(picture=_either_form(by_stem(flags.images)))
    if flags.tfds:
        return rows._replace(picture=read_tfds(flags.tfds, flags.data_dir).picture)
    return rows


def _read_table(flags: argparse.Namespace) -> Rows:
    """The rows of a table of features, which holds their labels, too, or has them in another."""
    own = [flags.label_column] + ([flags.id_column] if flags.id_column else [])
    one = not flags.labels or flags.labels.samefile(flags.features)
    needed = own if one else []
    frame = read_table("--features", flags.features, needed, text=own, every=True)
    table, path, flag = frame, flags.features, "--labels" if flags.labels else "--features"
    if not one:
        path = flags.labels
        table = read_table(flag, path, own, text=own, every=True)
    labels = labels_of(flag, path, table, flags.label_column, flags.id_column)
    reserved = {}
    if one:
        frame = frame.drop(columns=flags.label_column)
    elif flags.id_column in frame:
        ids = ids_of("--features", flags.features, frame, flags.id_column)
        labels = _matched(flags, labels, ids)
    else:
        _check_lengths(flags, len(frame), len(labels.labels))
        reserved = dict.fromkeys(_keys(flags, frame, table.drop(columns=own)), KEY)
    if flags.label_column in frame:
        reserved[flags.label_column] = LABEL
    frame = frame.drop(columns=flags.id_column or [], errors="ignore")
    found = table_features(flags.features, frame, clean_labels(labels.labels), reserved)
    return _rows(found.X, labels.ids, labels.labels, None, {})._replace(
        recipe=found.recipe, left_out=found.left_out, notes=found.notes
    )


def _keys(flags: argparse.Namespace, frame: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """The columns by which both tables name each row.

    Raises:
        AuditError: they name the rows in another order.
    """
    keys = []
    for name in table:
        if name not in frame or UNNAMED.fullmatch(name):
            continue
        here, there = frame[name].astype(str), table[name].astype(str)
        measured = pd.api.types.is_float_dtype(frame[name])
        if measured or not here.is_unique or set(here) != set(there):
            continue
        if not np.array_equal(here, there):
            raise AuditError(
                f"--id_column: missing; column {name!r} names the rows of "
                f"--features={flags.features} and --labels={flags.labels} in two orders; give "
                f"--id_column={name}, or leave it out of one of them"
            )
        keys.append(name)
    return keys


def _check_lengths(flags: argparse.Namespace, rows: int, labels: int) -> None:
    if rows != labels:
        raise AuditError(
            f"--features={flags.features} has {rows} rows and --labels={flags.labels} {labels}: "
            f"give a label for each row, in the same order"
        )


def _matched(flags: argparse.Namespace, labels: Labels, ids: np.ndarray) -> Labels:
    """The labels in the order of ids that --features has, too."""
    place = {row_id: row for row, row_id in enumerate(known_ids(labels.ids, ids))}
    for what, these, others in (
        ("rows of --features have no label", ids, place),
        ("ids belong to no row of --features", list(place), set(ids)),
    ):
        unknown = [row_id for row_id in these if row_id not in others]
        if unknown:
            raise AuditError(
                f"--labels={flags.labels}: {len(unknown)} {what}: {listed(unknown, 3)}; give each "
                f"row of --features={flags.features} one label"
            )
    return Labels(ids, labels.labels[[place[row_id] for row_id in ids]])


def _either_form(picture: Picture) -> Picture:
    """The picture of an id, also where its file's name writes accents in the other form."""
    forms: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")

    def found(row_id: str) -> Any:
        names = [row_id, *(unicodedata.normalize(form, row_id) for form in forms)]
        return next((image for name in names if (image := picture(name)) is not None), None)

    return found


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
        ids = np.array(known_ids(table.ids, [*source.ids, *source.unreadable]))
        refuse_repeated(f"--labels={flags.labels}", ids)
        source = relabelled(source, ids, table.labels, f"--labels={flags.labels}")
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
        table = Labels(np.array(known_ids(table.ids, rows.ids)), clean_labels(table.labels))
        refuse_repeated(f"--trusted={path}", table.ids)
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
