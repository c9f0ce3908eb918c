"""Trains methods x seeds x the values of one field; writes a table, JSON, figures and a page.

python -m experiments.sweep --config=configs/digits.py --workdir=runs/noise --methods=baseline,l2rw
    --seeds=3 --sweep=noise.ratio=0.0,0.2,0.4

Finished runs are not run again.
"""

import copy
import os
import re
from pathlib import Path

import jax
import numpy as np
from absl import flags

from experiments import cli, programs
from experiments.programs import expand
from l2rw_jax import reports
from l2rw_jax.reports.style import leaders, listed, who_leads
from l2rw_jax.reports.table import cell
from l2rw_jax.training import ConfigError, Ended, RunError, resolve, train_seeds, validate
from l2rw_jax.training import workdir as files
from l2rw_jax.training.config import check_name

GENERATOR = b'<meta name="generator" content="l2rw_jax.reports">'  # what a page begins with

METHODS = flags.DEFINE_list("methods", ["baseline", "random", "clean_only", "l2rw"], "Methods.")
SEEDS = flags.DEFINE_integer(
    "seeds", 3, "Number of seeds, from config.seed on.", lower_bound=1, upper_bound=1000
)
SWEEP = flags.DEFINE_string(
    "sweep", None, "A field and its values, as noise.ratio=0.0,0.2,0.4 or boundaries=(10,20),()."
)
OUTPUT = flags.DEFINE_string(
    "output", None, "Start of the names of table, JSON and figures; WORKDIR/sweep by default."
)


def main():
    """Runs what is missing, then reports on everything.

    Raises:
      RunError: some runs ended early; the others are done, and the report shows both.
    """
    workdir = Path(str(cli.WORKDIR.value))
    field, values = parse_sweep(SWEEP.value, cli.CONFIG.value)
    runs = expand(
        cli.CONFIG.value, distinct("--methods", METHODS.value), SEEDS.value, field, values
    )
    resolved = set()
    for config, folder in runs:  # mistakes come to light before any work starts
        try:
            if files.check_workdir(workdir / folder, validate(config)) is not None:
                files.read_weights(workdir / folder)
            elif Path(folder).parent not in resolved:  # seeds cannot differ in a mistake
                resolve(config)
                resolved.add(Path(folder).parent)
        except Ended:
            pass  # a row of the table
    endings = [f"-{field}.png"] if field else ["-accuracy.png", "-weights.png"]
    programs.prepare_output("sweep", str(output()), *endings)
    check_page(workdir / "report.html")
    results: list = []
    for start in range(0, len(runs), SEEDS.value):
        seeds = runs[start : start + SEEDS.value]
        trained = train_seeds(seeds[0][0], [workdir / folder for _, folder in seeds])
        for (config, folder), result in zip(seeds, trained, strict=True):
            if isinstance(result, RunError):
                result = {"method": config.method, "seed": config.seed, "ended": str(result)}
                told = f"ended: {result['ended']}"
            else:
                told = f"test accuracy {result['test_accuracy']:.1%}"
            results.append(result | ({field: config_value(config, field)} if field else {}))
            print(f"[{len(results)}/{len(runs)}] {folder}: {told}", flush=True)
    if jax.process_index() == 0:
        print("\n" + report(results, [folder for _, folder in runs], field))
    if ended := sum("ended" in result for result in results):
        raise RunError(f"{ended} of {len(runs)} runs ended early; {output()}.md says why")


def parse_sweep(text, config):
    """The swept field and its values; ``(None, [None])`` for no sweep.

    Raises:
      ConfigError: not FIELD=VALUE,VALUE,... of a field of ``config``.
    """
    if text is None:
        return None, [None]
    field, equals, listed = text.partition("=")
    known = files.flatten(config.to_dict())
    check_name(f"--sweep={field}", field, known)
    if field in ("method", "seed", "seeds"):
        raise ConfigError(
            f"--sweep: got {field}; takes another field: there are --methods and --seeds."
        )
    if not equals:
        raise ConfigError(f"--sweep: got {text!r}; takes FIELD=VALUE,VALUE,...")
    texts = re.split(r",(?![^(\[]*[)\]])", listed)  # at the commas outside of brackets
    values = [cli.parse_value(f"--sweep={field}", value, known[field]) for value in texts]
    return field, distinct(f"--sweep={field}", values)


