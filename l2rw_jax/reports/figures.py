"""Figures of finished runs, as PNG."""

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from l2rw_jax.reports.table import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")


StrPath = str | os.PathLike[str]
Line = Mapping[str, Any]  # of metrics.jsonl


def plot_curves(runs: Mapping[str, Sequence[Sequence[Line]]], path: StrPath, *, title: str) -> None:
    """Test accuracy over steps: a line a method, its 95 % interval over seeds as a band.

    Args:
      runs: ``{method: [lines of metrics.jsonl of a run, ...]}``.
      path: the PNG to write.
      title: what was trained on what.
    """
    figure, axes = new_axes()
    for color, (method, seeds) in zip(itertools.cycle(COLORS), runs.items(), strict=False):
        evaluated = [[line for line in lines if "test_accuracy" in line] for lines in seeds]
        steps = [line["step"] for line in evaluated[0]]
        accuracy = [[line["test_accuracy"] for line in lines] for lines in evaluated]
        band(axes, steps, list(zip(*accuracy, strict=True)), method, color)
    num_seeds = max(len(seeds) for seeds in runs.values())
    axes.set(
        xlabel="training step",
        ylabel="test accuracy (%)",
        title=f"{title}\nmean and 95 % interval, {num_seeds} seeds",
    )
    save(figure, axes, path)


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
    for color, (method, points) in zip(itertools.cycle(COLORS), groups.items(), strict=False):
        band(axes, list(points), list(points.values()), method, color)
    axes.set(xlabel=xlabel, ylabel="test accuracy (%), last step", title=title)
    save(figure, axes, path)


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
        mean = f"mean {weights[chosen].mean():.2f}" if chosen.any() else "none"
        axes.hist(
            np.clip(weights[chosen], 0, bins[-1]),
            bins,
            alpha=0.65,
            color=color,
            label=f"{label} labels ({chosen.sum()}, {mean})",
        )
    axes.set(
        xlabel="mean weight over training (1 = uniform; the last bin holds what is beyond)",
        ylabel="training examples",
        title=title,
    )
    save(figure, axes, path)


def new_axes() -> "tuple[Figure, Axes]":
    """An empty figure in the house's style: ``(figure, axes)``."""
    # Slow to import; pyplot would also look for a screen, which writing a file does not need.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
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
    axes.plot(x, mean, style, marker="o", markersize=3, color=color, label=label)
    axes.fill_between(x, mean - half, mean + half, alpha=0.2, color=color, linewidth=0)


def save(figure: "Figure", axes: "Axes", path: StrPath) -> None:
    """Adds the legend and writes the PNG."""
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
