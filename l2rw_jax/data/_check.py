"""Checks of arguments that the data's functions share; a line says what came and what to give."""

import numbers
import reprlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from l2rw_jax._messages import known, reason  # noqa: F401 - as the data's modules import them

_KINDS = {
    "uint8 or floats": (np.uint8, np.floating),
    "integers": (np.integer,),
    "numbers": (np.number,),
}


def check_integer(argument: str, value: Any, least: int, most: int | None = None) -> int:
    """Returns value as an int; raises ValueError unless it is an integer, no bool, in the range."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        allowed = f"of at least {least}" if most is None else f"in {least}..{most}"
        raise ValueError(f"{argument} is {describe(value)}: give an integer {allowed}")
    return int(value)


def check_seed(seed: Any) -> int:
    """Returns seed as an int of at least 0; raises ValueError for others, such as None: no seed."""
    return check_integer("seed", seed, 0)


def check_ratio(argument: str, value: Any, *, zero: bool = True) -> float:
    """Returns value as a float; raises ValueError unless in [0, 1), or in (0, 1] without zero."""
    if not _is_number(value) or not (0 <= value < 1 if zero else 0 < value <= 1):
        allowed = "[0, 1)" if zero else "(0, 1]"
        raise ValueError(f"{argument} is {describe(value)}: give a number in {allowed}")
    return float(value)


def check_finite(argument: str, value: Any) -> float:
    """Returns value as a float; raises ValueError unless it is a finite number."""
    if not _is_number(value) or not np.isfinite(value):
        raise ValueError(f"{argument} is {describe(value)}: give a finite number")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_bool(argument: str, value: Any) -> None:
    """Raises ValueError unless value is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{argument} is {describe(value)}: give True or False")


def check_labels(labels: Any, num_classes: int | None = None) -> np.ndarray:
    """Returns labels as an int32 array after checking them.

    Args:
        labels: [n] integer class indices.
        num_classes: number of classes K; None where any number will do.

    Raises:
        ValueError: labels are not [n] integers in 0..K-1.
    """
    try:
        array = np.asarray(labels)
    except (TypeError, ValueError) as error:  # lists of several lengths; traced values
        got = describe(labels)
        raise ValueError(f"labels is {got}: give integers of shape [n], not traced") from error
    check_array("labels", array, "integers", "[n]")
    most = (num_classes or 2**31) - 1
    if array.size and not (array.min() >= 0 and array.max() <= most):
        remedy = f"give classes 0..{most}" + ", or raise num_classes" * (num_classes is not None)
        raise ValueError(f"labels span {array.min()}..{array.max()}: {remedy}")
    return array.astype(np.int32)


def check_array(argument: str, value: Any, kind: str, shape: str = "") -> None:
    """Raises ValueError unless value is an array of this kind and rank; its values may be traced.

    Args:
        argument: its name.
        value: what came.
        kind: "uint8 or floats", "integers" or "numbers".
        shape: such as "[b, H, W, C]", of which the rank is checked; "" is any.
    """
    allowed = f"{kind} of shape {shape}" if shape else f"{kind} of any shape"
    fits = (
        hasattr(value, "shape")
        and hasattr(value, "dtype")
        and any(jnp.issubdtype(value.dtype, kind_) for kind_ in _KINDS[kind])
        and (not shape or len(value.shape) == len(shape.split(",")))
    )
    if not fits:
        raise ValueError(f"{argument} is {describe(value)}: give {allowed}")


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether images of this shape are [n, c, h, w], as PyTorch has them, rather than [n, h, w, c].

    >>> channels_first((10, 3, 32, 32)), channels_first((10, 32, 32, 3))
    (True, False)
    """
    return len(shape) == 4 and shape[1] in (1, 3, 4) and min(shape[2:]) > 4


def check_floating(dtype: Any) -> None:
    """Raises ValueError unless dtype is a floating one."""
    try:
        floating = dtype is not None and jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
    except TypeError:
        floating = False
    if not floating:
        raise ValueError(
            f"dtype is {describe(dtype)}: give a floating dtype, such as jax.numpy.float32"
        )


def check_key(key: Any) -> None:
    """Raises ValueError unless key is one random key, of the new kind or the old."""
    shape, dtype = getattr(key, "shape", None), getattr(key, "dtype", np.float32)
    new = jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    old = dtype == np.uint32 and shape in ((2,), (4,))  # threefry's, the other generators'
    if not new and not old:
        raise ValueError(f"key is {describe(key)}: give one random key, such as jax.random.key(0)")


def describe(value: Any) -> str:
    """Says in a few words what value is, on one line."""
    if isinstance(value, numbers.Number):
        return str(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} {list(value.shape)}"
    if value is None or isinstance(value, str | bytes):
        return reprlib.repr(value)
    return f"a {type(value).__name__}"
