"""Pictures: folders of image files, and sets of TensorFlow Datasets (TFDS)."""

import math
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from l2rw_jax.audit.errors import AuditError
from l2rw_jax.audit.tables import listed, refuse_repeated
from l2rw_jax.audit.walk import find_files, told
from l2rw_jax.data.pictures import PictureError, read_picture

_BLOCK = 64  # images at a time
_SIDE = 256  # of a picture on the page, at most
_SAME = 2  # levels by which the pixels of one colour may differ

# From a row's id to its picture; None where there is none.
Picture = Callable[[str], Image.Image | None]


class Pictures(NamedTuple):
    """Rows that are pictures: X [n, size, size, 3] uint8, ids [n] and labels [n] text."""

    X: Any
    ids: np.ndarray
    labels: np.ndarray
    picture: Picture
    unreadable: dict[str, str]  # by file or folder: why it was left out


def read_images(folder: Path, size: int, scratch: Path, *, classes: bool = True) -> Pictures:
    """Reads all images below a folder, of any format and size, into one array on disk.

    What is left out, such as a file that cannot be read, is named in `unreadable`.

    Args:
        folder: what --images names.
        size: the images' height and width in the array.
        scratch: the folder on whose disk the array lies.
        classes: whether a class is the folder at the top that a file lies in; else all files are
            rows and the labels are empty.

    Returns:
        Pictures; an id is the path relative to the folder.

    Raises:
        AuditError: no such folder, no classes in it, or no image that can be read.
    """
    names, left_out = find_files(folder, classes=classes)
    array = _reserved(scratch, (len(names), size, size, 3))
    kept: list[str] = []
    for name, image in zip(names, _decoded(folder, names, size), strict=True):
        if isinstance(image, str):
            left_out[name] = image
        else:
            array[len(kept)] = image
            kept.append(name)
    if not kept:
        raise AuditError(
            f"--images={folder}: none of its {len(names)} files can be read as an image, such as "
            f"{names[0]} ({left_out[names[0]]})"
        )
    array.flush()
    if classes:
        lost = {name.split("/")[0] for name in names} - {name.split("/")[0] for name in kept}
        left_out |= dict.fromkeys((f"{name}/" for name in sorted(lost)), "a class without pictures")
    return Pictures(
        array[: len(kept)],
        np.array(kept),
        np.array([name.split("/")[0] if classes else "" for name in kept]),
        lambda name: _shown(folder / name),
        left_out,
    )


def _reserved(folder: Path, shape: tuple[int, ...]) -> np.memmap:
    """A uint8 array in a file without a name, whose space is freed with it, even after a kill."""
    size = math.prod(shape)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # A file with holes would end the process by SIGBUS once the disk is full.
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise AuditError(
            f"{folder}: cannot hold the decoded images, {size:,} bytes: {error.strerror}"
        ) from None


def by_stem(folder: Path) -> Picture:
    """Pictures of rows that have features: an id is a file's path, or a stem that one file has."""
    names, _ = find_files(folder)
    stems = Counter(Path(name).stem for name in names)
    files = {Path(name).stem: name for name in names if stems[Path(name).stem] == 1}
    files |= {name: name for name in names}
    return lambda name: _shown(folder / files[name]) if name in files else None


def say_of_pictures(left_out: dict[str, str], images: Any) -> None:
    """Says on standard error which files were left out, and if the images show little.

    Args:
        left_out: by file or folder, why.
        images: [n, h, w, c] uint8; or features, of which nothing is said.
    """
    for line in told(left_out):
        print(line, file=sys.stderr)
    if images.ndim == 4 and mostly_one_colour(images):
        print(
            "most pictures are one colour: look at the files, and save them with what they show in "
            "RGB, 8 bits a channel",
            file=sys.stderr,
        )


def mostly_one_colour(images: Any) -> bool:
    """Whether more than half of the images [n, h, w, c] are of one colour each."""
    count = 0
    for start in range(0, len(images), _BLOCK):
        block = np.asarray(images[start : start + _BLOCK])
        darkest, lightest = block.min((1, 2)).astype(int), block.max((1, 2)).astype(int)
        count += int((lightest - darkest <= _SAME).all(1).sum())
    return count > len(images) / 2


