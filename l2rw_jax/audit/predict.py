"""Labels of new rows by the model of an audit."""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from l2rw_jax.audit.errors import AuditError
from l2rw_jax.audit.features import read_features
from l2rw_jax.audit.output import PROGRAM, whole
from l2rw_jax.audit.pictures import read_images, say_of_pictures
from l2rw_jax.audit.tables import read_ids, write_csv
from l2rw_jax.data._foreign import read_json

_ROWS = 65536
_HEADER = '"id","label","probability"'


def predict(flags: argparse.Namespace) -> None:
    """Writes the predicted labels of --features or --images as a table id, label, probability.

    Raises:
        AuditError: flags that are not read here, no audit, or rows of another shape.
    """
    _check_flags(flags)
    classifier, size, columns = _load(flags.predict)
    with tempfile.TemporaryDirectory(dir=flags.output.absolute().parent) as scratch:
        if flags.images:
            if size is None:
                raise AuditError(f"--images: the model of {flags.predict} takes --features")
            pictures = read_images(flags.images, size, Path(scratch), classes=False)
            X, ids = pictures.X, pictures.ids
            say_of_pictures(pictures.unreadable, X)
        else:
            own = (flags.id_column,) if flags.id_column else ()
            X, _ = read_features(flags.features, own, columns)
            ids = np.arange(len(X)).astype(str)
            if flags.id_column:
                ids = read_ids("--features", flags.features, flags.id_column)
        part = Path(scratch) / "predictions.csv"
        write_csv(part, _table(classifier, X, ids))
        os.replace(part, flags.output)
    print(f"{len(ids)} predictions in {flags.output}")


def _check_flags(flags: argparse.Namespace) -> None:
    for name in ("labels", "trusted", "tfds", "data_dir", "model", "steps"):
        if getattr(flags, name):
            raise AuditError(f"--{name}: --predict takes none; leave it out")
    if bool(flags.images) == bool(flags.features):
        raise AuditError("--predict: give --features or --images, the rows to label")
    if flags.id_column and (flags.images or flags.features.suffix.lower() in (".npy", ".npz")):
        raise AuditError(
            "--id_column: names a column of a table that --features gives; leave it out"
        )
    if flags.output.is_dir():
        raise AuditError(f"--output={flags.output}: is a folder; give a file's name")
    if not flags.output.absolute().parent.is_dir():
        raise AuditError(f"--output={flags.output}: its folder does not exist")
    if flags.output.exists():
        with flags.output.open("rb") as file:
            if file.readline().strip() != _HEADER.encode():
                raise AuditError(f"--output={flags.output}: exists and holds something else")


def _load(audit: Path) -> tuple[Any, int | None, list[str] | None]:
    """The model of an audit, the size of its images and the names of its features, or None."""
    from l2rw_jax.classifier import ReweightClassifier

    folder = whole(audit)
    try:
        summary = read_json(folder / "summary.json")
    except (OSError, ValueError):
        summary = None
    if not isinstance(summary, dict) or summary.get("program") != PROGRAM:
        raise AuditError(f"--predict={audit}: holds no audit (no summary.json of one)")
    size, columns = summary.get("image_size"), summary.get("feature_columns")
    sized = size is None or (type(size) is int and 4 <= size <= 512)
    named = columns is None or (isinstance(columns, list) and all(type(c) is str for c in columns))
    if not sized or not named or (size and columns):
        raise AuditError(f"--predict={audit}: its summary.json is damaged; audit again")
    try:
        classifier = ReweightClassifier.load(folder / "model")
    except ValueError as error:
        raise AuditError(f"--predict={audit}: {str(error).removeprefix('folder: ')}") from None
    if size and classifier.n_features_in_ != size:
        raise AuditError(f"--predict={audit}: its model takes no images of {size}; audit again")
    return classifier, size, columns


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
