"""Image data sets as host arrays: scikit-learn's digits, synthetic ones, and TFDS's."""

import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from l2rw_jax.data._check import check_bool, describe
from l2rw_jax.data._tfds import read_tfds

_SYNTHETIC = re.compile("synthetic-{0}x{0}x{0}-{0}".format("([1-9][0-9]{0,9})"))


class Dataset(NamedTuple):
    """One image-classification set; the arrays may be read-only and memory-mapped."""

    name: str
    version: str
    train_images: Any  # [N, H, W, C] uint8; an array, or `Records`
    train_labels: np.ndarray  # [N] int32
    test_images: np.ndarray  # [M, H, W, C] uint8
    test_labels: np.ndarray  # [M] int32
    num_classes: int


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    lazy: bool = False,
) -> Dataset:
    """Loads a data set by name, without downloading anything.

    Args:
        name: "digits"; "synthetic-HxWxC-K" for a small learnable set of K classes, 2 to 500, whose
            2500 images take at most 1 GiB; or a TFDS image-classification set that is already
            prepared as array_record.
        data_dir: where TFDS sets lie; None is $L2RW_DATA_DIR, else TFDS's own default.
        cache_dir: where decoded TFDS arrays are kept; None is $L2RW_CACHE_DIR, else
            $XDG_CACHE_HOME/l2rw_jax, else ~/.cache/l2rw_jax.
        lazy: decode training images each time they are indexed, unless the cache holds them: for
            sets too large to lie decoded in memory or on disk.

    Returns:
        Dataset.

    Raises:
        ValueError: unknown name, or a set that is not one-size uint8 images with class labels
            and splits train and test, or whose description is damaged.
        FileNotFoundError: the set is not prepared in data_dir, or a file of it is lost.
        ReadError: an image or a label cannot be read.

    >>> digits = load("digits")
    >>> digits.train_images.shape, digits.test_images.shape, digits.num_classes
    ((1437, 8, 8, 1), (360, 8, 8, 1), 10)
    """
    if not isinstance(name, str) or not re.fullmatch("[!-~]{1,200}", name):
        raise ValueError(
            f"name is {describe(name)}: give 'digits', 'synthetic-HxWxC-K' or a TFDS set's name"
        )
    for argument, path in (("data_dir", data_dir), ("cache_dir", cache_dir)):
        if not isinstance(path, str | os.PathLike | None):
            raise ValueError(f"{argument} is {describe(path)}: give the path of a folder")
    check_bool("lazy", lazy)
    if name == "digits":
        return _digits()
    if name.startswith("synthetic-"):
        return _synthetic(name)
    cache = cache_dir or os.environ.get("L2RW_CACHE_DIR")
    if not cache:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "l2rw_jax"
    data_dir = data_dir or os.environ.get("L2RW_DATA_DIR") or None
    return Dataset(name, *read_tfds(name, data_dir, Path(cache).expanduser(), lazy))


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
