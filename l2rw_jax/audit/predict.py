"""Labels of new rows by the model of an audit."""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from l2rw_jax.audit.arrays import read_array
from l2rw_jax.audit.errors import AuditError
from l2rw_jax.audit.features import Recipe, table_features_again
from l2rw_jax.audit.folder import whole
from l2rw_jax.audit.kinds import is_array
from l2rw_jax.audit.output import PROGRAM
from l2rw_jax.audit.pictures import read_images, say_of_pictures
from l2rw_jax.audit.tables import ids_of, read_table, write_csv
from l2rw_jax.data._foreign import read_json

_ROWS = 65536
_HEADER = '"id","label","probability"'


def predict(flags: argparse.Namespace) -> None:
    """Writes the predicted labels of --features or --images as a table id, label, probability.

    Raises:
        AuditError: flags that are not read here, no audit, or rows of another shape.
    """
    _check_flags(flags)
    classifier, size, recipe = _load(flags.predict)
    if flags.images:
        if size is None:
            raise AuditError(f"--images: the model of {flags.predict} takes --features")
        scratch = flags.output.absolute().parent
        pictures = read_images(flags.images, size, scratch, classes=False)
        X, ids = pictures.X, pictures.ids
        say_of_pictures(pictures.unreadable, X)
    else:
        X, ids = _read_features(flags, recipe)
    try:
        write_csv(flags.output, _table(classifier, X, ids))
    except OSError as error:
        raise AuditError(
            f"--output={flags.output}: cannot be written: {error.strerror or error}"
        ) from None
    print(f"{len(ids)} predictions in {flags.output}")


def _read_features(flags: argparse.Namespace, recipe: Recipe | None) -> tuple[Any, np.ndarray]:
    if is_array(flags.features):
        if recipe is not None:
            raise AuditError(
                f"--features={flags.features}: got an array; the features of {flags.predict} were "
                f"a table, whose columns are found by name; give a table of them"
            )
        X = read_array(flags.features)
        return X, np.arange(len(X)).astype(str)
    own = [flags.id_column] if flags.id_column else []
    needed = [*own, *(recipe.columns if recipe else ())]
    frame = read_table("--features", flags.features, needed, text=own, every=True)
    ids = np.arange(len(frame)).astype(str)
    if own:
        ids = ids_of("--features", flags.features, frame, flags.id_column)
    X, notes = table_features_again(flags.features, frame.drop(columns=own), recipe)
    for note in notes:
        print(note, file=sys.stderr)
    return X, ids


def _check_flags(flags: argparse.Namespace) -> None:
    for name in ("labels", "trusted", "tfds", "data_dir", "model", "steps"):
        if getattr(flags, name):
            raise AuditError(f"--{name}: --predict takes none; leave it out")
    if bool(flags.images) == bool(flags.features):
        raise AuditError("--predict: give --features or --images, the rows to label")
    if flags.id_column and (flags.images or is_array(flags.features)):
        raise AuditError(
            "--id_column: names a column of a table that --features gives; leave it out"
        )
    _check_output(flags.output, flags.images or flags.features)


def _check_output(output: Path, rows: Path) -> None:
    """Raises AuditError unless the file is new, or one that an earlier call wrote."""
    if output.is_symlink():
        raise AuditError(f"--output={output}: is a symbolic link; give a file's own name")
    if output.is_dir():
        raise AuditError(f"--output={output}: is a folder; give a file's name")
    if not output.absolute().parent.is_dir():
        raise AuditError(f"--output={output}: its folder does not exist")
    try:
        tempfile.TemporaryFile(dir=output.absolute().parent).close()
    except OSError as error:
        raise AuditError(f"--output={output}: cannot be written: {error.strerror}") from None
    if not output.exists():
        return
    if output.samefile(rows):
        raise AuditError(f"--output={output}: is the file of the rows; give another name")
    if not output.is_file():
        raise AuditError(f"--output={output}: is no regular file; give a new file's name")
    with output.open("rb") as file:
        if file.readline(len(_HEADER) + 2).strip() != _HEADER.encode():
            raise AuditError(f"--output={output}: exists and holds something else")


def _load(audit: Path) -> tuple[Any, int | None, Recipe | None]:
    """The model of an audit, the size of its images and the recipe of its features, or None."""
    from l2rw_jax.classifier import ReweightClassifier

    with whole(audit) as folder:
        try:
            summary = read_json(folder / "summary.json")
        except (OSError, ValueError):
            summary = None
        if not isinstance(summary, dict) or summary.get("program") != PROGRAM:
            raise AuditError(f"--predict={audit}: holds no audit (no summary.json of one)")
        size = summary.get("image_size")
        try:
            recipe = Recipe.from_facts(summary)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise AuditError(
                f"--predict={audit}: its summary.json is damaged; audit again"
            ) from None
        sized = size is None or (type(size) is int and 4 <= size <= 512)
        if not sized or (size and recipe):
            raise AuditError(f"--predict={audit}: its summary.json is damaged; audit again")
        try:
            classifier = ReweightClassifier.load(folder / "model")
        except ValueError as error:
            raise AuditError(f"--predict={audit}: {str(error).removeprefix('folder: ')}") from None
    if size and classifier.n_features_in_ != size:
        raise AuditError(f"--predict={audit}: its model takes no images of {size}; audit again")
    return classifier, size, recipe


def _table(classifier: Any, X: Any, ids: np.ndarray) -> pd.DataFrame:
    def parts() -> Iterator[np.ndarray]:
        for start in range(0, len(X), _ROWS):
            probabilities = np.asarray(classifier.predict_proba(X[start : start + _ROWS]))
            finite = np.isfinite(probabilities).all(1)
            if not finite.all():
                row = start + int(np.argmin(finite))
                raise AuditError(
                    f"--predict: the model gives no probability for row {row}, {str(ids[row])!r}; "
                    "look at that row, or audit again"
                )
            yield np.stack([probabilities.argmax(1), probabilities.max(1)], 1)

    best, probability = np.concatenate(list(parts())).T
    labels = classifier.classes_[best.astype(int)]
    return pd.DataFrame({"id": ids, "label": labels, "probability": probability})
