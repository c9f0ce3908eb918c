"""Images or features that a user has put into an .npz file."""

from pathlib import Path

import numpy as np

from l2rw_jax.data._check import channels_first, describe
from l2rw_jax.data._foreign import open_arrays

_KINDS = ("images", "features")
_FLOATS = [np.dtype(order + kind) for order in "<>" for kind in ("f2", "f4", "f8")]
_OWN = {f"{part}_{kind}" for part in ("train", "test") for kind in (*_KINDS, "labels")}
_LAYOUT = (
    "give train_images [N, h, w, c] or [N, h, w] uint8, or train_features [N, d] floats, with "
    "train_labels [N] integers, and test_ in the same way"
)


def read_npz(
    path: Path, column: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Reads an .npz; results and errors are those of `load`.

    Args:
        path: the file.
        column: key of the second labels; None is none.

    Returns:
        train_images, train_labels, test_images, test_labels, given_labels or None.
    """
    arrays, columns = _read(path, column)
    if column is not None and column not in columns:
        names = ", ".join(map(repr, columns)) or "none"
        raise ValueError(f"column is {column!r}: give one that {path} has: {names}")
    missing = [key for key in ("train_labels", "test_labels") if key not in arrays]
    kinds = [kind for kind in _KINDS if f"train_{kind}" in arrays or f"test_{kind}" in arrays]
    if len(kinds) == 2:
        raise ValueError(f"{path} has both images and features: {_LAYOUT}")
    kind = kinds[0] if kinds else "images"
    missing += [f"{part}_{kind}" for part in ("train", "test") if f"{part}_{kind}" not in arrays]
    if missing:
        raise ValueError(f"{path} has no {', '.join(sorted(missing))}: {_LAYOUT}")
    convert = _images if kind == "images" else _features
    train, test = (
        convert(f"{path}: {part}_{kind}", arrays[f"{part}_{kind}"]) for part in ("train", "test")
    )
    if train.shape[1:] != test.shape[1:]:
        shapes = f"{list(train.shape)}, test_{kind} {list(test.shape)}"
        raise ValueError(f"{path}: train_{kind} is {shapes}: give the same shape but for N")
    given = None
    if column is not None:
        given = _labels(f"{path}: {column}", arrays[column], len(train))
    return (
        train,
        _labels(f"{path}: train_labels", arrays["train_labels"], len(train)),
        test,
        _labels(f"{path}: test_labels", arrays["test_labels"], len(test)),
        given,
    )


def _read(path: Path, column: str | None) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of the file that are asked for, those that it has; and the keys of the others."""
    try:
        with open_arrays(path) as arrays:
            columns = [key for key in arrays.names if key not in _OWN]
            wanted = [key for key in arrays.names if key in (*_OWN, column)]
            return {key: arrays.read(key) for key in wanted}, columns
    except OSError as error:
        raise FileNotFoundError(
            f"{path} cannot be read ({error.strerror}): give the path of an .npz file, absolute or "
            "from the working directory"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"{path} cannot be read as .npz ({error}): save it by numpy.savez, with arrays of "
            "numbers alone"
        ) from error


def _images(name: str, array: np.ndarray) -> np.ndarray:
    shape = array.shape
    if channels_first(shape):
        raise ValueError(
            f"{name} is {describe(array)}, with channels first: give [N, h, w, c], by "
            "numpy.transpose(images, (0, 2, 3, 1))"
        )
    if array.dtype != np.uint8 or len(shape) not in (3, 4) or 0 in shape:
        raise ValueError(
            f"{name} is {describe(array)}: give uint8 [N, h, w, c] or [N, h, w], of at least one "
            "pixel; floats are features [N, d]"
        )
    return array[..., None] if len(shape) == 3 else array


def _features(name: str, array: np.ndarray) -> np.ndarray:
    shape = array.shape
    size = array.dtype.itemsize if array.dtype in _FLOATS else 0
    if not size or len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"{name} is {describe(array)}: give float16, float32 or float64 [N, d], of at least "
            "one feature"
        )
    with np.errstate(over="ignore"):  # an overflow is reported below
        array = array.astype(np.float16 if size == 2 else np.float32, copy=False)
    rows = np.flatnonzero(~np.isfinite(array).all(1))
    if len(rows):
        raise ValueError(
            f"{name} has NaN, infinity or more than float32 holds in {len(rows)} of its "
            f"{len(array)} rows, the first being row {rows[0]}: give finite numbers"
        )
    return array[:, None, None, :]


def _labels(name: str, array: np.ndarray, length: int) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.integer) or array.shape != (length,):
        raise ValueError(f"{name} is {describe(array)}: give integers [{length}], one an example")
    return array
