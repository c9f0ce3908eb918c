"""Trains methods x seeds x the values of one field; a table, a JSON file and figures come of it.

python -m experiments.sweep --config=configs/digits.py --workdir=runs/noise --methods=baseline,l2rw
    --seeds=3 --sweep=noise.ratio=0.0,0.2,0.4

Runs that are done already are not run again.
"""

import ast
import shlex
import sys
from pathlib import Path

import jax
import numpy as np
from absl import flags

from experiments import cli
from experiments.programs import expand
from l2rw_jax import reports
from l2rw_jax.training import ConfigError, RunError, resolve, train_seeds
from l2rw_jax.training import workdir as files
from l2rw_jax.training.config import check_name

METHODS = flags.DEFINE_list("methods", ["baseline", "random", "clean_only", "l2rw"], "Methods.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds, from config.seed on.", lower_bound=1)
SWEEP = flags.DEFINE_string("sweep", None, "A field and its values, as noise.ratio=0.0,0.2,0.4.")
OUTPUT = flags.DEFINE_string(
    "output", None, "Start of the names of table, JSON and figures; WORKDIR/sweep by default."
)


def main():
    """Runs what is missing, then reports on everything."""
    workdir = Path(str(cli.WORKDIR.value))
    field, values = parse_sweep(SWEEP.value, cli.CONFIG.value)
    runs = expand(
        cli.CONFIG.value, distinct("--methods", METHODS.value), SEEDS.value, field, values
    )
    for config, folder in runs:  # mistakes come to light before any work starts
        if files.check_workdir(workdir / folder, config) is None:
            resolve(config)
    cli.create_folder(output().parent)
    results: list = []
    for start in range(0, len(runs), SEEDS.value):
        seeds = runs[start : start + SEEDS.value]
        config, _ = seeds[0]
        for result in train_seeds(config, [workdir / folder for _, folder in seeds]):
            if isinstance(result, RunError):
                raise result
            accuracy = f"test accuracy {result['test_accuracy']:.1%}"
            print(
                f"[{len(results) + 1}/{len(runs)}] {runs[len(results)][1]}: {accuracy}", flush=True
            )
            results.append(result | ({field: config_value(config, field)} if field else {}))
    if jax.process_index() == 0:
        print("\n" + report(results, [folder for _, folder in runs], field))


def parse_sweep(text, config):
    """The swept field and its values; ``(None, [None])`` for no sweep.

    Raises:
      ConfigError: not FIELD=VALUE,VALUE,... of a field of ``config``.
    """
    if text is None:
        return None, [None]
    field, _, listed = text.partition("=")
    known = files.flatten(config.to_dict())
    check_name(f"--sweep={field}", field, known)
    if field in ("method", "seed", "replicas"):
        raise ConfigError(
            f"--sweep: got {field}; takes another field: there are --methods and --seeds."
        )
    values: list = listed.split(",")
    try:
        if not isinstance(known[field], str):
            values = [type(known[field])(ast.literal_eval(value)) for value in values]
    except (TypeError, ValueError, SyntaxError):
        raise ConfigError(
            f"--sweep: got {text!r}; takes FIELD=VALUE,VALUE,... with values like {known[field]!r}."
        ) from None
    return field, distinct("--sweep", values)


def distinct(flag, values):
    """Returns ``values``, of which there must be some and no two equal: seeds count as evidence."""
    if not values or len(set(values)) < len(values):
        raise ConfigError(f"{flag}: got {','.join(map(str, values))!r}; takes distinct values.")
    return values


def output():
    """The start of the names of what a sweep writes."""
    return Path(OUTPUT.value or f"{cli.WORKDIR.value}/sweep")


def config_value(config, field):
    """The value of a field by its dotted name."""
    return files.flatten(config.to_dict())[field]


def report(results, folders, field):
    """Writes the table, the JSON file and the figures; returns the table."""
    config, workdir = cli.CONFIG.value, Path(str(cli.WORKDIR.value))
    keys = [field, "method"] if field else ["method"]
    summary = reports.summarize(results, keys)
    table = reports.markdown_table(summary, keys)
    Path(f"{output()}.md").write_text(table + "\n")
    command = shlex.join(["python", "-m", "experiments.sweep", *sys.argv[1:]])
    about = {"command": command, "config": config.to_dict(), **files.environment()}
    files.write_json(
        f"{output()}.json", about | {"keys": keys, "summary": summary, "runs": results}
    )
    title = f"{config.dataset}, {config.model}"
    if config.noise.kind != "none" and field != "noise.ratio":
        title += f", {config.noise.kind} noise {config.noise.ratio:.0%}"
    if field:
        points: dict = {}
        for result in results:
            method = points.setdefault(result["method"], {})
            method.setdefault(result[field], []).append(result["test_accuracy"])
        reports.plot_sweep(points, f"{output()}-{field}.png", xlabel=field, title=title)
        return table
    curves: dict = {}
    for result, folder in zip(results, folders, strict=True):
        curves.setdefault(result["method"], []).append(files.read_metrics(workdir / folder))
    reports.plot_curves(curves, f"{output()}-accuracy.png", title=title)
    weighted = [folder for folder in folders if folder.startswith("l2rw/")]
    if weighted:
        arrays = [np.load(workdir / folder / "weights.npz") for folder in weighted]
        drawn = np.concatenate([a["count"] for a in arrays]) > 0
        weights = np.concatenate([a["mean_weight"] for a in arrays])[drawn] * config.batch_size
        corrupted = np.concatenate([a["corrupted"] for a in arrays])[drawn]
    if weighted and corrupted.any():
        reports.plot_weights(
            weights, corrupted, f"{output()}-weights.png", title=f"l2rw on {title}"
        )
    return table


if __name__ == "__main__":
    cli.run(main)
