"""Image data sets that TensorFlow Datasets (TFDS) has prepared as array_record."""

import contextlib
import difflib
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from l2rw_jax.data._cache import cached, find
from l2rw_jax.data._check import reason
from l2rw_jax.data._records import Records

_REMEDY = "prepare the set again, by `tfds build` with --overwrite"


def read_tfds(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    cache: Path,
    lazy: bool,
    column: str | None = None,
) -> tuple[str, Any, np.ndarray, np.ndarray, np.ndarray, int, np.ndarray | None]:
    """Reads a prepared set; arguments, results and errors are those of `load`.

    Args:
        name: its name.
        data_dir: where TFDS sets lie; None is TFDS's own default.
        cache: where decoded arrays are kept.
        lazy: decode training images each time they are indexed.
        column: feature that holds second labels of the training set; None is none.

    Returns:
        version, train_images, train_labels, test_images, test_labels, num_classes, given_labels or
        None.
    """
    from tensorflow_datasets.core import constants  # slow to import

    root = os.path.expanduser(data_dir or constants.DATA_DIR)
    if os.path.isfile(root):
        raise NotADirectoryError(f"data_dir {root} is a file: give the folder that holds the sets")
    builder, image, label = _open(name, root, column)
    try:
        given = None if column is None else _source(builder, image, "train")[0].labels(column)
        train = _read(builder, image, label, "train", cache, lazy)
        test = _read(builder, image, label, "test", cache, lazy=False)
    except NotImplementedError as error:  # another format
        raise _unprepared(name, root) from error
    return str(builder.version), *train, *test, label.num_classes, given


def _open(name: str, root: str, column: str | None) -> tuple[Any, Any, Any]:
    """TFDS's builder of a set that fits, and its features "image" and "label"."""
    import tensorflow_datasets as tfds

    try:
        with _quiet():
            builder = tfds.builder(name, data_dir=root)
            info, prepared = builder.info, builder.is_prepared()
    except ImportError as error:  # only building some sets needs TensorFlow
        raise _unprepared(name, root) from error
    except Exception as error:  # an unknown name, configuration or version; a damaged description
        base = re.split("[/:]", name)[0]
        if file := _damaged(Path(root, base)):
            raise ValueError(
                f"data set {name!r}, all splits: {file} cannot be read ({reason(error)}): {_REMEDY}"
            ) from error
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(base, known) or ["digits"]
        raise ValueError(
            f"name {name!r} cannot be loaded ({reason(error).rstrip('.')}): nearest known names "
            f"are {', '.join(map(repr, near))}; 'synthetic-HxWxC-K' makes a set"
        ) from None
    features = dict(info.features or {})
    image, label = features.get("image"), features.get("label")
    if not (
        isinstance(image, tfds.features.Image)
        and isinstance(label, tfds.features.ClassLabel)
        and image.np_dtype == np.uint8
        and None not in image.shape
    ):
        got = " ".join(f"image={image}, label={label}".split())  # on one line
        raise ValueError(
            f"data set {name!r} has {got}: give a set whose image is uint8 of one fixed shape and "
            f"whose label is a class"
        )
    columns = [
        key
        for key, feature in sorted(features.items())
        if key != "label" and feature.shape == () and np.issubdtype(feature.np_dtype, np.integer)
    ]
    if column is not None and column not in columns:
        names = ", ".join(map(repr, columns)) or "none"
        raise ValueError(f"column is {column!r}: give one that data set {name!r} has: {names}")
    if not prepared:
        raise _unprepared(name, root)
    if not {"train", "test"} <= set(info.splits):
        raise ValueError(
            f"data set {name!r} has splits {list(info.splits)}: give one with train and test"
        )
    return builder, image, label


def _source(builder: Any, image: Any, part: str) -> tuple[Records, str]:
    """A split's encoded images, and the stem of its files in the cache."""
    from tensorflow_datasets import decode

    where = f"data set {builder.info.full_name!r}, split {part}"
    split = builder.info.splits[part]
    try:
        stats = [(path.name, os.stat(path)) for path in split.filepaths]
        source = builder.as_data_source(split=part, decoders={"image": decode.SkipDecoding()})
    except OSError as error:  # a lost file
        raise FileNotFoundError(f"{where}: {reason(error)}: {_REMEDY}") from error
    # Tells apart copies prepared differently; sizes alone do not, being padded to 64 KiB.
    sizes = [(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    digest = hashlib.sha256(repr(sizes).encode()).hexdigest()[:12]
    stem = f"{builder.info.full_name}/{part}/{digest}".replace("/", "-")
    ends = np.cumsum(split.shard_lengths)

    def file_of(row: int) -> str:
        return str(split.filepaths[np.searchsorted(ends, row, side="right")])

    return Records(where, source, image.decode_example_np, image.shape, file_of), stem


def _read(
    builder: Any, image: Any, label: Any, part: str, cache: Path, lazy: bool
) -> tuple[Any, np.ndarray]:
    """Images and labels of a split, decoded or, where lazy, to be decoded."""
    records, stem = _source(builder, image, part)
    if lazy:
        with _quiet():
            records[:1]  # says here, not in a thread, what is wrong with all of them
        images, labels = find(cache, stem, records.shape) or (records, records.labels())
    else:
        images, labels = cached(cache, stem, functools.partial(_decode, records), records.shape)
    if not (labels.min() >= 0 and labels.max() < label.num_classes):
        raise ValueError(
            f"{records.name}: its labels span {labels.min()}..{labels.max()}, but its "
            f"features.json has {label.num_classes} classes: {_REMEDY}"
        )
    return images, labels


def _decode(records: Records) -> tuple[np.ndarray, np.ndarray]:
    with _quiet():
        return records.images(), records.labels()


def _damaged(folder: Path) -> Path | None:
    """The first description of a prepared set that cannot be read or says something else."""
    for version in sorted(folder.glob("**/*.*.*/")):
        for file, key in (("dataset_info.json", "name"), ("features.json", "pythonClassName")):
            try:
                json.loads((version / file).read_text())[key]
            except (OSError, ValueError, LookupError, TypeError):
                return version / file
    return None


def _unprepared(name: str, root: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"data set {name!r} is not prepared as array_record in {root}: run `tfds build {name} "
        f"--file_format=array_record --data_dir={root}` (it needs `pip install tensorflow-cpu`; "
        f"give another data_dir if that one holds the set in another format)"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides TFDS's advice, such as to install OpenCV."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
