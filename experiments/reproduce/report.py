"""From finished runs to a table beside the paper's, a JSON file and a figure in its form."""

import contextlib
import itertools
from pathlib import Path

import numpy as np

from experiments import programs
from experiments.reproduce.figures import draw
from experiments.reproduce.scales import SCALES
from experiments.reproduce.targets import TARGETS
from l2rw_jax import reports
from l2rw_jax.training import Ended
from l2rw_jax.training import workdir as files

_AUROC = "AUROC (%) of the mean margin of the given label as a detector of wrong labels:"


def write(plan, workdir, output, command, note="", failed=()):
    """Writes OUTPUT.json, OUTPUT.md and, of a figure, OUTPUT.png; returns the table.

    Args:
      plan: a ``Plan``; the runs that are done are reported.
      workdir: the runs' folder.
      output: start of the files' names.
      command: what makes them again.
      note: a sentence for all three.
      failed: folders of runs that failed.
    """
    done = finished(plan, workdir)
    summary = summarize(plan, workdir, done)
    target = TARGETS[plan.target]
    text = f"{caption(plan, done, command, note, failed)}\n\n{table(summary)}\n"
    beyond = comparisons(plan, summary, done) if target.against else {}
    for name, entries in beyond.items():
        text += f"\n{name}\n\n{_wide(entries)}\n"
    files.write_text(f"{output}.md", text)
    runs = [
        {"folder": folder, "config": plan.runs[folder].to_dict()}
        | result
        | _course(Path(workdir, folder), plan.runs[folder])
        for folder, result in done.items()
    ]
    curves = _curves(plan, workdir, done) if len(target.metrics) > 1 else {}
    stored = {"target": plan.target, "scale": plan.scale, "command": command, "note": note}
    stored |= {"summary": summary, "curves": curves, "failed": list(failed)}
    files.write_json(f"{output}.json", stored | {"comparisons": beyond} | say_once(runs))
    if done:
        draw(stored, f"{output}.png")
    return text


def say_once(runs):
    """The first run's config, device and versions, and ``runs`` with what differs from these alone.

    What a run's config has of its own stands under the fields' dotted names.

    >>> about = {"device": "cpu", "versions": {"jax": "0.12"}}
    >>> runs = [about | {"config": {"noise": {"ratio": ratio}}} for ratio in (0.2, 0.4)]
    >>> say_once(runs)["config"], say_once(runs)["runs"]
    ({'noise': {'ratio': 0.2}}, [{'config': {}}, {'config': {'noise.ratio': 0.4}}])
    """
    if not runs:
        return {"runs": []}
    shared = {field: runs[0][field] for field in ("config", "device", "versions")}
    config = files.flatten(shared["config"])
    own = [
        programs.differences(run, shared)
        | {"config": programs.differences(files.flatten(run["config"]), config)}
        for run in runs
    ]
    return shared | {"runs": own}


def finished(plan, workdir):
    """``{folder: result}`` of the runs that are done; not of those that ended without a result."""
    results = {}
    for folder, config in plan.runs.items():
        with contextlib.suppress(Ended):
            if result := files.check_workdir(Path(workdir, folder), config):
                results[folder] = result
    return results


def summarize(plan, workdir, done):
    """What every row is in every column.

    Args:
      plan: the ``Plan``.
      workdir: the runs' folder.
      done: ``{folder: result}`` of the finished runs.

    Returns:
      Dicts with ``row``, ``column``, ``paper``, ``seeds``, ``seconds`` (of a run, the mean), and
      ``last`` and ``best`` evaluation, each with ``values`` (in percent), ``mean`` and ``ci95``.
    """
    target = TARGETS[plan.target]
    labels = [column.label for column in target.columns]
    shown = SCALES[plan.scale][target.family].columns
    summary = []
    for row, column, folders in plan.cells:
        folders = [folder for folder in folders if folder in done]
        paper = dict(zip(labels, row.paper, strict=False)).get(column.label)
        seconds = [
            _seconds(Path(workdir, folder), plan.runs[folder], row.finetune)
            / done[folder].get("side_by_side", 1)  # trained side by side, in this time together
            for folder in folders
        ]
        for name, metric in target.metrics.items():
            pairs = [
                outcomes(Path(workdir, folder), plan.runs[folder], metric, row.finetune)
                for folder in folders
            ]
            last, best = ([pair[i] for pair in pairs] for i in (0, 1))
            if target.error:
                last, best = ([100 - value for value in values] for values in (last, best))
            summary.append(
                {
                    "row": row.label,
                    "column": name or shown.get(column.label, column.label),
                    "paper": paper,
                    "quoted": not row.method,
                    "seeds": len(last),
                    "seconds": float(np.mean(seconds)) if seconds else None,
                    "last": _interval(last),
                    "best": _interval(best),
                }
            )
    return summary


def comparisons(plan, summary, done):
    """A target's further tables: ``{title: [{row, column, values, mean, ci95}]}``.

    Differences from one row, seed by seed, and how well the runs tell the wrong labels.
    """
    against = TARGETS[plan.target].against
    base = {e["column"]: e["last"]["values"] for e in summary if e["row"] == against}
    gains, areas = [], []
    for entry in summary:
        values, others = entry["last"]["values"], base.get(entry["column"], [])
        paired = zip(values, others, strict=True) if len(values) == len(others) else ()
        place = {"row": entry["row"], "column": entry["column"]}
        gains.append(place | _interval([value - other for value, other in paired]))
    for row, column, folders in plan.cells:
        known = [done[folder]["margin_auroc"] for folder in folders if folder in done]
        known = [100 * area for area in known if area is not None]  # none without wrong labels
        areas.append({"row": row.label, "column": column.label} | _interval(known))
    return {f"Test accuracy above {against}'s, paired by seeds:": gains, _AUROC: areas}


