"""Features of rows: .npy and .npz arrays, memory-mapped, and numeric columns of tables."""

import zipfile
from pathlib import Path

import numpy as np

from l2rw_jax.audit.errors import AuditError
from l2rw_jax.audit.tables import is_file, listed, read_table

_ROWS = 65536  # read at a time


def read_features(
    path: Path, labels: tuple[str, ...] = (), columns: list[str] | None = None
) -> tuple[np.ndarray, list[str] | None]:
    """Reads --features.

    Args:
        path: a .npy file, which is memory-mapped; a .npz file of one array; or a .csv or .parquet
            table, whose numeric columns are the features.
        labels: columns of a table that are no features.
        columns: columns of a table that are the features, in this order; None takes all others.

    Returns:
        [n, d] integers or floats, all finite; and the names of a table's columns, else None.

    Raises:
        AuditError: the file is none of these, or not such an array.
    """
    kind = path.suffix.lower()
    is_file("--features", path)
    if kind == ".npy":
        features = _load_npy(path)
    elif kind == ".npz":
        features = _load_npz(path)
    elif kind in (".csv", ".parquet"):
        features, names = _load_table(path, labels, columns)
        return _check(path, features, names), names
    else:
        raise AuditError(f"--features={path}: give a .npy, .npz, .csv or .parquet file")
    return _check(path, features), None


def _load_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise AuditError(
            f"--features={path}: cannot be read as a .npy array of numbers; save it with "
            f"numpy.save ({_reason(error)})"
        ) from None


def _load_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if len(arrays.files) != 1:
                raise AuditError(
                    f"--features={path}: holds {len(arrays.files)} arrays "
                    f"({listed(arrays.files)}): give a file of one, or a .npy"
                )
            return np.asarray(arrays[arrays.files[0]])
    except AuditError:
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, KeyError) as error:
        raise AuditError(
            f"--features={path}: cannot be read as a .npz file of one array of numbers; save it "
            f"with numpy.savez ({_reason(error)})"
        ) from None


def _load_table(
    path: Path, labels: tuple[str, ...], columns: list[str] | None
) -> tuple[np.ndarray, list[str]]:
    needed = (*labels, *(columns or ()))
    frame = read_table("--features", path, needed, text=labels, every=True)
    rest = frame.drop(columns=list(labels)) if columns is None else frame[columns]
    numeric = rest.select_dtypes(["number", "bool"])
    text = [name for name in columns or () if name not in numeric]
    if text:
        raise AuditError(f"--features={path}: column {text[0]!r} holds text: give numbers")
    if not numeric.shape[1]:
        others = f" beside {listed(labels)}" if labels else ""
        raise AuditError(f"--features={path}: no column of numbers{others}")
    return numeric.to_numpy(np.float64, na_value=np.nan), [str(name) for name in numeric]


def _check(path: Path, features: np.ndarray, columns: list[str] | None = None) -> np.ndarray:
    """Features [n, d] after a look at every number, some rows at a time."""
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.number) or not features.size:
        raise AuditError(
            f"--features={path}: holds {features.dtype} {list(features.shape)}: give numbers of "
            f"shape [rows, features]"
        )
    if np.iscomplexobj(features):
        raise AuditError(f"--features={path}: holds complex numbers: give real ones")
    for start in range(0, len(features), _ROWS):
        finite = np.isfinite(features[start : start + _ROWS])
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            name = repr(columns[column]) if columns else column
            raise AuditError(
                f"--features={path}: row {start + row}, column {name} is "
                f"{features[start + row, column]}: give finite numbers"
            )
    return features


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def nearest_rows(
    features: np.ndarray, rows: np.ndarray, allowed: np.ndarray, group: np.ndarray, count: int = 5
) -> np.ndarray:
    """The nearest rows of the same group, some rows at a time.

    The distance is the Euclidean one, every column divided by its deviation (in the first rows).

    Args:
        features: [n, d] numbers.
        rows: [r] integers, whose neighbours are looked for.
        allowed: [n] integers: a row's group, or -1 for no candidate.
        group: [r] integers: the group to look in; -1 looks in all.
        count: neighbours of each.

    Returns:
        [r, count] rows, nearest first; -1 where there are no more.
    """
    deviation = np.asarray(features[:_ROWS], np.float32).std(0)
    scale = 1 / np.where(deviation > 0, deviation, np.float32(1))
    queries = np.asarray(features[rows], np.float32) * scale
    best = np.full((len(rows), count), -1)
    distance = np.full((len(rows), count), np.inf, np.float32)
    for start in range(0, len(features), _ROWS // 8):
        part = slice(start, start + _ROWS // 8)
        block = np.asarray(features[part], np.float32) * scale
        found = (block**2).sum(1) - 2 * queries @ block.T
        known = allowed[part]
        fits = np.where(group[:, None] < 0, known >= 0, known == group[:, None])
        index = np.arange(start, start + len(block))
        fits &= index != rows[:, None]
        both = np.concatenate([distance, np.where(fits, found, np.inf)], 1)
        names = np.concatenate([best, np.broadcast_to(index, found.shape)], 1)
        order = np.argsort(both, 1, kind="stable")[:, :count]
        distance = np.take_along_axis(both, order, 1)
        best = np.take_along_axis(names, order, 1)
    return np.where(np.isfinite(distance), best, -1)
