"""Image files in one folder per class."""

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from absl import logging

from l2rw_jax.data._check import reason
from l2rw_jax.data._records import ReadError, Records
from l2rw_jax.data.pictures import PictureError, is_system_file, read_form, read_picture

_LAYOUT = "give a folder with train/CLASS/*.png and test/CLASS/*.png, or other formats"


class _Files:
    """The data source of `Records`: an example is a file and the label of its folder."""

    def __init__(self, files: Sequence[Path], labels: Sequence[int]):
        self.files, self.labels = files, labels

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        return [{"image": self.files[row], "label": self.labels[row]} for row in rows]


def read_folder(
    root: Path, column: str | None, lazy: bool
) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Reads a folder of images; results and errors are those of `load`.

    Args:
        root: the folder that holds train and test.
        column: name of the CSV file of the second labels; None is none.
        lazy: decode training images each time they are indexed.

    Returns:
        train_images, train_labels, test_images, test_labels, given_labels or None.
    """
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise FileNotFoundError(f"{root} has no folder {part!r}: {_LAYOUT}")
    folders = [path.name for path in _shown(root / "train") if path.is_dir()]
    classes = {name: label for label, name in enumerate(folders)}
    train, test = (_list(root / part, classes) for part in ("train", "test"))
    shape, mode = _form([*train.files, *test.files])
    given = None if column is None else _given(root, column, train.files, classes)
    train_images = _records(root / "train", train, shape, mode)
    test_images = _records(root / "test", test, shape, mode)
    return (
        train_images if lazy else train_images.images(),
        train_images.labels(),
        test_images.images(),
        test_images.labels(),
        given,
    )


def _shown(folder: Path) -> list[Path]:
    """The files and folders of a folder, sorted, without hidden ones and a system's own."""
    paths = sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and not is_system_file(path.name)
    )
    for path in paths:
        if not path.name.isprintable():
            raise ValueError(f"{folder} has {path.name!r}: give it a name of printable letters")
    return paths


def _list(part: Path, classes: dict[str, int]) -> _Files:
    """The files of train or test, class by class."""
    folders = [path for path in _shown(part) if path.is_dir()]
    _tell_left_out(part, folders)
    if strange := [path for path in folders if path.name not in classes]:
        raise ValueError(f"{strange[0]} is no class of train: the classes are {_names(classes)}")
    files = [(path, classes[folder.name]) for folder in folders for path in _shown(folder)]
    if not files:
        raise ValueError(f"{part} has no images: {_LAYOUT}")
    full = {path.parent for path, _ in files}
    if part.name == "train" and (empty := [path for path in folders if path not in full]):
        raise ValueError(f"{empty[0]} is empty: add images or remove that class")
    return _Files(*zip(*files, strict=True))


def _tell_left_out(part: Path, folders: Sequence[Path]) -> None:
    others = sorted({path.name for path in part.iterdir()} - {path.name for path in folders})
    if others := [name for name in others if not is_system_file(name)]:
        logging.warning(
            "%s: %d files or folders are hidden or lie in no class and are left out, such as %r",
            part,
            len(others),
            others[0],
        )


def _form(files: Sequence[Path]) -> tuple[tuple[int, int, int], str]:
    """The shape [h, w, c] of all images, and Pillow's mode: L if all are grey, else RGB."""
    size, all_grey = _read_form(files[0])
    for path in files:
        found, grey = _read_form(path)
        if found != size:
            raise ValueError(
                f"{path} is {found[0]}x{found[1]} pixels, {files[0]} is {size[0]}x{size[1]}: "
                "resize all images to one size"
            )
        all_grey = all_grey and grey
    return (size[1], size[0], 1 if all_grey else 3), "L" if all_grey else "RGB"


def _read_form(path: Path) -> tuple[tuple[int, int], bool]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures, which are errors
            return read_form(path)
    except PictureError as error:
        raise ReadError(f"{path} cannot be read as an image: {error}") from error


def _records(part: Path, files: _Files, shape: tuple[int, int, int], mode: str) -> Records:
    def decode(path: Path) -> np.ndarray:
        try:
            image = read_picture(path).convert(mode)
        except PictureError as error:
            raise ValueError(error.reason) from error
        return np.asarray(image).reshape(image.height, image.width, -1)

    return Records(f"folder {part}", files, decode, shape, lambda row: str(files.files[row]))


def _given(root: Path, column: str, files: Sequence[Path], classes: dict[str, int]) -> np.ndarray:
    """The second labels of the training files, by root/column.csv."""
    columns = sorted(path.stem for path in root.glob("*.csv"))
    if column not in columns:
        names = ", ".join(map(repr, columns)) or "none"
        raise ValueError(f"column is {column!r}: give the name of a .csv in {root}: {names}")
    path = root / f"{column}.csv"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="", strict=True)
            columns, rows = list(reader.fieldnames or []), list(reader)
    except (OSError, UnicodeError, csv.Error) as error:
        raise ValueError(
            f"{path} cannot be read ({reason(error)}): give a CSV in UTF-8 with columns file,label"
        ) from error
    if not {"file", "label"} <= set(columns):
        raise ValueError(f"{path} has columns {columns}: give file,label")
    given: dict[str, int] = {}
    known = [path.relative_to(root / "train").as_posix() for path in files]
    for row in rows:
        name, label = PurePath(row["file"]).as_posix(), row["label"]
        if name in given:
            raise ValueError(f"{path} names {name!r} twice: give each training image one row")
        if label not in classes:
            raise ValueError(f"{path} labels {name!r} as {label!r}: give {_names(classes)}")
        given[name] = classes[label]
    if strange := sorted(set(given) - set(known)):
        raise ValueError(f"{path} names {strange[0]!r}, which is not in {root / 'train'}")
    if missing := sorted(set(known) - set(given)):
        raise ValueError(f"{path} has no row for {missing[0]!r}: give each training image one row")
    return np.array([given[name] for name in known])


def _names(classes: dict[str, int]) -> str:
    return ", ".join(map(repr, list(classes)[:10])) + ", ..." * (len(classes) > 10)
