"""Examples as users have them, in memory or on disk: checked, and standardised as they are read."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from l2rw_jax.data._check import channels_first

# For scikit-learn's checks: arrays are read as they are, and a memory map block by block.
AS_IS: dict[str, Any] = {"dtype": "numeric", "allow_nd": True, "ensure_all_finite": False}
_ONE_KIND = 10.0  # largest deviation over the lower quartile; 8 of an embedding by PCA
_BLOCK_BYTES = 2**26  # of float64, read at a time


@dataclasses.dataclass(frozen=True)
class Standardised:
    """Features that are standardised row by row, in the images' shape.

    Attributes:
      array: ``[n, d]`` integers or floats; a memory map is read only where it is indexed.
      mean: ``[d]``.
      deviation: ``[d]``.
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


def mean_and_deviation(array: Any) -> tuple[np.ndarray, np.ndarray]:
    """Each column's mean and deviation, ``[d]`` float64; a constant's is above its rounding.

    Columns of one kind, such as an embedding's, share one deviation, so a column that varies more
    keeps its influence. A table's columns, whose units differ, have one each.
    """
    scaler = StandardScaler()
    for _, block in blocks(array):
        scaler.partial_fit(block.astype(np.float64))
    varied = scaler.scale_[scaler.var_ > 0]
    # The median of two columns in different units would be near the larger one.
    if len(varied) and varied.max() <= _ONE_KIND * np.quantile(varied, 0.25, method="lower"):
        return scaler.mean_, np.full(len(scaler.scale_), np.sqrt(np.mean(scaler.var_)))
    constant = scaler.scale_ == 1
    return scaler.mean_, np.where(constant, np.maximum(1, abs(scaler.mean_)), scaler.scale_)


def check_finite_rows(argument: str, array: Any) -> None:
    """Raises ValueError, naming the row, if an array ``[n, ...]`` holds NaN or an infinity."""
    for start, block in blocks(array):
        if not np.isfinite(block.sum(dtype=np.float64)):
            bad = ~np.isfinite(block).reshape(len(block), -1).all(1)
            if bad.any():
                raise ValueError(
                    f"{argument}: row {start + int(np.argmax(bad))} holds NaN or infinity; give "
                    "finite numbers, as sklearn.impute fills them in"
                )


def check_shape(argument: str, X: Any, shape: tuple[int, ...] | None = None) -> None:
    """Raises ValueError unless X is ``[n, d]``, or ``[n, h, w, c]`` uint8, of this shape a row."""
    if channels_first(X.shape):
        raise ValueError(
            f"{argument}: got {X.dtype} {list(X.shape)}, with channels first; takes images "
            f"[n, h, w, c] of uint8: use {argument.split()[-1]}.transpose(0, 2, 3, 1)"
        )
    if X.ndim != 2 and not (X.ndim == 4 and X.dtype == np.uint8):
        raise ValueError(
            f"{argument}: got {X.dtype} {list(X.shape)}; takes features [n, d], or images "
            "[n, h, w, c] of uint8"
        )
    if shape is not None and X.shape[1:] != shape:
        raise ValueError(
            f"{argument}: got shape {list(X.shape)}; takes [n, {', '.join(map(str, shape))}], as "
            "in the training"
        )


def index_classes(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes, sorted, and each label's index among them."""
    try:
        classes, labels = np.unique(y, return_inverse=True)
    except TypeError:
        kinds = ", ".join(sorted({type(label).__name__ for label in y.tolist()}))
        raise ValueError(f"y: got labels of the types {kinds}; takes labels of one type") from None
    check_classification_targets(y)
    if len(classes) < 2:
        raise ValueError(f"y: got one class, {classes.tolist()[0]!r}; takes two or more classes")
    return classes, labels


def read_trusted(
    trusted: Any, X: np.ndarray, labels: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The trusted examples and their labels' indices among the classes.

    Args:
      trusted: a mask ``[n]``, a tuple ``(X, y)``, or None: then one example, for methods that do
        not look at it.
      X: ``[n, ...]`` the training examples.
      labels: ``[n]`` their labels' indices.
      classes: ``[K]`` the labels, sorted.

    Raises:
      ValueError: they cannot be used.
    """
    if trusted is None:
        return X[:1], labels[:1]
    if isinstance(trusted, tuple):
        clean_X, clean_labels = _read_pair(trusted, X.shape[1:], classes)
    else:
        mask = np.asarray(trusted)
        if mask.dtype != bool or mask.shape != labels.shape:
            raise ValueError(
                f"trusted: got {mask.dtype} {list(mask.shape)}; takes bool {list(labels.shape)}"
                ", True where a label was verified, or a tuple (X, y)"
            )
        clean_X, clean_labels = X[mask], labels[mask]
    if len(clean_labels) < 2:
        raise ValueError(
            f"trusted: got {len(clean_labels)} verified examples; takes 2 or more, or None"
        )
    return clean_X, clean_labels


def _read_pair(
    trusted: tuple[Any, ...], shape: tuple[int, ...], classes: np.ndarray
) -> tuple[Any, np.ndarray]:
    if len(trusted) != 2:
        raise ValueError(f"trusted: got a tuple of {len(trusted)}; takes (X, y), or a mask [n]")
    clean_X = check_array(trusted[0], input_name="trusted X", **AS_IS)
    clean_y = column_or_1d(trusted[1])
    check_shape("trusted X", clean_X, shape)
    check_finite_rows("trusted X", clean_X)
    if len(clean_X) != len(clean_y):
        raise ValueError(
            f"trusted: got {len(clean_X)} rows of X and {len(clean_y)} labels; takes as many"
        )
    codes = {label: code for code, label in enumerate(classes.tolist())}
    unknown = [label for label in clean_y.tolist() if label not in codes]
    if unknown:
        raise ValueError(
            f"trusted: got the label {unknown[0]!r}, which no example of y has; takes y's classes"
        )
    return clean_X, np.array([codes[label] for label in clean_y.tolist()])
