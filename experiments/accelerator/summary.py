"""The short table at the end: what ran, and how the figures stand to their goals."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.accelerator.pieces import METHODS
from experiments.benchmark.report import COUNTERPARTS
from l2rw_jax.reports import mean_interval, to_markdown
from l2rw_jax.training import workdir as files

PLAIN, CREATE_GRAPH, BEST = 2.0, 10.0, 3.0  # most times plain; least times ours
MINUTES = 10.0  # most for all seeds of Table 2's main row


def summary(output: Path, record: dict[str, Any]) -> str:
    """All tables in Markdown, of what the files in ``output`` hold."""
    ran = [
        [name, piece["status"], f"{piece['seconds'] / 60:.1f}", piece["line"]]
        for name, piece in record["pieces"].items()
    ]
    texts = [record["device"], to_markdown(["piece", "status", "minutes", "last line"], ran)]
    if steps := step_times(output):
        titles = ["model", "b", "m", "precision", "l2rw, ms", f"times plain (goal {PLAIN:g})"]
        titles.append(f"create_graph over l2rw (goal {CREATE_GRAPH:g})")
        titles.append(f"PyTorch's best over l2rw (goal {BEST:g})")
        texts.append(to_markdown(titles, steps))
    if rows := table2(output):
        titles = ["Table 2, CIFAR-10", "seeds", "steps/s", f"minutes for all (goal {MINUTES:g})"]
        texts.append(to_markdown([*titles, "test accuracy, %"], rows))
    return "\n\n".join(texts) + "\n"


def step_times(output: Path) -> list[list[str]]:
    """A line for each setting of the benchmark: the reweighted step and three ratios."""
    lines = []
    for path in sorted(output.glob("benchmark-*.json")):
        settings: dict[Any, dict[str, float]] = {}
        for row in json.loads(path.read_text())["rows"]:
            key = row["model"], str(row["batch"]), str(row["clean_batch"]), row["precision"]
            if row.get("median_ms"):
                settings.setdefault(key, {})[row["implementation"]] = row["median_ms"]
        for key, times in settings.items():
            mine = times.get("ours l2rw forward")
            if mine is None:
                continue
            theirs = [ms for name, ms in times.items() if _computes_the_same(name)]
            plain, graph = times.get("ours plain"), times.get("torch create_graph")
            line = [*key, f"{mine:.4g}", _ratio(plain and mine / plain, most=PLAIN)]
            line.append(_ratio(graph and graph / mine, least=CREATE_GRAPH))
            lines.append([*line, _ratio(min(theirs) / mine if theirs else None, least=BEST)])
    return lines


def _computes_the_same(name: str) -> bool:
    """Whether a row is PyTorch's full reweighted step, the counterpart of ``ours l2rw forward``."""
    if not name.startswith("torch "):
        return False
    form = name.partition(",")[0]  # without ", compiled" and ", CUDA graph"
    return COUNTERPARTS.get(form, "ours l2rw forward") == "ours l2rw forward"


def _ratio(value: float | None, *, least: float = 0.0, most: float = np.inf) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" + ("" if least <= value <= most else ", missed")


def table2(output: Path) -> list[list[str]]:
    """A line for each method: its accuracy, or how long its runs would take at their speed."""
    lines = []
    for method in METHODS:
        path, folder = output / f"table2-{method}.json", output / "runs" / "table2" / method
        if path.exists():
            runs = [run for run in json.loads(path.read_text())["runs"] if "ended" not in run]
            if not runs:
                continue
            mean, half = mean_interval([100 * run["test_accuracy"] for run in runs])
            # Replicas train side by side, in this time together.
            seconds = sum(r["steps"] / r["steps_per_second"] / r.get("replicas", 1) for r in runs)
            seconds += sum(run["compile_seconds"] / run.get("replicas", 1) for run in runs)
            speed = np.mean([run["steps_per_second"] for run in runs])
            told = f"{mean:.2f}" + ("" if half is None else f" ± {half:.2f}")
            lines.append([method, str(len(runs)), f"{speed:.4g}", f"{seconds / 60:.1f}", told])
            continue
        for joint in sorted(folder.glob("seed*")):
            metrics = files.read_metrics(joint)
            if not metrics:
                continue
            config = json.loads((joint / files.CONFIG).read_text())
            speed = float(np.median([line["steps_per_second"] for line in metrics]))
            done, steps = metrics[-1]["step"], config["steps"]
            minutes = f"{steps / speed / 60:.1f} at this speed"
            told = f"- ({done:,} of {steps:,} steps)"
            lines.append([method, str(config["replicas"]), f"{speed:.4g}", minutes, told])
    return lines
