"""What error messages share: the nearest name, an error's first line, whether values are known."""

import difflib
from collections.abc import Iterable
from typing import Any

import jax


def nearest(got: Any, known: Iterable[str]) -> str:
    """The one of the known names that is most like ``got``.

    >>> nearest("l2rv", ["baseline", "l2rw"])
    'l2rw'
    """
    return difflib.get_close_matches(str(got), list(known), 1, cutoff=0)[0]


def reason(error: BaseException) -> str:
    r"""The first line of what an error says; its type, if it says nothing.

    >>> reason(ValueError("no number\nand more")), reason(KeyboardInterrupt())
    ('no number', 'KeyboardInterrupt')
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__


def known(value: Any) -> bool:
    """Whether an array's values can be read here: not traced, nor on another process's devices."""
    return not isinstance(value, jax.core.Tracer) and getattr(value, "is_fully_addressable", True)
