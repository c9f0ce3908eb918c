"""The one error of the label audit, and how it counts and lists."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class AuditError(ValueError):
    """An argument, a file or a flag that an audit cannot use; one line says what to do."""


def listed(names: Sequence[Any] | np.ndarray, most: int = 10) -> str:
    """The first names, quoted, and how many more there are.

    >>> listed(["a", "b", "c"], 2)
    "'a', 'b' and 1 more"
    """
    text = ", ".join(repr(str(name)) for name in names[:most])
    return text + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(number: int, noun: str) -> str:
    """A number and its noun: "1 row", "2 rows"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
