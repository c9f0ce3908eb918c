"""One look for all figures: sizes that can be read on a phone, and the answer as the title."""

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

P = ParamSpec("P")
R = TypeVar("R")

STYLE: Any = {
    "font.size": 13,
    "axes.titlesize": 12,
    "axes.titlecolor": "#555555",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.titlesize": 14,
    "figure.titleweight": "bold",
    "legend.fontsize": 12,
    "legend.frameon": False,
    "lines.linewidth": 2,
}


# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
# What every figure has, in the same colour in each.
_KNOWN = {"l2rw": "#0072B2", "ours": "#0072B2", "baseline": "#000000", "random": "#E69F00"}


def colors(labels: Iterable[str]) -> dict[str, str]:
    """A colour for each label; a method's own where it has one.

    >>> colors(["Baseline", "Resample", "Ours"])
    {'Baseline': '#000000', 'Resample': '#009E73', 'Ours': '#0072B2'}
    """
    others = itertools.cycle(color for color in COLORS if color not in _KNOWN.values())
    return {label: _KNOWN.get(label.lower()) or next(others) for label in labels}


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Runs a function that draws in the house's style, which it leaves nowhere else."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib  # slow to import

        with matplotlib.rc_context(STYLE):
            return function(*args, **kwargs)

    return wrapped


def set_titles(axes: "Axes", answer: str, about: str) -> None:
    """Puts the answer above the figure, in bold, and below it what was measured."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.suptitle(answer, x=0.01, horizontalalignment="left")
    axes.set_title(about)


def highest(values: Mapping[str, float], unit: str = " %") -> str:
    """Says which of the values is the highest.

    >>> highest({"baseline": 69.6, "l2rw": 92.1})
    'l2rw ends highest, at 92.1 %'
    >>> highest({"l2rw": 92.1})
    'l2rw ends at 92.1 %'
    """
    best = max(values, key=values.__getitem__)
    rank = " highest," if len(values) > 1 else ""
    return f"{best} ends{rank} at {values[best]:.1f}{unit}"