def _shown(path: Path) -> Image.Image | None:
    """A picture for the page; None if the file can be read no more."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata
            return read_picture(path, _SIDE)
    except PictureError:
        return None


def _decoded(folder: Path, names: list[str], size: int) -> Iterator[np.ndarray | str]:
    """The images, or what is wrong with them; an interrupt waits for those begun alone."""

    def decode(name: str) -> np.ndarray | str:
        try:
            return np.asarray(read_picture(folder / name, size, stretch=True))
        except PictureError as error:
            return str(error)

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # of damaged metadata
        for start in range(0, len(names), _BLOCK):  # so that few wait decoded
            yield from pool.map(decode, names[start : start + _BLOCK])


def read_tfds(name: str, data_dir: str | None) -> Pictures:
    """Reads the training split of a TFDS set that is prepared as array_record.

    Args:
        name: the set's name.
        data_dir: where TFDS sets lie; None is as in `l2rw_jax.data.load`.

    Returns:
        Pictures; an id is the feature `id` where the set has one, else the row's number.

    Raises:
        AuditError: ids that are not unique.
        ValueError, OSError, ReadError: as `l2rw_jax.data.load`.
    """
    from l2rw_jax import data

    dataset = data.load(name, data_dir=data_dir)
    images, labels = dataset.train_images, dataset.train_labels
    ids, names = np.arange(len(labels)).astype(str), np.arange(dataset.num_classes).astype(str)
    if name != "digits" and not name.startswith("synthetic-"):
        ids, names = _tfds_names(name, data_dir, ids)
    rows = {row_id: row for row, row_id in enumerate(ids)}

    def picture(row_id: str) -> Image.Image | None:
        if row_id not in rows:
            return None
        image = np.asarray(images[rows[row_id]])
        return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).convert("RGB")

    return Pictures(images, ids, names[labels], picture, {})


def _tfds_names(name: str, data_dir: str | None, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows' ids and the classes' names of a set that `data.load` has found to be whole."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import constants

    root = data_dir or os.environ.get("L2RW_DATA_DIR") or constants.DATA_DIR
    builder = tfds.builder(name, data_dir=os.path.expanduser(root))
    features = builder.info.features
    names = np.array(features["label"].names)
    if "id" not in features:
        return ids, names
    decoders = {"image": tfds.decode.SkipDecoding()}
    source = builder.as_data_source(split="train", decoders=decoders)
    blocks = (
        list(range(len(source)))[start : start + 1000] for start in range(0, len(source), 1000)
    )
    found = [row["id"] for block in blocks for row in source.__getitems__(block)]
    ids = np.array([value.decode() if isinstance(value, bytes) else str(value) for value in found])
    refuse_repeated(f"--tfds={name}: feature 'id'", ids)
    return ids, names


def relabelled(source: Pictures, ids: np.ndarray, labels: np.ndarray, flag: str) -> Pictures:
    """The pictures with the labels of a table, matched by id.

    Args:
        source: the pictures.
        ids: [m] unique ids of the table.
        labels: [m] its labels.
        flag: what names the table, for errors.

    Raises:
        AuditError: an id that is no picture's, or a picture without a label.
    """
    known = {*source.ids, *source.unreadable}
    unknown = [row_id for row_id in ids if row_id not in known]
    if unknown:
        raise AuditError(
            f"{flag}: {len(unknown)} ids belong to no picture: {listed(unknown, 3)}; ids look like "
            f"{listed(source.ids, 2)}"
        )
    table = dict(zip(ids, labels, strict=True))
    missing = [row_id for row_id in source.ids if row_id not in table]
    if missing:
        raise AuditError(f"{flag}: {len(missing)} pictures have no label: {listed(missing, 3)}")
    return source._replace(labels=np.array([table[row_id] for row_id in source.ids]))
