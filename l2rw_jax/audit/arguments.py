"""The arguments of an audit: what comes in many types, read and checked."""

from typing import Any

import numpy as np
import pandas as pd

from l2rw_jax.audit.errors import AuditError
from l2rw_jax.data._check import describe
from l2rw_jax.data.examples import is_pair, read_labels, read_mask


def check_rows(X: Any, y: np.ndarray) -> None:
    """Raises AuditError unless X is an array or a data frame of as many rows as y."""
    if not hasattr(X, "shape") or len(X.shape) not in (2, 4):
        got = list(X.shape) if hasattr(X, "shape") else f"a {type(X).__name__}"
        raise AuditError(f"X: got {got}; takes an array [n, d], or images [n, h, w, c]")
    if y.ndim != 1 or len(y) != X.shape[0]:
        raise AuditError(f"y: got shape {list(y.shape)} for {X.shape[0]} rows of X; takes [n]")
    if not len(y):
        raise AuditError("X: no rows")


def read_given(argument: str, y: Any) -> np.ndarray:
    """Labels as an array; raises AuditError where one is missing."""
    try:
        return np.asarray(read_labels(argument, y))
    except ValueError as error:
        raise AuditError(str(error)) from None


def index_labels(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The classes, sorted; each label's index among them; and their counts."""
    try:
        return np.unique(y, return_inverse=True, return_counts=True)
    except TypeError:
        kinds = ", ".join(sorted({type(label).__name__ for label in y.tolist()}))
        raise AuditError(f"y: got labels of the types {kinds}; takes labels of one type") from None


def read_ids(ids: Any, n: int) -> np.ndarray:
    """Ids [n] of any types, which are told apart; None numbers the rows."""
    if ids is None:
        return np.arange(n)
    counted = hasattr(ids, "__len__") and not isinstance(ids, str | bytes | set | frozenset | dict)
    shape = ids.shape if hasattr(ids, "shape") else (len(ids),) if counted else ()
    if shape != (n,):
        got = f"shape {list(shape)}" if counted else describe(ids)
        raise AuditError(f"ids: got {got} for {n} rows; takes [{n}]")
    series = pd.Series(ids.tolist() if hasattr(ids, "tolist") else list(ids), dtype=object)
    try:
        repeated = series.duplicated().to_numpy()
    except TypeError:
        kind = next(type(each).__name__ for each in series if each.__hash__ is None)
        raise AuditError(f"ids: got a {kind} as an id; takes text or numbers") from None
    if repeated.any():
        raise AuditError(
            f"ids: {series[int(np.argmax(repeated))]!r} comes more than once; takes unique ids"
        )
    return ids if isinstance(ids, np.ndarray) else series.infer_objects().to_numpy()


def read_trusted(
    trusted: Any, given: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mask of trusted rows; and every row's class [n], the verified one where there is one."""
    if trusted is None:
        return np.zeros(len(given), bool), given
    pair = trusted if is_pair(trusted) else (trusted, None)
    if len(pair) != 2:
        raise AuditError(f"trusted: got {len(pair)} arrays; takes a mask, or a mask and labels")
    try:
        mask = read_mask("trusted", pair[0], len(given), ", or a pair of it and the true labels")
    except ValueError as error:
        raise AuditError(str(error)) from None
    if pair[1] is None:
        return mask, given
    labels = np.array(pair[1], object) if isinstance(pair[1], list) else np.asarray(pair[1])
    if labels.shape != given.shape:
        raise AuditError(
            f"trusted: got true labels of shape {list(labels.shape)}; takes [{len(given)}], of "
            "which those of masked rows are read"
        )
    known = read_given("trusted labels", labels[mask].tolist()).tolist()
    codes = {label: code for code, label in enumerate(classes.tolist())}
    for label in known:
        if label not in codes:
            raise AuditError(
                f"trusted: label {label!r} is none of the classes of y, such as "
                f"{classes.tolist()[0]!r}"
            )
    true = given.copy()
    true[mask] = [codes[label] for label in known]
    return mask, true
