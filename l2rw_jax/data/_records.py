"""Images that lie encoded on disk, indexed like an array."""

from collections.abc import Callable
from typing import Any

import numpy as np


class ReadError(RuntimeError):
    """An image cannot be read."""


class Records:
    """Images [N, H, W, C] uint8 of a data source, read and decoded anew each time they are indexed.

    Any number of threads may do so at once.

    Args:
        name: what the images are called in errors.
        source: N examples, dicts of an encoded "image" and a "label"; `source.__getitems__(rows)`
            reads a list of them.
        decode: from an encoded image to [H, W, C] uint8.
        shape: [H, W, C].
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        name: str,
        source: Any,
        decode: Callable[[Any], np.ndarray],
        shape: tuple[int, ...],
    ):
        self.shape = (len(source), *shape)
        self._name, self._source, self._decode = name, source, decode
        self._all = np.arange(len(source))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, rows: Any) -> np.ndarray:
        rows = self._all[rows]
        images = np.empty((rows.size, *self.shape[1:]), np.uint8)
        flat = rows.ravel().tolist()
        try:
            self._read(flat, images)
        except Exception:  # which row is it?
            for row in flat:
                self._read_one(row)
            raise
        return images.reshape(rows.shape + self.shape[1:])

    def labels(self) -> np.ndarray:
        """Returns all labels, [N] int32, without decoding an image."""
        blocks = (self._all[start : start + 1000] for start in range(0, len(self), 1000))
        examples = (self._source.__getitems__(block.tolist()) for block in blocks)
        return np.array([example["label"] for block in examples for example in block], np.int32)

    def _read(self, rows: list[int], images: np.ndarray) -> None:
        # All at once: a data source takes several times as long for them one by one.
        for image, example in zip(images, self._source.__getitems__(rows), strict=True):
            decoded = self._decode(example["image"])
            if decoded.shape != image.shape:
                raise ValueError(f"its shape is {list(decoded.shape)}, not {list(image.shape)}")
            image[...] = decoded

    def _read_one(self, row: int) -> None:
        try:
            self._read([row], np.empty((1, *self.shape[1:]), np.uint8))
        except Exception as error:  # whatever a file system or a decoder finds wrong
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ReadError(f"{self._name}: image {row} cannot be read: {reason}") from error
