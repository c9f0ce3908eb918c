"""NumPy arrays of features: .npy, memory-mapped, and .npz of one array."""

import math
import tokenize
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from l2rw_jax._messages import reason
from l2rw_jax.audit.cells import codes_of, is_code, told_codes
from l2rw_jax.audit.columns import is_twin, numbers_rows
from l2rw_jax.audit.errors import AuditError, listed
from l2rw_jax.audit.kinds import ARRAY, BROKEN, kind_of

_ROWS = 65536  # read at a time
_SAMPLE = 5000  # rows that are compared with their labels
_TOLD = 5  # columns that are told of
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What reading a damaged header or array raises.
_DAMAGED = (
    *BROKEN,
    *(ValueError, TypeError, SyntaxError, KeyError, MemoryError, RecursionError),
    tokenize.TokenError,
)


def read_array(path: Path) -> np.ndarray:
    """Reads --features from a .npy or .npz file, whichever of both its bytes are.

    The header is read first, so that nothing is allocated for numbers that are not there.

    Returns:
        [n, d] integers or floats, all finite.

    Raises:
        AuditError: the file is neither, or holds another array.
    """
    kind = kind_of("--features", path, ARRAY)
    try:
        if kind == "npy":
            with path.open("rb") as file:
                _check_header(path, file, path.stat().st_size)
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            array = _load_npz(path)
    except AuditError:
        raise
    except _DAMAGED as error:
        save = "numpy.save" if kind == "npy" else "numpy.savez"
        raise AuditError(
            f"--features={path}: cannot be read as a .{kind} array of numbers; save it with "
            f"{save} ({reason(error)})"
        ) from None
    if not array.dtype.isnative or array.dtype.itemsize > 8:  # JAX takes neither
        with np.errstate(over="ignore"):  # then it is not finite
            wide = array.dtype.itemsize > 8
            array = array.astype(np.float64 if wide else array.dtype.newbyteorder("="))
    _check_finite(path, array)
    return array


def _load_npz(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) != 1:
            names = [member.filename.removesuffix(".npy") for member in members]
            raise AuditError(
                f"--features={path}: holds {len(names)} arrays ({listed(names)}): give a file of "
                f"one, or a .npy"
            )
        with archive.open(members[0]) as file:
            _check_header(path, file, members[0].file_size)
    with np.load(path, allow_pickle=False) as arrays:
        return np.asarray(arrays[arrays.files[0]])


def _check_header(path: Path, file: IO[bytes], size: int) -> None:
    """Raises AuditError unless the header is that of real numbers [n, d], all in the file."""
    version = np.lib.format.read_magic(file)
    if version == (3, 0):
        raise AuditError(f"--features={path}: holds named fields: save them as a table")
    if version not in _HEADERS:
        raise ValueError(f"its version is {version}")
    shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise AuditError(
            f"--features={path}: cannot be read: it holds pickled objects; save numbers, such as "
            f"X.astype(float), with numpy.save"
        )
    if dtype.names:
        raise AuditError(f"--features={path}: holds named fields: save them as a table")
    if dtype.kind == "c":
        raise AuditError(f"--features={path}: holds complex numbers: give real ones")
    whole = all(type(side) is int and side >= 0 for side in shape)
    if dtype.kind not in "iuf" or len(shape) != 2 or not whole or 0 in shape:
        raise AuditError(
            f"--features={path}: holds {dtype} {list(shape)}: give numbers of shape [rows, "
            f"features]"
        )
    if math.prod(shape) * dtype.itemsize > size - file.tell():
        raise AuditError(
            f"--features={path}: cannot be read: {list(shape)} numbers of {dtype} are more than "
            f"the file holds; save or download it again"
        )


def _check_finite(path: Path, array: np.ndarray) -> None:
    for start in range(0, len(array), _ROWS):
        finite = np.isfinite(array[start : start + _ROWS])
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise AuditError(
                f"--features={path}: row {start + row}, column {column} is "
                f"{array[start + row, column]}: give finite numbers"
            )


def examine(path: Path, array: np.ndarray, labels: np.ndarray) -> list[str]:
    """Looks for columns of --features that are no features.

    Args:
        path: the array's file, for errors.
        array: [n, d] numbers.
        labels: [n] the given labels.

    Returns:
        Lines that tell which columns number the rows, or hold what stands for a missing number.

    Raises:
        AuditError: a column alone tells the given labels.
    """
    classes, labels = np.unique(labels, return_inverse=True)
    rows = np.unique(np.linspace(0, len(array) - 1, _SAMPLE).astype(int))
    sample, labels = np.asarray(array[rows], np.float64), labels[rows]
    notes = []
    for column, values in enumerate(sample.T):
        if is_twin(values, labels, len(classes)):
            raise AuditError(
                f"--features={path}: column {column} (counted from 0) alone tells the given "
                f"labels; leave it out, as by numpy.delete(X, {column}, axis=1)"
            )
        if numbers_rows(values):
            notes.append(
                f"warning: column {column} (counted from 0) numbers the rows: leave it out"
            )
    low, high = array[0], array[0]
    for start in range(0, len(array), _ROWS):
        block = array[start : start + _ROWS]
        low, high = np.minimum(low, block.min(0)), np.maximum(high, block.max(0))
    for column, ends in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        if any(map(is_code, ends)):
            values = np.asarray(array[:, column], np.float64)
            told = told_codes(column, values, codes_of(values))
            notes += [f"{line}: is it a missing value? Give a table without it" for line in told]
    return notes[:_TOLD]
