"""The figures of a reproduced target, in the paper's form, drawn from what its JSON file holds."""

import itertools
import textwrap

import numpy as np

from experiments.reproduce.targets import TARGETS
from l2rw_jax.reports import figures
from l2rw_jax.reports.style import colors, set_titles, styled, who_leads


def draw(stored, path):
    """Writes the PNG of a target that is a figure in the paper; nothing of one that is a table."""
    target = TARGETS[stored["target"]]
    title = f"{textwrap.fill(target.title, 64)}\n{stored['scale']} scale, mean and 95 % interval"
    title += f"\n{stored['note']}" if stored["note"] else ""
    if stored["curves"]:
        _plot_curves(stored["curves"], path, title)
    elif target.axis:
        _plot_lines(stored["summary"], path, title, target)


@styled
def _plot_curves(curves, path, title):
    """Dotted training accuracy and solid hyper-validation accuracy over steps, a colour a row."""
    figure, axes = figures.new_axes()
    for (label, by_name), color in zip(curves.items(), colors(curves).values(), strict=True):
        for name, style in (("training", ":"), ("hyper-validation", "-")):
            steps = {int(step): values for step, values in by_name[name].items()}
            line = f"{label}, {name}"
            figures.band(axes, list(steps), list(steps.values()), line, color, style, scale=1)
    axes.set(xlabel="training step", ylabel="accuracy (%), labels noisy")
    set_titles(axes, _memorised(curves), title)
    figures.save(figure, axes, path)


def _memorised(curves):
    """The gap between training and hyper-validation at the end: labels learned by heart."""
    gaps = []
    for label, by_name in curves.items():
        train, val = (
            np.mean(list(by_name[name].values())[-1]) for name in ("training", "hyper-validation")
        )
        gaps.append(f"{label} {train - val:.1f}")
    return f"Memorised, in points: {', '.join(gaps)}"


def _best(summary, column, error):
    """The best rows of a column, or that several are level."""
    last = {e["row"]: e["last"] for e in summary if e["column"] == column and e["seeds"]}
    means = {row: (value["mean"], value["ci95"]) for row, value in last.items()}
    alone = "has the lowest error" if error else "is highest"
    return f"{who_leads(means, alone, lowest=error)} at {column}"


@styled
def _plot_lines(summary, path, title, target):
    """The last iterate over the columns, a line a row."""
    figure, axes = figures.new_axes()
    columns = list(dict.fromkeys(entry["column"] for entry in summary))
    color_of = colors(dict.fromkeys(entry["row"] for entry in summary))
    for label, entries in itertools.groupby(summary, key=lambda entry: entry["row"]):
        known = [entry for entry in entries if entry["seeds"]]
        places = [columns.index(entry["column"]) for entry in known]
        values = [entry["last"]["values"] for entry in known]
        figures.band(axes, places, values, label, color_of[label], scale=1)
    axes.set_xticks(range(len(columns)), columns)
    kind = "balanced test error" if target.error else "test accuracy"
    axes.set(xlabel=target.axis, ylabel=f"{kind} (%), last step")
    measured = [entry["column"] for entry in summary if entry["seeds"]]
    last = max(measured, key=columns.index)
    set_titles(axes, _best(summary, last, target.error), title)
    figures.save(figure, axes, path)
