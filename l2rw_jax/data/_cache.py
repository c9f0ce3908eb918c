"""Decoded images and labels kept on disk as memory-mapped .npy files, with their checksums."""

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from l2rw_jax._files import replacing, write_whole
from l2rw_jax.data._check import describe, reason


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
        stem: start of the files' names.
        decode: makes images (shape) uint8 and labels (shape[:1]) int32.
        shape: [n, H, W, C] of the images.
    """
    if found := find(directory, stem, shape):
        return found
    decoded = decode()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path, array in zip(_paths(directory, stem), decoded, strict=True):
            with replacing(path) as file:
                np.save(file, array)
        write_whole(_sums(directory, stem), json.dumps(_checksums(decoded)).encode())
        return _read(directory, stem)
    except OSError as error:
        logging.warning("Decoded arrays are not cached in %s: %s", directory, reason(error))
        return decoded


def find(
    directory: Path, stem: str, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the images and labels that `cached` left; None if there are none.

    Their bytes are read once, to see that they are those that were written. If they are not, or
    their shape or dtype is another, a warning is logged and None comes back.
    """
    try:
        if not any(path.exists() for path in _paths(directory, stem)):
            return None
        arrays = _read(directory, stem)
        found = [(array.dtype, array.shape) for array in arrays]
        if found != [(np.uint8, shape), (np.int32, shape[:1])]:
            raise ValueError(f"they are {' and '.join(map(describe, arrays))}")
        if _checksums(arrays) != json.loads(_sums(directory, stem).read_text()):
            raise ValueError("their checksums differ")
        return arrays
    except Exception as error:  # whatever is wrong with a cache file, decoding again is the cure
        logging.warning(
            "Cached arrays %s-*.npy are not used, the data set is decoded again: %s",
            directory / stem,
            reason(error),
        )
        return None


def _paths(directory: Path, stem: str) -> list[Path]:
    return [directory / f"{stem}-{kind}.npy" for kind in ("images", "labels")]


def _sums(directory: Path, stem: str) -> Path:
    return directory / f"{stem}-crc32.json"


def _read(directory: Path, stem: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (np.load(path, mmap_mode="r") for path in _paths(directory, stem))
    return images, labels


def _checksums(arrays: Sequence[np.ndarray]) -> list[int]:
    return [zlib.crc32(array.data) for array in arrays]
