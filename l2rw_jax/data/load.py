"""Data sets as host arrays: scikit-learn's digits, synthetic ones, TFDS's, and users' own."""

import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l2rw_jax.data._check import check_bool, describe
from l2rw_jax.data._folder import read_folder
from l2rw_jax.data._npz import read_npz
from l2rw_jax.data._tfds import read_tfds

_SYNTHETIC = re.compile("synthetic-{0}x{0}x{0}-{0}".format("([1-9][0-9]{0,9})"))


class Dataset(NamedTuple):
    """One classification set; the arrays may be read-only and memory-mapped.

    Features are images [N, 1, 1, d], of float16 or float32.
    """

    name: str
    version: str  # "" of users' own
    train_images: Any  # [N, H, W, C] uint8, an array or `Records`; or features
    train_labels: np.ndarray  # [N] int32
    test_images: np.ndarray  # [M, H, W, C] uint8; or features
    test_labels: np.ndarray  # [M] int32
    num_classes: int
    given_labels: np.ndarray | None = None  # [N] int32, a second label of each training example


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    lazy: bool = False,
    column: str | None = None,
) -> Dataset:
    """Loads a data set by name, without downloading anything.

    Args:
        name: "digits"; "synthetic-HxWxC-K" for a small learnable set of K classes, 2 to 500, whose
            2500 images take at most 1 GiB; "npz:PATH" and "folder:PATH" for users' own; or a TFDS
            image-classification set that is already prepared as array_record.
            An .npz holds train_images [N, h, w, c] or [N, h, w] uint8, or train_features [N, d]
            floats; train_labels [N] integers 0..K-1; test_images or test_features; test_labels.
            A folder holds images of one size as ``train/CLASS/*`` and ``test/CLASS/*``, 8 bits, in
            any format of Pillow's, turned as EXIF says; they become grey if all are, else RGB; what
            is transparent becomes white.
        data_dir: where TFDS sets lie; None is $L2RW_DATA_DIR, else TFDS's own default.
        cache_dir: where decoded TFDS arrays are kept; None is $L2RW_CACHE_DIR, else
            $XDG_CACHE_HOME/l2rw_jax, else ~/.cache/l2rw_jax.
        lazy: decode training images each time they are indexed, unless the cache holds them: for
            sets too large to lie decoded in memory or on disk.
        column: what holds the training set's given_labels: a key of the .npz, [N] integers; a
            feature of the TFDS set, a class or an integer; of a folder, PATH/column.csv, whose
            columns are file (relative to PATH/train) and label (a class). None is none.

    Returns:
        Dataset.

    Raises:
        ValueError: unknown name or column, or a set that is not one-size uint8 images or finite
            features with class labels and parts train and test, or whose description is damaged.
        FileNotFoundError: the set is not where it should be, or a file of it is lost.
        ReadError: an image or a label cannot be read.

    >>> digits = load("digits")
    >>> digits.train_images.shape, digits.test_images.shape, digits.num_classes
    ((1437, 8, 8, 1), (360, 8, 8, 1), 10)
    """
    kind, _, path = name.partition(":") if isinstance(name, str) else ("", "", "")
    if kind in ("npz", "folder"):
        fits = bool(path) and path.isprintable()
    else:
        fits = isinstance(name, str) and bool(re.fullmatch("[!-~]{1,200}", name))
    if not fits:
        raise ValueError(
            f"name is {describe(name)}: give 'digits', 'synthetic-HxWxC-K', 'npz:PATH', "
            "'folder:PATH' or a TFDS set's name"
        )
    for argument, folder in (("data_dir", data_dir), ("cache_dir", cache_dir)):
        if not isinstance(folder, str | os.PathLike | None):
            raise ValueError(f"{argument} is {describe(folder)}: give the path of a folder")
    if not isinstance(column, str | None):
        raise ValueError(f"column is {describe(column)}: give the name of the second labels")
    check_bool("lazy", lazy)
    own = Path(os.path.expanduser(path))  # which leaves an unknown user's name as it is
    if kind == "npz":
        return _own(name, *read_npz(own, column))
    if kind == "folder":
        return _own(name, *read_folder(own, column, lazy))
    if name == "digits" or name.startswith("synthetic-"):
        if column is not None:
            raise ValueError(f"column is {column!r}, but {name} has no second labels: give None")
        return _digits() if name == "digits" else _synthetic(name)
    cache = cache_dir or os.environ.get("L2RW_CACHE_DIR")
    if not cache:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "l2rw_jax"
    data_dir = data_dir or os.environ.get("L2RW_DATA_DIR") or None
    *dataset, given = read_tfds(name, data_dir, Path(cache).expanduser(), lazy, column)
    return _with_given(Dataset(name, *dataset), given)


def _own(
    name: str,
    train_images: Any,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    given_labels: np.ndarray | None,
) -> Dataset:
    """A user's set, whose labels are checked here."""
    found = np.unique(train_labels)
    first, num_classes = int(found[0]), int(found[-1]) + 1
    if first < 0 or len(found) < max(2, num_classes):
        raise ValueError(
            f"{name}: its training labels are {len(found)} classes in {first}..{num_classes - 1}: "
            "number two or more classes 0..K-1 without gaps"
        )
    _check_span(f"{name}: its test labels", test_labels, num_classes)
    dataset = Dataset(
        name,
        "",
        train_images,
        train_labels.astype(np.int32),
        test_images,
        test_labels.astype(np.int32),
        num_classes,
    )
    return _with_given(dataset, given_labels)


def _with_given(dataset: Dataset, given_labels: np.ndarray | None) -> Dataset:
    if given_labels is None:
        return dataset
    _check_span(f"{dataset.name}: its given labels", given_labels, dataset.num_classes)
    return dataset._replace(given_labels=given_labels.astype(np.int32))


def _check_span(what: str, labels: np.ndarray, num_classes: int) -> None:
    if not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"{what} span {labels.min()}..{labels.max()}: give 0..{num_classes - 1}, as its "
            "training labels"
        )


def _digits() -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    raw = load_digits()
    images = np.round(raw.images[..., None] * 255 / 16).astype(np.uint8)
    labels = raw.target.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0
    )
    return Dataset("digits", "1", images[train], labels[train], images[test], labels[test], 10)


def _synthetic(name: str) -> Dataset:
    train_size, test_size = 2000, 500
    match = _SYNTHETIC.fullmatch(name)
    height, width, channels, num_classes = map(int, match.groups()) if match else (0, 0, 0, 0)
    shape = (height, width, channels)
    size = (train_size + test_size) * math.prod(shape)
    if not 2 <= num_classes <= test_size or size > 2**30:
        raise ValueError(
            f"name is {name!r}: give synthetic-HxWxC-K with 2 to {test_size} classes K and images "
            f"of 1 to {2**30 // (train_size + test_size)} bytes H*W*C, 1 GiB in all"
        )
    rng = np.random.default_rng(0)
    # A class is a 4x4 grid of colours, coarse enough for convolution and pooling to keep.
    grids = rng.integers(0, 128, (num_classes, 4, 4, channels), dtype=np.uint8)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    patterns = grids[:, rows][:, :, columns]

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.permutation(np.arange(size, dtype=np.int32) % num_classes)
        noise = rng.integers(0, 128, (size, *shape), dtype=np.uint8)
        return patterns[labels] + noise, labels

    return Dataset(name, "1", *draw(train_size), *draw(test_size), num_classes)