def _wide(entries):
    """Entries as a Markdown table, a row a method and a column a setting."""
    columns = list(dict.fromkeys(entry["column"] for entry in entries))
    rows = itertools.groupby(entries, key=lambda entry: entry["row"])
    lines = [[label, *(_cell(entry) for entry in group)] for label, group in rows]
    return reports.to_markdown(["method", *columns], lines)


def outcomes(folder, config, metric, finetuned):
    """A metric of a run in percent: the last and the best of its evaluations.

    With ``finetuned``, of those during the steps on the clean set; else of those before.
    """
    values = [
        100 * line[metric]
        for line in files.read_metrics(folder)
        if metric in line and (line["step"] > config.steps) == finetuned
    ]
    return values[-1], max(values)


def _course(folder, config):
    """The last chunk's metrics of a run's main phase, and its largest gradient norm."""
    lines = [line for line in files.read_metrics(folder) if line["step"] <= config.steps]
    largest = max((line.get("grad_norm_max") or 0.0 for line in lines), default=None)
    return {"last_chunk": lines[-1], "largest_grad_norm": largest}


def _seconds(folder, config, finetuned):
    """How long the steps took, those on the clean set only with ``finetuned``."""
    lines = files.read_metrics(folder)
    return sum(
        config.log_every / line["steps_per_second"]
        for line in lines
        if finetuned or line["step"] <= config.steps
    )


def table(summary):
    """The summary as a Markdown table, a row a method; the paper's values beside ours."""
    columns = list(dict.fromkeys(entry["column"] for entry in summary))
    papers = {e["column"] for e in summary if e["paper"]}
    header = ["method"]
    for column in columns:
        header += [f"{column}, last", "best epoch"] + ["paper"] * (column in papers)
    lines = []
    rows = itertools.groupby(summary, key=lambda entry: entry["row"])
    for label, entries in rows:
        by_column = {entry["column"]: entry for entry in entries}
        cells = [label]
        for column in columns:
            entry = by_column[column]
            ours = [_cell(entry["last"]), _cell(entry["best"])]
            cells += ["quoted, not run", "-"] if entry["quoted"] else ours
            cells += [entry["paper"] or "-"] * (column in papers)
        seeds = dict.fromkeys(str(entry["seeds"]) for entry in by_column.values())
        seconds = [entry["seconds"] for entry in by_column.values() if entry["seconds"]]
        lines.append([*cells, ", ".join(seeds), f"{np.mean(seconds):.0f}" if seconds else "-"])
    return reports.to_markdown([*header, "seeds", "s a run"], lines)


def caption(plan, done, command, note, failed):
    """What the table shows, at what size, and how it was made."""
    target, scale = TARGETS[plan.target], SCALES[plan.scale][TARGETS[plan.target].family]
    sizes = "the paper's protocol" if plan.scale == "paper" else "reduced, not the paper's protocol"
    sentences = [
        f"**{target.title}**, mean ± 95 % interval over seeds; the last iterate, and the best "
        "epoch only beside it.",
        f"Scale `{plan.scale}`, {sizes}: {_sizes(plan, scale)}.",
    ]
    made_with = {f"{run['device']}, JAX {run['versions']['jax']}" for run in done.values()}
    sentences.append(f"`{command}`, on {' and '.join(sorted(made_with)) or 'no device yet'}.")
    if len(done) < len(plan.runs):
        sentences.append(f"Incomplete: {len(done)} of {len(plan.runs)} runs are done.")
    if failed:
        sentences.append(f"Could not go on, and count in no mean: {', '.join(failed)}.")
    return "\n".join(sentences + [note] * bool(note))


def _sizes(plan, scale):
    """The sizes of the runs; where they differ between columns, all of them."""
    configs = list(plan.runs.values())
    if not configs:
        return "nothing that is run"

    def each(field):
        return "/".join(dict.fromkeys(f"{config[field]:,}" for config in configs))

    main = max(configs, key=lambda config: config.steps)
    data, models = (
        "/".join(dict.fromkeys(config[field] for config in configs))
        for field in ("dataset", "model")
    )
    text = f"{data}, {models}, {main.dtype}, {main.steps:,} steps"
    short = [plan.runs[cell.runs[0]] for cell in plan.cells if cell.row.short]
    if short:
        text += f" (ES: {short[0].steps:,}, drops after {list(short[0].boundaries)})"
    if any(cell.row.finetune for cell in plan.cells):
        text += f", FT {scale.finetune_steps:,} steps"
    text += f", rate {main.learning_rate:g}"
    if main.boundaries:
        text += f", a tenth of it after {list(main.boundaries)}"
    text += f", batch {main.batch_size}, clean batch {each('clean_batch_size')}"
    return text + f", clean images {each('clean_size')}"


def _interval(values):
    mean, ci95 = reports.mean_interval(values) if values else (None, None)
    return {"values": values, "mean": mean, "ci95": ci95}


def _cell(value):
    if value["mean"] is None:
        return "-"
    mean = f"{value['mean']:.2f}"
    return mean if value["ci95"] is None else f"{mean} ± {value['ci95']:.2f}"


def _curves(plan, workdir, done):
    """``{row: {metric's name: {step: [value of each seed]}}}`` in percent."""
    curves: dict = {}
    for row, _, folders in plan.cells:
        for folder in folders:
            for line in files.read_metrics(Path(workdir, folder)) if folder in done else ():
                if line["step"] > plan.runs[folder].steps:
                    break
                for name, metric in TARGETS[plan.target].metrics.items():
                    if metric in line:
                        steps = curves.setdefault(row.label, {}).setdefault(name, {})
                        steps.setdefault(line["step"], []).append(100 * line[metric])
    return curves
