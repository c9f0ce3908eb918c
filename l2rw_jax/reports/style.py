"""One look for all figures: sizes that can be read on a phone, and the answer as the title."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

P = ParamSpec("P")
R = TypeVar("R")
Interval = tuple[float, float | None]  # a mean and the half-width of its 95 % interval

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


def leaders(means: Mapping[str, Interval], *, lowest: bool = False) -> list[str]:
    r"""The names that may be the best, best mean first: the difference could be chance.

    .. math:: |\bar x_i - \bar x_{best}| \le \sqrt{h_i^2 + h_{best}^2}

    That is the 95 % interval of the difference of two means, each with half-width h. A name without
    an interval is level with all, unless no name has one: then the means alone decide.

    Args:
      means: ``{name: (mean, half_width)}``, as `mean_interval` gives them.
      lowest: whether the lowest mean is the best.

    >>> leaders({"random": (91.1, 2.1), "baseline": (71.9, 2.2), "l2rw": (92.3, 0.7)})
    ['l2rw', 'random']
    """
    unknown = math.inf if any(half is not None for _, half in means.values()) else 0.0
    names = sorted(means, key=lambda name: means[name][0], reverse=not lowest)
    half = {name: unknown if h is None else h for name, (_, h) in means.items()}
    best = names[0]

    def level(name: str) -> bool:
        return abs(means[name][0] - means[best][0]) <= math.hypot(half[name], half[best])

    return [name for name in names if name == best or level(name)]


def who_leads(means: Mapping[str, Interval], alone: str, *, lowest: bool = False) -> str:
    """Says who is best, or that several are level; the means are as of `leaders`.

    >>> who_leads({"baseline": (71.9, 2.2), "l2rw": (92.3, 0.7)}, "is highest")
    'l2rw is highest'
    >>> who_leads({"random": (91.1, 2.1), "l2rw": (92.3, 0.7)}, "is highest")
    'l2rw and random are level'
    >>> who_leads({"random": (91.1, None), "l2rw": (92.3, None)}, "is highest")
    'l2rw is highest (one seed)'
    """
    names = leaders(means, lowest=lowest)
    if len(names) == 1:
        return f"{names[0]} {alone}{'' if means[names[0]][1] is not None else ' (one seed)'}"
    verb = "are level" if len(names) == len(means) else "share the lead"
    several = listed(names) if len(names) < 4 else f"{len(names)} of {len(means)}"
    return f"{several} {verb}"


def listed(names: Sequence[str]) -> str:
    """The names in a sentence.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def highest(means: Mapping[str, Interval], unit: str = " %") -> str:
    """Says which of the means is the highest at the end; the means are as of `leaders`.

    >>> highest({"baseline": (69.6, 1.8), "l2rw": (92.1, 1.5)})
    'l2rw ends highest, at 92.1 %'
    >>> highest({"l2rw": (92.1, 1.5)})
    'l2rw ends at 92.1 %'
    """
    if len(means) == 1:
        ((name, (mean, _)),) = means.items()
        return f"{name} ends at {mean:.1f}{unit}"
    best = [means[name][0] for name in leaders(means)]
    ends = dict.fromkeys(f"{mean:.1f}" for mean in (best[-1], best[0]))
    return f"{who_leads(means, 'ends highest')}, at {' to '.join(ends)}{unit}"
