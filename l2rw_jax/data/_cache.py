"""Decoded images and labels kept on disk as memory-mapped .npy files."""

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import logging


def cached(
    directory: Path,
    stem: str,
    decode: Callable[[], tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels from directory, after decoding them into it if needed.

    Any number of processes may do so at once. Where nothing can be written, a warning is
    logged and the decoded arrays themselves come back.

    Args:
        directory: where the files lie; made if absent.
        stem: start of both file names.
        decode: makes images (shape) uint8 and labels (shape[:1]) int32.
        shape: [n, H, W, C] of the images; files of another shape are replaced.
    """
    if found := find(directory, stem, shape):
        return found
    decoded = decode()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, array in zip(_paths(directory, stem), decoded, strict=True):
            _write(path, array)
        return _read(directory, stem)
    except OSError as error:
        logging.warning("Decoded arrays are not cached in %s: %s", directory, error)
        return decoded


def find(
    directory: Path, stem: str, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the images and labels that `cached` left; None where they are not of this shape."""
    # Whatever is wrong with a cache file, decoding again is the cure.
    with contextlib.suppress(Exception):
        images, labels = _read(directory, stem)
        if images.shape == shape and labels.shape == shape[:1]:
            return images, labels
    return None


def _paths(directory: Path, stem: str) -> list[Path]:
    return [directory / f"{stem}-{kind}.npy" for kind in ("images", "labels")]


def _read(directory: Path, stem: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (np.load(path, mmap_mode="r") for path in _paths(directory, stem))
    return images, labels


def _write(path: Path, array: np.ndarray) -> None:
    # A finished file takes the name in one step, so no reader or second writer sees half of one.
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        part = Path(scratch) / "part.npy"
        with part.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
