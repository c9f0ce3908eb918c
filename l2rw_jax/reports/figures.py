"""Figures of finished runs, as PNG."""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from l2rw_jax._files import StrPath, write_whole
from l2rw_jax.reports.style import (
    COLORS,
    Interval,
    colors,
    highest,
    leaders,
    set_titles,
    styled,
    who_leads,
)
from l2rw_jax.reports.table import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = Mapping[str, Any]  # of metrics.jsonl


@styled
def plot_curves(runs: Mapping[str, Sequence[Sequence[Line]]], path: StrPath, *, title: str) -> None:
    """Test accuracy over steps: a line a method, its 95 % interval over seeds as a band.

    Args:
      runs: ``{method: [lines of metrics.jsonl of a run, ...]}``.
      path: the PNG to write.
      title: what was trained on what.
    """
    figure, axes = new_axes()
    last = {}
    for (method, seeds), color in zip(runs.items(), colors(runs).values(), strict=True):
        evaluated = [[line for line in lines if "test_accuracy" in line] for lines in seeds]
        steps = [line["step"] for line in evaluated[0]]
        accuracy = [[line["test_accuracy"] for line in lines] for lines in evaluated]
        band(axes, steps, list(zip(*accuracy, strict=True)), method, color)
        last[method] = _percent([values[-1] for values in accuracy])
    num_seeds = max(len(seeds) for seeds in runs.values())
    axes.set(xlabel="training step", ylabel="test accuracy (%)")
    set_titles(axes, highest(last), f"{title}\nmean and 95 % interval, {num_seeds} seeds")
    save(figure, axes, path)


@styled
def plot_sweep(
    groups: Mapping[str, Mapping[float, Sequence[float]]], path: StrPath, *, xlabel: str, title: str
) -> None:
    """Last test accuracy over a swept field: a line a method, the 95 % interval as a band.

    Args:
      groups: ``{method: {value: [accuracy of each seed]}}``.
      path: the PNG to write.
      xlabel: the field.
      title: what was trained on what.
    """
    figure, axes = new_axes()
    for (method, points), color in zip(groups.items(), colors(groups).values(), strict=True):
        band(axes, list(points), list(points.values()), method, color)
    axes.set(xlabel=xlabel, ylabel="test accuracy (%), last step")
    if len(_values(groups)) <= 8 and not any(isinstance(x, str) for x in _values(groups)):
        axes.set_xticks(_values(groups))
    set_titles(axes, _highest_by_value(groups, xlabel), f"{title}\nmean and 95 % interval")
    save(figure, axes, path)


@styled
def plot_weights(weights: np.ndarray, corrupted: np.ndarray, path: StrPath, *, title: str) -> None:
    """Histogram of the examples' mean weights, corrupted against uncorrupted.

    Args:
      weights: ``[n]`` mean weights, as multiples of the uniform weight.
      corrupted: ``[n]`` bool.
      path: the PNG to write.
      title: what was trained on what.
    """
    figure, axes = new_axes()
    bins = np.linspace(0, max(np.quantile(weights, 0.995), 1e-12), 41).tolist()
    for color, chosen, label in (
        (COLORS[0], ~corrupted, "uncorrupted"),
        (COLORS[3], corrupted, "corrupted"),
    ):
        axes.hist(
            np.clip(weights[chosen], 0, bins[-1]),
            bins,
            alpha=0.65,
            color=color,
            label=f"{label} labels ({chosen.sum()})",
        )
    axes.set(
        xlabel="mean weight over training (1 = equal; last bin: or more)",
        ylabel="training examples",
    )
    set_titles(axes, _weight_of_corrupted(weights, corrupted), title)
    save(figure, axes, path)


def _highest_by_value(groups: Mapping[str, Mapping[Any, Sequence[float]]], field: str) -> str:
    """Which method is the highest at every value of a field, or at its last one.

    >>> sure, unsure = [0.71, 0.72, 0.71], [0.6, 0.7, 0.8]
    >>> _highest_by_value({"a": {0: unsure, 1: [0.2] * 3}, "b": {0: sure, 1: sure}}, "noise")
    'b is highest or level at every noise'
    """
    if len(groups) == 1:
        ((method, points),) = groups.items()
        return f"{method}: {highest({f'{field} = {x}': _percent(y) for x, y in points.items()})}"
    figures = {
        value: {name: _percent(points[value]) for name, points in groups.items() if value in points}
        for value in _values(groups)
    }
    best = {value: leaders(of_methods) for value, of_methods in figures.items()}
    always = [name for name in groups if all(name in names for names in best.values())]
    last = list(figures)[-1]
    told = who_leads(figures[last], "is highest")
    if len(always) != 1:
        return f"{told} at {field} = {last}"
    if any(len(names) > 1 for names in best.values()):
        told = f"{always[0]} is highest or level"
    return f"{told} at every {field}"


def _percent(seeds: Sequence[float]) -> Interval:
    """Mean and 95 % interval in percent."""
    mean, half = mean_interval([100 * value for value in seeds])
    assert mean is not None
    return mean, half


def _values(groups: Mapping[str, Mapping[Any, Any]]) -> list[Any]:
    """The values that a field was swept over."""
    return list(dict.fromkeys(value for points in groups.values() for value in points))


def _weight_of_corrupted(weights: np.ndarray, corrupted: np.ndarray) -> str:
    """How much corrupted labels weigh, beside the others.

    >>> _weight_of_corrupted(np.array([0.2, 2.0]), np.array([True, False]))
    'A corrupted label weighs 10 % of a right one'
    """
    if not corrupted.any() or corrupted.all() or not weights[~corrupted].any():
        return f"Labels weigh {weights.mean():.2f} on average"
    share = weights[corrupted].mean() / weights[~corrupted].mean()
    return f"A corrupted label weighs {share:.0%} of a right one".replace("%", " %")


def new_axes() -> "tuple[Figure, Axes]":
    """An empty figure in the house's style: ``(figure, axes)``."""
    # Slow to import; pyplot would also look for a screen, which writing a file does not need.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def band(
    axes: "Axes",
    x: Sequence[float],
    values: Iterable[Iterable[float | None]],
    label: str,
    color: str,
    style: str = "-",
    scale: float = 100,
) -> None:
    """A line through the means of ``values``, one list of seeds for each x, times ``scale``."""
    intervals = [mean_interval(list(value)) for value in values]
    mean = scale * np.array([mean for mean, _ in intervals])
    half = scale * np.array([half or 0.0 for _, half in intervals])
    marker = "o" if len(x) <= 12 else ""  # a dot a point, until the dots hide the line
    axes.plot(x, mean, style, marker=marker, markersize=5, color=color, label=label)
    axes.fill_between(x, mean - half, mean + half, alpha=0.2, color=color, linewidth=0)


def save(figure: "Figure", axes: "Axes", path: StrPath) -> None:
    """Adds the legend, below, where it hides nothing, and writes the PNG."""
    longest = max(map(len, axes.get_legend_handles_labels()[1]), default=0)
    figure.legend(loc="outside lower center", ncols=3 if longest < 18 else 2)
    write(figure, path)


def write(figure: "Figure", path: StrPath, dpi: int = 150) -> None:
    """Writes a figure, whole or not at all; its format is that of the name's ending."""
    file = io.BytesIO()
    figure.savefig(file, format=Path(path).suffix[1:] or "png", dpi=dpi)
    write_whole(path, file.getvalue())
