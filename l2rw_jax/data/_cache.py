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
    paths = [directory / f"{stem}-{kind}.npy" for kind in ("images", "labels")]

    def read() -> tuple[np.ndarray, np.ndarray]:
        return np.load(paths[0], mmap_mode="r"), np.load(paths[1], mmap_mode="r")

    # Whatever is wrong with a cache file, decoding again is the cure.
    with contextlib.suppress(Exception):
        images, labels = read()
        if images.shape == shape and labels.shape == shape[:1]:
            return images, labels
    decoded = decode()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, array in zip(paths, decoded, strict=True):
            _write(path, array)
        return read()
    except OSError as error:
        logging.warning("Decoded arrays are not cached in %s: %s", directory, error)
        return decoded


def _write(path: Path, array: np.ndarray) -> None:
    # A finished file takes the name in one step, so no reader or second writer sees half of one.
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        part = Path(scratch) / "part.npy"
        with part.open("wb") as file:
            np.save(file, array)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
