"""Examples as users have them, in memory or on disk: read and checked."""

import numbers
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import issparse
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from l2rw_jax.data._check import channels_first, describe
from l2rw_jax.data.scaling import blocks, column_name

# For scikit-learn's checks: arrays are read as they are, and a memory map block by block.
AS_IS: dict[str, Any] = {"dtype": "numeric", "allow_nd": True, "ensure_all_finite": False}
_NAMED = 5  # that a line names
_MISSING = ("NAType", "NaTType")  # pandas's, without pandas
_ENCODE = "encode it as numbers (sklearn.preprocessing.OneHotEncoder), or leave it out"
_IMPUTE = "takes finite numbers: sklearn.impute fills in what is missing"


class Trusted(NamedTuple):
    """Verified examples.

    Attributes:
      X: their features or images.  # shape=(m, ...)
      labels: their labels' indices among the classes.  # shape=(m,)
      absent: the classes of which there is none.
    """

    X: Any
    labels: np.ndarray
    absent: np.ndarray


def take_rows(X: Any, rows: Any) -> Any:
    """Rows of an array or a data frame, by integers or a slice."""
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def check_numbers(argument: str, X: Any) -> None:
    """Refuses features that are no numbers by the column's name.

    Args:
      argument: the name of X.
      X: a data frame, an array or a list of rows ``[n, d]``; what is neither passes.

    Raises:
      ValueError: a column holds text, dates or missing values that are not NaN.
      TypeError: X is sparse, or a cell is no number at all.
    """
    if issparse(X):
        raise TypeError(
            f"{argument}: got sparse data {list(X.shape)}; takes a dense array: .toarray()"
        )
    for name, column in _columns_to_read(argument, X):
        where = f"{argument}: column {name}"
        if column.dtype.kind in "mM":
            raise ValueError(f"{where} holds dates; takes numbers: count its days, or leave it out")
        for row, cell in enumerate(np.asarray(column, object).tolist()):
            if type(cell).__name__ in _MISSING:
                raise ValueError(f"{argument}: row {row}, column {name} is {cell}; {_IMPUTE}")
            try:
                number = cell is None or float(cell) is not None
            except ValueError:
                number = False
            except TypeError as error:
                raise TypeError(f"{argument}: row {row}, column {name}: {error}") from None
            if not number or column.dtype.kind in "US":
                raise ValueError(f"{where} holds text ({describe(cell)}); takes numbers: {_ENCODE}")


def _columns_to_read(argument: str, X: Any) -> Iterator[tuple[str, Any]]:
    """Names and cells of those columns that are not numbers by their type."""
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        columns = ((repr(name), X.iloc[:, j]) for j, name in enumerate(X.columns))
        yield from ((name, each) for name, each in columns if each.dtype.kind not in "biufc")
        return
    try:
        array = np.asarray(X)
    except ValueError:
        raise ValueError(f"{argument}: got rows of several lengths; takes [n, d]") from None
    if array.ndim == 2 and array.dtype.kind not in "biufc":
        yield from ((str(j), array[:, j]) for j in range(array.shape[1]))


