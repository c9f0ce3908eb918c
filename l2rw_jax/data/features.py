"""Features on the host, or on disk, standardised as their rows are read."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

_BLOCK_BYTES = 2**26  # of float64, read at a time


@dataclasses.dataclass(frozen=True)
class Standardised:
    """Features that are standardised row by row, in the images' shape.

    Attributes:
      array: ``[n, d]`` integers or floats; a memory map is read only where it is indexed.
      mean: ``[d]``.
      deviation: ``[d]`` or ``[]``.
    """

    array: Any
    mean: np.ndarray
    deviation: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, 1, 1, d)``."""
        return (len(self.array), 1, 1, self.array.shape[1])

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Rows ``[...]`` as ``[..., 1, 1, d]`` float32."""
        block = np.asarray(self.array[rows])
        wide = np.result_type(block.dtype, np.float32)
        scaled = (block - self.mean.astype(wide)) / self.deviation.astype(wide)
        return scaled.astype(np.float32)[..., None, None, :]


def blocks(array: Any) -> Iterator[tuple[int, np.ndarray]]:
    """First rows and blocks of an array, so that a memory map is not read whole at once."""
    rows = max(1, _BLOCK_BYTES // (8 * int(np.prod(array.shape[1:]))))
    for start in range(0, len(array), rows):
        yield start, np.asarray(array[start : start + rows])


def check_rows_finite(argument: str, array: Any) -> None:
    """Raises ValueError, naming the row, if an array ``[n, ...]`` holds NaN or an infinity."""
    for start, block in blocks(array):
        if not np.isfinite(block.sum(dtype=np.float64)):
            bad = ~np.isfinite(block).reshape(len(block), -1).all(1)
            if bad.any():
                raise ValueError(
                    f"{argument}: row {start + int(np.argmax(bad))} holds NaN or infinity; give "
                    "finite numbers, as sklearn.impute fills them in"
                )
