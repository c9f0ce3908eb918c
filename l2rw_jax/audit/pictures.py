"""Pictures: folders of image files, and sets of TensorFlow Datasets (TFDS)."""

import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from l2rw_jax.audit.errors import AuditError
from l2rw_jax.audit.tables import listed, refuse_repeated

# From a row's id to its picture; None where there is none.
Picture = Callable[[str], Image.Image | None]


class Pictures(NamedTuple):
    """Rows that are pictures: X [n, size, size, 3] uint8, ids [n] and labels [n] text."""

    X: Any
    ids: np.ndarray
    labels: np.ndarray
    picture: Picture
    unreadable: dict[str, str]  # by file: what is wrong with it


def find_files(folder: Path) -> list[str]:
    """The files below a folder, hidden ones left out, as sorted paths relative to it.

    Raises:
        AuditError: no such folder, or no file in it.
    """
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise AuditError(f"--images={folder}: {what}")
    names = [
        (Path(root) / file).relative_to(folder).as_posix()
        for root, _, files in os.walk(folder)
        for file in files
    ]
    names = sorted(name for name in names if not any(p.startswith(".") for p in name.split("/")))
    if not names:
        raise AuditError(f"--images={folder}: holds no files")
    return names


def read_images(folder: Path, size: int, scratch: Path, *, classes: bool = True) -> Pictures:
    """Reads all images below a folder, of any format and size, into one array on disk.

    A file that cannot be read is left out and named in `unreadable`.

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
    names = find_files(folder)
    if classes:
        names = [name for name in names if "/" in name]
        if not names:
            raise AuditError(
                f"--images={folder}: its files lie in no subfolders: make one folder a class, or "
                f"give --labels and --id_column with the files' names"
            )
    array = _reserved(scratch, (len(names), size, size, 3))
    kept: list[str] = []
    unreadable: dict[str, str] = {}
    for name, image in zip(names, _decoded(folder, names, size), strict=True):
        if isinstance(image, str):
            unreadable[name] = image
        else:
            array[len(kept)] = image
            kept.append(name)
    if not kept:
        raise AuditError(
            f"--images={folder}: none of its {len(names)} files can be read as an image, such as "
            f"{names[0]} ({unreadable[names[0]]})"
        )
    array.flush()
    return Pictures(
        array[: len(kept)],
        np.array(kept),
        np.array([name.split("/")[0] if classes else "" for name in kept]),
        lambda name: open_image(folder / name),
        unreadable,
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
    """Pictures of rows that have features: the file whose stem is the id, or whose path is it."""
    names = find_files(folder)
    files = {Path(name).stem: name for name in names} | {name: name for name in names}

    def picture(name: str) -> Image.Image | None:
        try:
            return open_image(folder / files[name]) if name in files else None
        except OSError:
            return None

    return picture


def open_image(path: Path) -> Image.Image:
    """The picture in a file, upright and in RGB; raises OSError if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata
            with Image.open(path) as image:
                return _rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders fail in many ways
        raise OSError(f"{type(error).__name__}: {error}".partition("\n")[0]) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # Pillow would cut off all above 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _decoded(folder: Path, names: list[str], size: int) -> Iterator[np.ndarray | str]:
    def decode(name: str) -> np.ndarray | str:
        try:
            return np.asarray(open_image(folder / name).resize((size, size), reducing_gap=2.0))
        except OSError as error:
            return str(error).replace(str(folder / name), name)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(names), 4096):  # so that few wait decoded
            yield from pool.map(decode, names[start : start + 4096])


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
