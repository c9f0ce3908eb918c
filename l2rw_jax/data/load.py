"""Image data sets as host arrays: scikit-learn's digits, synthetic ones, and TFDS's."""

import contextlib
import difflib
import functools
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from l2rw_jax.data._cache import cached, find
from l2rw_jax.data._records import Records

_SYNTHETIC = re.compile(r"synthetic-([1-9]\d*)x([1-9]\d*)x([1-9]\d*)-([1-9]\d*)")


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
        name: "digits"; "synthetic-HxWxC-K" for a small learnable set of K classes; or a TFDS
            image-classification set that is already prepared as array_record.
        data_dir: where TFDS sets lie; None is $L2RW_DATA_DIR, else TFDS's own default.
        cache_dir: where decoded TFDS arrays are kept; None is $L2RW_CACHE_DIR, else
            $XDG_CACHE_HOME/l2rw_jax, else ~/.cache/l2rw_jax.
        lazy: decode training images each time they are indexed, unless the cache holds them: for
            sets too large to lie decoded in memory or on disk.

    Returns:
        Dataset.

    Raises:
        ValueError: unknown name, or a set that is not one-size uint8 images with class labels
            and splits train and test.
        FileNotFoundError: the set is not prepared in data_dir.
        ReadError: an image cannot be read.

    >>> digits = load("digits")
    >>> digits.train_images.shape, digits.test_images.shape, digits.num_classes
    ((1437, 8, 8, 1), (360, 8, 8, 1), 10)
    """
    if name == "digits":
        return _digits()
    if match := _SYNTHETIC.fullmatch(name):
        height, width, channels, num_classes = map(int, match.groups())
        return _synthetic(name, (height, width, channels), num_classes)
    cache = cache_dir or os.environ.get("L2RW_CACHE_DIR")
    if not cache:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "l2rw_jax"
    data_dir = data_dir or os.environ.get("L2RW_DATA_DIR") or None
    return _tfds(name, data_dir, Path(cache).expanduser(), lazy)


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


def _synthetic(name: str, shape: tuple[int, int, int], num_classes: int) -> Dataset:
    train_size, test_size = 2000, 500
    if not 2 <= num_classes <= test_size:
        raise ValueError(f"name {name!r} asks for {num_classes} classes: give 2 to {test_size}")
    rng = np.random.default_rng(0)
    height, width, channels = shape
    # A class is a 4x4 grid of colours, coarse enough for convolution and pooling to keep.
    grids = rng.integers(0, 128, (num_classes, 4, 4, channels), dtype=np.uint8)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    patterns = grids[:, rows][:, :, columns]

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.permutation(np.arange(size, dtype=np.int32) % num_classes)
        noise = rng.integers(0, 128, (size, *shape), dtype=np.uint8)
        return patterns[labels] + noise, labels

    return Dataset(name, "1", *draw(train_size), *draw(test_size), num_classes)


def _tfds(name: str, data_dir: str | os.PathLike[str] | None, cache: Path, lazy: bool) -> Dataset:
    import tensorflow_datasets as tfds  # slow to import

    root = os.path.expanduser(data_dir or tfds.core.constants.DATA_DIR)
    unprepared = FileNotFoundError(
        f"data set {name!r} is not prepared as array_record in {root}: run `tfds build {name} "
        f"--file_format=array_record --data_dir={root}` (it needs `pip install tensorflow-cpu`; "
        f"give another data_dir if that one holds the set in another format)"
    )
    try:
        with _quiet():
            builder = tfds.builder(name, data_dir=root)
            info, prepared = builder.info, builder.is_prepared()
    except ImportError as error:  # only building some sets needs TensorFlow
        raise unprepared from error
    except (ValueError, AssertionError) as error:  # unknown name, configuration or version
        reason = str(error).strip().partition("\n")[0]  # the other lines list all of TFDS
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        near = difflib.get_close_matches(re.split("[/:]", name)[0], known) or ["digits"]
        raise ValueError(
            f"name {name!r} cannot be loaded ({reason.rstrip('.')}): nearest known names are "
            f"{', '.join(map(repr, near))}; 'synthetic-HxWxC-K' makes a set"
        ) from None
    features = dict(info.features or {})
    image, label = features.get("image"), features.get("label")
    if not (
        isinstance(image, tfds.features.Image)
        and isinstance(label, tfds.features.ClassLabel)
        and image.np_dtype == np.uint8
        and None not in image.shape
    ):
        raise ValueError(
            f"data set {name!r} has image={image}, label={label}: give a set whose image is uint8 "
            f"of one fixed shape and whose label is a class"
        )
    if not prepared:
        raise unprepared
    if not {"train", "test"} <= set(info.splits):
        raise ValueError(
            f"data set {name!r} has splits {list(info.splits)}: give one with train and test"
        )

    def read(part: str, lazy: bool = False) -> tuple[Any, np.ndarray]:
        try:
            stats = [(path.name, os.stat(path)) for path in info.splits[part].filepaths]
            skip = {"image": tfds.decode.SkipDecoding()}
            source = builder.as_data_source(split=part, decoders=skip)
        except (FileNotFoundError, NotImplementedError) as error:  # a lost file; another format
            raise unprepared from error
        # Tells apart copies prepared differently; sizes alone do not, being padded to 64 KiB.
        files = [(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]
        digest = hashlib.sha256(repr(files).encode()).hexdigest()[:12]
        stem = f"{info.full_name}/{part}/{digest}".replace("/", "-")
        records = Records(f"{name}, split {part}", source, image.decode_example_np, image.shape)
        if lazy:
            with _quiet():
                records[:1]  # says here, not in a thread, what is wrong with all of them
            return find(cache, stem, records.shape) or (records, records.labels())
        return cached(cache, stem, functools.partial(_decode, records), records.shape)

    train = read("train", lazy)
    return Dataset(name, str(builder.version), *train, *read("test"), label.num_classes)


def _decode(records: Records) -> tuple[np.ndarray, np.ndarray]:
    images = np.empty(records.shape, np.uint8)
    with _quiet():
        for start in range(0, len(records), 1000):
            images[start : start + 1000] = records[start : start + 1000]
    return images, records.labels()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides TFDS's advice, such as to install OpenCV."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
