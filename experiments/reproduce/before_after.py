"""README's picture: accuracy before and after reweighting, from the report of --target=human."""

import matplotlib.pyplot as plt
import numpy as np

from l2rw_jax.reports import mean_interval
from l2rw_jax.reports.figures import COLORS, write

# What a reader sees for each column of the report, from top to bottom.
ROWS = {
    "human, 1000 clean": "people's labels,\n17 % wrong",
    "none": "no wrong labels",
    "uniform 0.4": "40 % flipped to\nany other class",
    "background 0.4": "40 % flipped to\none class",
}
# The report's rows; what the legend calls them; marker and colour.
MARKERS = {
    "clean only": ("the 1,000 trusted labels alone", "D", "#999999"),
    "baseline + clean": ("all labels, ordinary training", "s", COLORS[3]),
    "evidence": ("all labels, reweighted", "o", COLORS[0]),
}
CAPTION = (
    "CIFAR-10 as features of a pretrained network, a perceptron on top;\n"
    "{seeds} seeds. Gains over ordinary training are paired by seeds,\n"
    "with 95 % intervals. Ordinary training sees the trusted labels too."
)


def points(stored):
    """``{column: (trusted alone, before, after)}``, each the seeds' accuracies in percent."""
    last = {(entry["row"], entry["column"]): entry["last"]["values"] for entry in stored["summary"]}
    return {column: tuple(last[row, column] for row in MARKERS) for column in ROWS}


def gain(before, after):
    """Points gained, paired by seeds: the mean and the half-width of its 95 % interval."""
    return mean_interval(list(np.subtract(after, before)))


def title(points):
    """The answer: what reweighting gains on people's labels and, at most, on made noise."""
    gains = {name: gain(*each[-2:])[0] for name, each in points.items()}
    people = gains.pop("human, 1000 clean")
    verb = "adds" if people >= 0 else "takes"
    return (
        f"Reweighting {verb} {abs(people):.1f} points on labels by\n"
        f"people, and up to {max(gains.values()):.0f} on made noise"
    )


def draw(points, path):
    """A line for each noise, from the accuracy of ordinary training to that of reweighting."""
    # Small and with large type: on a phone it is shown at 340 pixels.
    figure, axes = plt.subplots(figsize=(4.8, 4.4), layout="constrained")
    places = range(len(points))
    means = np.array([[np.mean(each) for each in row] for row in points.values()])
    axes.hlines(places, means[:, 1], means[:, 2], color="#bbbbbb", linewidth=2.5, zorder=1)
    for (label, marker, color), x in zip(MARKERS.values(), means.T, strict=True):
        axes.plot(x, places, marker, color=color, markersize=6.5, label=label)
    for place, ends, row in zip(places, means, points.values(), strict=True):
        mean, half_width = gain(*row[-2:])
        text = f"{mean:+.1f} ± {half_width:.1f}"
        axes.text(max(ends) + 1.5, place, text, va="center_baseline", fontsize=11)
    axes.set_yticks(places, [ROWS[name] for name in points], fontsize=11)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(np.floor(means.min() / 10) * 10, 95)
    axes.set_ylim(-0.5, len(points) - 0.5)
    axes.set_xticks(range(50, 90, 10))
    axes.tick_params(axis="x", labelsize=11)
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy (%), and the gain in points", fontsize=11)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.legend(
        frameon=False, fontsize=11, loc="lower left", bbox_to_anchor=(-0.42, 1), handletextpad=0.2
    )
    figure.suptitle(title(points), fontsize=12.5, fontweight="bold", x=0.01, ha="left")
    seeds = sorted({len(each) for row in points.values() for each in row})
    caption = CAPTION.format(seeds=" or ".join(map(str, seeds)))
    figure.supxlabel(caption, fontsize=9.5, x=0.01, ha="left", color="#555555")
    write(figure, path, dpi=180)
    plt.close(figure)
