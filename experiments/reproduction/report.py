"""From finished runs to a table beside the paper's, a JSON file and a figure in its form."""

import itertools
from pathlib import Path

import numpy as np

from experiments.reproduction.scales import SCALES
from experiments.reproduction.targets import TARGETS
from l2rw_jax import reports
from l2rw_jax.reports import figures
from l2rw_jax.training import workdir as files


def write(plan, workdir, output, about):
    """Writes OUTPUT.json, OUTPUT.md and, of a figure, OUTPUT.png; returns the table.

    Args:
      plan: a ``Plan``, of which as much is reported as has been run.
      workdir: the runs' folder.
      output: start of the files' names.
      about: what the JSON file says besides: the command, device, versions and a note.
    """
    done = finished(plan, workdir)
    summary = summarize(plan, workdir, done)
    target = TARGETS[plan.target]
    text = f"{caption(plan, done, about)}\n\n{table(summary)}\n"
    Path(f"{output}.md").write_text(text)
    protocols = {folder: _protocol(plan.runs[folder]) for folder in done}
    runs = [{"folder": folder} | protocols[folder] | result for folder, result in done.items()]
    curves = _curves(plan, workdir, done) if len(target.metrics) > 1 else {}
    files.write_json(
        f"{output}.json",
        {"target": plan.target, "scale": plan.scale}
        | about
        | {"summary": summary, "curves": curves, "runs": runs},
    )
    title = f"{target.title}\n{plan.scale} scale, mean and 95 % interval"
    title += f"\n{about['note']}" if about["note"] else ""
    if curves:
        _plot_curves(curves, f"{output}.png", title)
    elif target.axis and done:
        _plot_lines(summary, f"{output}.png", title, target)
    return text


def finished(plan, workdir):
    """``{folder: result}`` of the runs that are done, each with the seconds of its training."""
    done = {}
    for folder, config in plan.runs.items():
        result = files.check_workdir(Path(workdir, folder), config)
        if result is not None:
            lines = files.read_metrics(Path(workdir, folder))
            seconds = sum(config.log_every / line["steps_per_second"] for line in lines)
            done[folder] = result | {"seconds": seconds}
    return done


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
    summary = []
    for row, column, folders in plan.cells:
        folders = [folder for folder in folders if folder in done]
        paper = dict(zip(labels, row.paper, strict=False)).get(column.label)
        seconds = [done[folder]["seconds"] for folder in folders]
        for name, metric in target.metrics.items():
            pairs = [
                outcomes(Path(workdir, folder), plan.runs[folder], metric, row.finetune)
                for folder in folders
            ]
            last, best = ([value for pair in pairs for value in pair[i]] for i in (0, 1))
            if target.error:
                last, best = ([100 - value for value in values] for values in (last, best))
            summary.append(
                {
                    "row": row.label,
                    "column": name or column.label,
                    "paper": paper,
                    "quoted": not row.method,
                    "seeds": len(last),
                    "seconds": float(np.mean(seconds)) if seconds else None,
                    "last": _interval(last),
                    "best": _interval(best),
                }
            )
    return summary


def outcomes(folder, config, metric, finetuned):
    """A metric of a run in percent: ``(last, best)`` of its evaluations, a list over seeds each.

    Without ``finetuned`` what comes after ``config.steps`` does not count.
    """
    end = config.steps + (config.finetune_steps if finetuned else 0)
    values = [
        100 * np.atleast_1d(line[metric])
        for line in files.read_metrics(folder)
        if metric in line and line["step"] <= end
    ]
    return values[-1].tolist(), np.max(values, 0).tolist()


