"""Draws README's picture from results/human-cpu.json: accuracy before and after, noise by noise.

python -m experiments.reproduce.before_after --picture=results/before-after.png
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from absl import flags

from experiments import programs
from l2rw_jax.reports import mean_interval
from l2rw_jax.reports.figures import COLORS
from l2rw_jax.training import ConfigError

INPUT = flags.DEFINE_string("input", "results/human-cpu.json", "The report of --target=human.")
OUTPUT = flags.DEFINE_string("picture", "results/before-after.png", "The PNG to write.")

# What a reader sees for each column of the report, from top to bottom.
ROWS = {
    "human, 1000 clean": "people's labels,\n17 % wrong",
    "none": "no wrong labels",
    "uniform 0.2": "uniform, 20 %",
    "uniform 0.4": "uniform, 40 %",
    "uniform 0.6": "uniform, 60 %",
    "background 0.2": "background, 20 %",
    "background 0.4": "background, 40 %",
    "background 0.6": "background, 60 %",
}
BEFORE, AFTER = "baseline", "evidence"
CAPTION = (
    "CIFAR-10 as features of a pretrained network, a perceptron on top;\n"
    "{seeds} seeds. Gains are paired by seeds, with 95 % intervals. Only the\n"
    "first row's noise is real. Uniform: a wrong label is any other class;\n"
    "background: always the same class."
)


def main():
    """Reads the report and draws."""
    try:
        report = json.loads(Path(INPUT.value).read_text())
        values = {
            (entry["row"], entry["column"]): entry["last"]["values"] for entry in report["summary"]
        }
        pairs = {name: (values[BEFORE, name], values[AFTER, name]) for name in ROWS}
        if any(len(before) != len(after) or len(after) < 2 for before, after in pairs.values()):
            raise ValueError("both rows need the same seeds, two or more")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--input={INPUT.value}: {error}; takes what python -m experiments.reproduce "
            "--target=human writes."
        ) from error
    try:
        draw(pairs, OUTPUT.value)
    except (OSError, ValueError) as error:  # no such folder, no such format
        raise ConfigError(
            f"--picture={OUTPUT.value}: {error}; give a .png's name in a folder that exists."
        ) from error
    print(f"{OUTPUT.value}: {len(pairs)} rows from {INPUT.value}")


def gain(before, after):
    """Points gained, paired by seeds: the mean and the half-width of its 95 % interval."""
    return mean_interval(list(np.subtract(after, before)))


def title(pairs):
    """The answer: what is gained on people's labels and, at most, on made noise."""
    gains = {name: gain(*pair)[0] for name, pair in pairs.items()}
    people = gains.pop("human, 1000 clean")
    verb = "add" if people >= 0 else "take"
    return (
        f"1,000 trusted labels {verb} {abs(people):.1f} points on labels\n"
        f"by people, and up to {max(gains.values()):.0f} on made noise"
    )


def draw(pairs, path):
    """A line for each noise, from the accuracy before to the one after.

    Args:
      pairs: ``{column: (before, after)}``, each a list of the seeds' accuracies in percent.
      path: the PNG to write.
    """
    # Small and with large type: on a phone it is shown at 340 pixels.
    figure, axes = plt.subplots(figsize=(4.8, 5.2), layout="constrained")
    places = [0, *(place + 0.4 for place in range(1, len(pairs)))]  # the real noise stands apart
    means = [(np.mean(before), np.mean(after)) for before, after in pairs.values()]
    axes.hlines(places, *zip(*means, strict=True), color="#bbbbbb", linewidth=2.5, zorder=1)
    for label, marker, color, x in zip(
        ("ordinary training", "evidence"),
        ("s", "o"),
        (COLORS[3], COLORS[0]),
        zip(*means, strict=True),
        strict=True,
    ):
        axes.plot(x, places, marker, color=color, markersize=6.5, label=label)
    for place, ends, pair in zip(places, means, pairs.values(), strict=True):
        mean, half_width = gain(*pair)
        text = f"{mean:+.1f} ± {half_width:.1f}"
        axes.text(max(ends) + 2.5, place, text, va="center_baseline", fontsize=11)
    axes.set_yticks(places, [ROWS[name] for name in pairs], fontsize=11)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(15, 110)
    axes.set_xticks([20, 40, 60, 80])
    axes.tick_params(axis="x", labelsize=11)
    axes.invert_yaxis()
    axes.set_xlabel("test accuracy (%), and the gain in points", fontsize=11)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", alpha=0.25)
    axes.legend(
        frameon=False,
        fontsize=11,
        loc="upper left",
        bbox_to_anchor=(-0.04, 0.74),
        handletextpad=0.2,
    )
    figure.suptitle(title(pairs), fontsize=12.5, fontweight="bold", x=0.01, ha="left")
    seeds = sorted({len(each) for pair in pairs.values() for each in pair})
    caption = CAPTION.format(seeds=" or ".join(map(str, seeds)))
    figure.supxlabel(caption, fontsize=9.5, x=0.01, ha="left", color="#555555")
    figure.savefig(path, dpi=180)
    plt.close(figure)


if __name__ == "__main__":
    programs.run(main)
