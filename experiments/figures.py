"""Draws the figures of README and docs that need no training: from the JSON files in results/.

python -m experiments.figures
"""

import json
from pathlib import Path

from experiments import method_figure, programs
from experiments.reproduce import before_after
from experiments.reproduce import figures as reproduced
from experiments.scaling import report as scaling
from l2rw_jax import reports
from l2rw_jax.training import ConfigError

RESULTS, IMAGES = Path("results"), Path("docs/images")
REPRODUCED = ("figure3-cpu-cpu", "figure5-mnist-cpu", "figure6-mnist-cpu", "figure7-mnist-cpu")


def main():
    """Draws them, and says where.

    Raises:
      ConfigError: what it reads, or where it writes, is not here.
    """
    if not IMAGES.is_dir():
        raise ConfigError(f"{IMAGES}: no such folder here; start this program in the clone.")
    method_figure.draw(IMAGES / "method.png")
    print(IMAGES / "method.png")
    before_after.draw(before_after.points(_stored("human-trusted-cpu")), _png("before-after"))
    for name in REPRODUCED:
        reproduced.draw(_stored(name), _png(name))
    _draw_sweep("weight-decay", "weight_decay")
    scaling.plot(_stored("scaling-cpu")["model"]["rows"], _png("scaling-cpu"))


def _draw_sweep(name, field):
    """Accuracy over the field that a sweep varied."""
    stored = _stored(name)
    config = stored["config"]
    points: dict = {}
    for run in stored["runs"]:
        points.setdefault(run["method"], {}).setdefault(run[field], []).append(run["test_accuracy"])
    noise = config["noise"]
    title = f"{config['dataset']}, {config['model']}, {noise['kind']} noise {noise['ratio']:.0%}"
    reports.plot_sweep(points, _png(f"{name}-{field}"), xlabel=field, title=title)


def _stored(name):
    path = RESULTS / f"{name}.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}; start this program in the clone.") from error


def _png(name):
    path = RESULTS / f"{name}.png"
    print(path)
    return path


if __name__ == "__main__":
    programs.run(main)