def table(summary):
    """The summary as a Markdown table, a row a method; the paper's values beside ours."""
    columns = list(dict.fromkeys(entry["column"] for entry in summary))
    papers = {e["column"] for e in summary if e["paper"]}
    header = ["method"]
    for column in columns:
        header += [f"{column}, last", "best epoch"] + ["paper"] * (column in papers)
    lines = [[*header, "seeds", "s a run"]]
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
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def caption(plan, done, about):
    """What the table shows, of what size, made how."""
    target, scale = TARGETS[plan.target], SCALES[plan.scale][TARGETS[plan.target].family]
    sizes = "the paper's protocol" if plan.scale == "paper" else "reduced, not the paper's protocol"
    sentences = [
        f"**{target.title}**, mean ± 95 % interval over seeds; the last iterate, and the best "
        "epoch only beside it.",
        f"Scale `{plan.scale}`, {sizes}: {_sizes(plan, scale)}.",
        f"`{about['command']}`, on {about['device']}, JAX {about['versions']['jax']}.",
    ]
    if len(done) < len(plan.runs):
        sentences.append(f"Incomplete: {len(done)} of {len(plan.runs)} runs are done.")
    return "\n".join(sentences + [about["note"]] * bool(about["note"]))


def _sizes(plan, scale):
    """The sizes of the runs; where they differ between columns, all of them."""
    configs = list(plan.runs.values())

    def each(field):
        return "/".join(dict.fromkeys(f"{config[field]:,}" for config in configs))

    main = configs[0]
    models = "/".join(dict.fromkeys(config.model for config in configs))
    text = f"{models}, {main.dtype}, {main.steps:,} steps"
    if scale.short:
        text += f" (ES: {scale.short['steps']:,})"
    if scale.finetune_steps:
        text += f", FT {scale.finetune_steps:,} steps"
    text += f", rate {main.learning_rate:g}, a tenth of it after {list(main.boundaries)}"
    text += f", batch {main.batch_size}, clean batch {each('clean_batch_size')}"
    return text + f", clean images {each('clean_size')}"


def _protocol(config):
    fields = ("method", "dataset", "model", "steps", "finetune_steps", "batch_size", "clean_size")
    setting = {"share": config.imbalance.share, "noise": config.noise.ratio}
    return {field: config[field] for field in fields} | setting


def _interval(values):
    mean, ci95 = reports.mean_interval(values) if values else (None, None)
    return {"values": values, "mean": mean, "ci95": ci95}


def _cell(figure):
    if figure["mean"] is None:
        return "-"
    mean = f"{figure['mean']:.2f}"
    return mean if figure["ci95"] is None else f"{mean} ± {figure['ci95']:.2f}"


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
                        values = (100 * np.atleast_1d(line[metric])).tolist()
                        steps.setdefault(line["step"], []).extend(values)
    return curves


def _plot_curves(curves, path, title):
    """Dotted training accuracy and solid hyper-validation accuracy over steps, a colour a row."""
    figure, axes = figures.new_axes()
    for color, (label, by_name) in zip(figures.COLORS, curves.items(), strict=False):
        for name, style in (("training", ":"), ("hyper-validation", "-")):
            steps = by_name[name]
            line = f"{label}, {name}"
            figures.band(axes, list(steps), list(steps.values()), line, color, style, scale=1)
    axes.set(xlabel="training step", ylabel="accuracy (%), labels noisy", title=title)
    figures.save(figure, axes, path)


def _plot_lines(summary, path, title, target):
    """The last iterate over the columns, a line a row."""
    figure, axes = figures.new_axes()
    columns = list(dict.fromkeys(entry["column"] for entry in summary))
    rows = itertools.groupby(summary, key=lambda entry: entry["row"])
    for color, (label, entries) in zip(figures.COLORS, rows, strict=False):
        known = [entry for entry in entries if entry["seeds"]]
        places = [columns.index(entry["column"]) for entry in known]
        values = [entry["last"]["values"] for entry in known]
        figures.band(axes, places, values, label, color, scale=1)
    axes.set_xticks(range(len(columns)), columns)
    kind = "balanced test error" if target.error else "test accuracy"
    axes.set(xlabel=target.axis, ylabel=f"{kind} (%), last step", title=title)
    figures.save(figure, axes, path)