def check_finite_rows(argument: str, array: Any, names: Sequence[str] | None = None) -> None:
    """Raises ValueError, naming row and column, if ``[n, ...]`` holds NaN or an infinity."""
    for start, block in blocks(array):
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(block.sum(dtype=np.float64))
        if not finite and len(bad := np.argwhere(~np.isfinite(block))):
            row, column = bad[0][:2]
            raise ValueError(
                f"{argument}: row {start + row}, column {column_name(column, names)} is "
                f"{block[tuple(bad[0])]}, not finite (NaN or infinity); {_IMPUTE}"
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


def read_labels(argument: str, y: Any) -> Any:
    """Labels as an array, each of the type that it came in.

    Raises:
      ValueError: a label is missing.
    """
    labels = np.asarray(y)
    if labels.ndim != 1:
        return y
    mixed = isinstance(y, list | tuple) and labels.dtype.kind in "US"  # by NumPy, all as text
    if not mixed and labels.dtype.kind != "O":
        missing = labels != labels
    else:
        cells = list(y) if mixed else labels.tolist()
        missing = np.array([_is_missing(cell) for cell in cells], bool)
        if mixed and not all(isinstance(cell, str | bytes) for cell in cells):
            labels = np.array(cells, object)
        elif not missing.any() and all(isinstance(cell, numbers.Number) for cell in cells):
            labels = np.array(cells)
    if missing.any():
        row = int(np.argmax(missing))
        raise ValueError(f"{argument}: row {row} has no label; leave such rows out")
    return labels


def _is_missing(cell: Any) -> bool:
    unlike_itself = isinstance(cell, numbers.Real) and cell != cell
    return cell is None or unlike_itself or type(cell).__name__ in _MISSING


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


def read_mask(argument: str, mask: Any, n: int, others: str = "") -> np.ndarray:
    """A mask ``[n]`` bool; raises ValueError for anything else.

    Args:
      argument: its name.
      mask: an array, a series or a list of bools.
      n: number of rows.
      others: what else the argument takes, for the error.
    """
    try:
        array = np.asarray(mask)
    except ValueError:
        array = np.array(None)
    if array.dtype == object and array.ndim == 1:
        wrong = [not isinstance(cell, bool | np.bool_) for cell in array.tolist()]
        if not any(wrong):
            array = array.astype(bool)
        elif len(array) == n:
            row = int(np.argmax(wrong))
            raise ValueError(
                f"{argument}: row {row} is {array[row]}; takes True or False, False where a label "
                "was not verified"
            )
    if array.dtype != bool or array.shape != (n,):
        got = f"{array.dtype} {list(array.shape)}" if array.ndim else describe(mask)
        fix = ""
        if array.dtype.kind in "iuf" and array.ndim == 1:
            binary = len(array) == n and np.isin(array, (0, 1)).all()
            fix = "; of 0 and 1, give trusted == 1" if binary else ""
            fix = fix or f"; of row numbers, give numpy.isin(numpy.arange({n}), trusted)"
        raise ValueError(
            f"{argument}: got {got}; takes bool [{n}], True where a label was verified{others}{fix}"
        )
    return array


def is_pair(trusted: Any) -> bool:
    """Whether a tuple or a list holds arrays, not the bools of a mask."""
    return isinstance(trusted, tuple | list) and any(hasattr(part, "__len__") for part in trusted)


def read_trusted(
    trusted: Any,
    X: np.ndarray,
    labels: np.ndarray,
    classes: np.ndarray,
    names: Sequence[str] | None = None,
) -> Trusted:
    """The trusted examples.

    Args:
      trusted: a mask ``[n]``, a pair ``(X, y)``, or None: then one example, for methods that do
        not look at it.
      X: ``[n, ...]`` the training examples.
      labels: ``[n]`` their labels' indices.
      classes: ``[K]`` the labels, sorted.
      names: of X's columns, if it has names.

    Raises:
      ValueError: they cannot be used.
    """
    if trusted is None:
        return Trusted(X[:1], labels[:1], classes[:0])
    if is_pair(trusted):
        clean_X, clean_labels = _read_pair(trusted, X.shape[1:], classes, names)
    else:
        mask = read_mask("trusted", trusted, len(labels), ", or a pair (X, y)")
        clean_X, clean_labels = X[mask], labels[mask]
    if len(clean_labels) < 2:
        raise ValueError(
            f"trusted: got {len(clean_labels)} verified examples; takes 2 or more, or None"
        )
    seen = np.bincount(clean_labels, minlength=len(classes))
    return Trusted(clean_X, clean_labels, classes[seen == 0])


def absent_classes(absent: np.ndarray, count: int) -> str:
    """What to say of classes without a trusted example."""
    names = ", ".join(repr(label) for label in absent[:_NAMED].tolist())
    more = f" and {len(absent) - _NAMED} more" * (len(absent) > _NAMED)
    return f"trusted: no verified row of {len(absent)} of the {count} classes ({names}{more})"


def _read_pair(
    trusted: Sequence[Any],
    shape: tuple[int, ...],
    classes: np.ndarray,
    names: Sequence[str] | None,
) -> tuple[Any, np.ndarray]:
    if len(trusted) != 2:
        raise ValueError(f"trusted: got {len(trusted)} arrays; takes (X, y), or a mask [n]")
    check_numbers("trusted X", trusted[0])
    clean_X = _same_columns(trusted[0], names)
    clean_X = check_array(clean_X, input_name="trusted X", **AS_IS)
    clean_y = column_or_1d(read_labels("trusted y", trusted[1]))
    check_shape("trusted X", clean_X, shape)
    check_finite_rows("trusted X", clean_X, names)
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


def _same_columns(X: Any, names: Sequence[str] | None) -> Any:
    """A data frame's columns in the order of the training's; anything else as it is."""
    if names is None or not hasattr(X, "columns"):
        return X
    got, takes = list(X.columns), list(names)
    if got == takes:
        return X
    for what, unlike in (
        ("no", [name for name in takes if name not in got]),
        ("an unknown", [name for name in got if name not in takes]),
        ("twice a", [name for name in takes if got.count(name) > 1]),
    ):
        if unlike:
            raise ValueError(
                f"trusted X: got {what} column {unlike[0]!r}; takes the {len(takes)} columns of X"
            )
    return X[takes]