def distinct(flag, values):
    """Returns ``values``, which must be distinct and not empty: a seed counts as evidence once."""
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
    finished = {
        folder: result
        for folder, result in zip(folders, results, strict=True)
        if "ended" not in result
    }
    summary = reports.summarize(finished.values(), keys)
    header, rows = reports.table(summary, keys)
    for result in results:
        if "ended" in result:
            told = f"ended: seed {result['seed']}: {result['ended']}"
            rows.append([*(str(result[key]) for key in keys), told])
    table = reports.to_markdown(header, rows)
    files.write_text(f"{output()}.md", table + "\n")
    about = programs.about("sweep") | {"config": config.to_dict()}
    runs = [programs.differences(result, about) for result in results]
    files.write_json(f"{output()}.json", about | {"keys": keys, "summary": summary, "runs": runs})
    if finished:
        figures = plot(finished, field, config, workdir)
        page = {"lead": lead(summary, keys), "command": about["command"]}
        page |= {"header": header, "rows": rows, "figures": figures}
        write_page(page, finished, field)
    return table


def check_page(path):
    """Refuses to write over a page that no sweep has written."""
    own = path.is_file() and not path.is_symlink() and GENERATOR in path.read_bytes()[:2000]
    if os.path.lexists(path) and not own:
        raise ConfigError(f"--workdir: {path} is no page of a sweep; take another, or move it.")


def lead(summary, keys):
    """The most accurate row, or the rows that are level, in a sentence."""
    rows = {
        ", ".join(str(row[key]) for key in reversed(keys)): row["test_accuracy"] for row in summary
    }
    means = {name: (metric["mean"], metric["ci95"]) for name, metric in rows.items()}
    cells = [cell(rows[name], 100, 1) for name in leaders(means)]
    told = f"{next(iter(rows))} reaches"
    if len(rows) > 1:
        told = f"{who_leads(means, 'is the most accurate')}:"
    return f"At the last step {told} {listed(cells) if len(cells) < 4 else cells[0]} %."


def write_page(page, finished, field):
    """Writes WORKDIR/report.html; without a swept field, with the labels a run doubts most."""
    config, workdir = cli.CONFIG.value, Path(str(cli.WORKDIR.value))
    doubts, source = [], ""
    if not field:
        weighted = [folder for folder in finished if folder.startswith("l2rw/")]
        source = (weighted or list(finished))[0]
        run = copy.deepcopy(config)
        run.method, run.seed = finished[source]["method"], finished[source]["seed"]
        doubts = reports.most_doubted(run, workdir / source)
    reports.write_page(
        workdir / "report.html",
        title=title_of(config, field),
        doubts=doubts,
        source=source,
        **page,
    )


def plot(finished, field, config, workdir):
    """Draws the figures of the finished runs, ``{folder: result}``.

    Returns:
      Their files, by the text that describes each.
    """
    title = title_of(config, field)
    if field:
        points: dict = {}
        for result in finished.values():
            method = points.setdefault(result["method"], {})
            value = result[field] if isinstance(result[field], int | float) else str(result[field])
            method.setdefault(value, []).append(result["test_accuracy"])
        file = f"{output()}-{field}.png"
        reports.plot_sweep(points, file, xlabel=field, title=title)
        return {f"Test accuracy of each method over {field}": file}
    curves: dict = {}
    for folder, result in finished.items():
        curves.setdefault(result["method"], []).append(files.read_metrics(workdir / folder))
    file = f"{output()}-accuracy.png"
    reports.plot_curves(curves, file, title=title)
    figures = {"Test accuracy of each method over the training steps": file}
    weighted = [folder for folder in finished if folder.startswith("l2rw/")]
    if weighted:
        arrays = [files.read_weights(workdir / folder) for folder in weighted]
        drawn = np.concatenate([a["count"] for a in arrays]) > 0
        weights = np.concatenate([a["mean_weight"] for a in arrays])[drawn] * config.batch_size
        corrupted = np.concatenate([a["corrupted"] for a in arrays])[drawn]
    if weighted and corrupted.any():
        file = f"{output()}-weights.png"
        reports.plot_weights(weights, corrupted, file, title=f"l2rw on {title}")
        figures["Mean weights by l2rw of examples with wrong and with right labels"] = file
    return figures


def title_of(config, field):
    """What was trained on what."""
    title = f"{config.dataset}, {config.model}"
    if config.noise.kind == "given":
        title += f", {config.noise.column}"
    elif config.noise.kind != "none" and field != "noise.ratio":
        title += f", {config.noise.kind} noise {config.noise.ratio:.0%}"
    return title


if __name__ == "__main__":
    cli.run(main)
