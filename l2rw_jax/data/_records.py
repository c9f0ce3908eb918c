"""Images that lie encoded on disk, indexed like an array."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from l2rw_jax.data._check import reason

_T = TypeVar("_T")


class ReadError(RuntimeError):
    """An image or its label cannot be read."""


class Records:
    """Images [N, H, W, C] uint8 of a data source, read and decoded anew each time they are indexed.

    Any number of threads may do so at once.

    Args:
        name: what the images are called in errors.
        source: N examples, dicts of an encoded "image" and integers such as a "label";
            `source.__getitems__(rows)` reads a list of them.
        decode: from an encoded image to [H, W, C] uint8.
        shape: [H, W, C].
        file_of: the name of the file that a row lies in, for errors.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        name: str,
        source: Any,
        decode: Callable[[Any], np.ndarray],
        shape: tuple[int, ...],
        file_of: Callable[[int], str],
    ):
        self.shape = (len(source), *shape)
        self.name, self._source, self._decode, self._file_of = name, source, decode, file_of
        self._all = np.arange(len(source))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, rows: Any) -> np.ndarray:
        rows = self._all[rows]
        images = self._read(rows.ravel(), self._image)
        return np.array(images, np.uint8).reshape(rows.shape + self.shape[1:])

    def images(self) -> np.ndarray:
        """Returns all images, decoded."""
        images = np.empty(self.shape, np.uint8)
        for start in range(0, len(self), 1000):
            images[start : start + 1000] = self[start : start + 1000]
        return images

    def labels(self, key: str = "label") -> np.ndarray:
        """Returns each example's value of an integer key, [N] int32, without decoding an image."""
        blocks = (self._all[start : start + 1000] for start in range(0, len(self), 1000))
        labels = (self._read(block, lambda example: int(example[key])) for block in blocks)
        return np.array([label for block in labels for label in block], np.int32)

    def _image(self, example: Any) -> np.ndarray:
        image = self._decode(example["image"])
        if image.shape != self.shape[1:]:
            raise ValueError(f"its shape is {list(image.shape)}, not {list(self.shape[1:])}")
        return image

    def _read(self, rows: np.ndarray, take: Callable[[Any], _T]) -> list[_T]:
        """What is taken from the example of each row."""
        try:
            # All at once: a data source takes several times as long for them one by one.
            return [take(example) for example in self._source.__getitems__(rows.tolist())]
        except Exception:  # which row is it?
            return [self._read_one(int(row), take) for row in rows]

    def _read_one(self, row: int, take: Callable[[Any], _T]) -> _T:
        try:
            (example,) = self._source.__getitems__([row])
            return take(example)
        except Exception as error:  # whatever a file system or a decoder finds wrong
            raise ReadError(
                f"{self.name}: image {row} in {self._file_of(row)} cannot be read: "
                f"{reason(error)}; restore that file"
            ) from error
