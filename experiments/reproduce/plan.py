"""From a target and a scale to the runs that they take, and training what is not done yet."""

import importlib
import sys
from typing import Any, NamedTuple

import jax

from experiments import programs
from experiments.reproduce.scales import SCALES
from experiments.reproduce.targets import TARGETS, Column, Row
from l2rw_jax._messages import reason
from l2rw_jax.training import ConfigError, RunError, train_seeds
from l2rw_jax.training.workdir import RESULT


class Cell(NamedTuple):
    """What a row is in a column.

    Attributes:
      row: the row.
      column: the column.
      runs: its runs' folders; none where it is quoted.
    """

    row: Row
    column: Column
    runs: tuple[str, ...]


class Plan(NamedTuple):
    """A target at a scale.

    Attributes:
      target: its name.
      scale: its name.
      cells: one for each row of each column, in the order of the rows.
      runs: ``{folder: config}``, one for each seed; rows with "+ FT" and without are the same run,
        and so are those of other targets with the same setting.
      groups: the folders of runs that train together, side by side.
    """

    target: str
    scale: str
    cells: list[Cell]
    runs: dict[str, Any]
    groups: list[tuple[str, ...]]


def make_plan(target_name, scale_name, *, rows=None, columns=None, seeds=None):
    """Expands a target.

    Args:
      target_name: one of ``TARGETS``.
      scale_name: one of ``SCALES``.
      rows: labels of the rows to keep; None: all.
      columns: labels of the columns to keep; None: the scale's.
      seeds: how many; None: the scale's.

    Returns:
      The ``Plan``.

    Raises:
      ConfigError: a label is none of the target's, or the scale has none of this protocol.
    """
    target = TARGETS[target_name]
    if target.family not in SCALES[scale_name]:
        takes = ", ".join(name for name, scales in SCALES.items() if target.family in scales)
        raise ConfigError(
            f"--scale: got {scale_name!r}, which {target_name} has not; takes {takes}."
        )
    scale = SCALES[scale_name][target.family]
    known = [c for c in target.columns if not scale.configs or c.config in scale.configs]
    labels = [column.label for column in known]
    if columns is None:
        columns = target.fewer.get(scale_name)
    columns = programs.choose("--columns", columns, labels)
    rows = programs.choose("--rows", rows, [row.label for row in target.rows])
    cells: list[Cell] = []
    runs: dict[str, Any] = {}
    groups: list[tuple[str, ...]] = []
    for row in target.rows:
        for column in known:
            if row.label not in rows or column.label not in columns:
                continue
            made = _runs(row, column, scale, target.family, seeds) if row.method else {}
            made = {f"{scale_name}/{folder}": config for folder, config in made.items()}
            cells.append(Cell(row, column, tuple(made)))
            runs |= made
            groups += [tuple(made)] if scale.together else [(folder,) for folder in made]
    groups = [group for group in dict.fromkeys(groups) if group]
    return Plan(target_name, scale_name, cells, runs, groups)


def _runs(row, column, scale, family, seeds):
    """The runs of a cell, ``{folder: config}``."""
    config = importlib.import_module(f"configs.{column.config}").get_config(scale.variant)
    short = scale.short if row.short else {}
    config.update_from_flattened_dict(scale.fields | short | column.fields | row.fields)
    config.clean_batch_size = min(config.clean_batch_size, config.clean_size)
    config.checkpoint_every = config.log_every  # what a stop costs at most
    if _is_finetuned(family, row):
        config.finetune_steps = scale.finetune_steps
    noise = f"{config.noise.kind}{config.noise.ratio:g}"
    dataset = programs.folder_name(config.dataset)
    setting = f"{dataset}-share{config.imbalance.share:g}-{noise}-clean{config.clean_size}"
    own = "".join(f"-{k}={v}" for k, v in row.fields.items() if k != "noise.ratio")
    method = row.method + ("-es" if row.short else "") + programs.folder_name(own)
    runs = programs.expand(config, [row.method], row.seeds or seeds or scale.seeds, None, [None])
    return {f"{family}/{setting}/{method}/seed{run.seed}": run for run, _ in runs}


def _is_finetuned(family, row):
    """Whether any target of the protocol has this row with "+ FT"."""
    return any(
        other.finetune and (other.method, other.short) == (row.method, row.short)
        for target in TARGETS.values()
        if target.family == family
        for other in target.rows
    )


def train(plan, workdir, groups):
    """Trains what is not done yet; returns ``{folder: message}`` of the runs that failed."""
    failed: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        folders = [workdir / folder for folder in group]
        try:
            results: list = train_seeds(plan.runs[group[0]], folders, together=len(group) > 1)
        except (RunError, ConfigError, jax.errors.JaxRuntimeError) as error:
            # Out of memory, or used by another process: the others may still work.
            results = [None if (folder / RESULT).exists() else error for folder in folders]
        for folder, result in zip(group, results, strict=True):
            told = "done"
            if isinstance(result, Exception):
                failed[folder] = reason(result)
                told = f"error: {failed[folder]}"
            elif result:
                told = f"test accuracy {result['test_accuracy']:.4f}"
            print(f"[{number}/{len(groups)}] {folder}: {told}")
        sys.stdout.flush()
    return failed


def describe(plan, workdir, finished):
    """The runs of a plan, which of them are done, and an estimate of the rest."""
    scale = SCALES[plan.scale][TARGETS[plan.target].family]
    lines, seconds = [], 0.0
    for folder, config in plan.runs.items():
        steps = config.steps + config.finetune_steps
        done = steps if folder in finished else steps_done(workdir / folder)
        if scale.seconds:
            kind = config.method if config.method in scale.seconds else "other"
            seconds += (steps - done) * scale.seconds[kind]
        lines.append(f"{folder}: {done:,} of {steps:,} steps done")
    time = "unknown" if scale.seconds is None else f"about {seconds / 60:.0f} minutes of one core"
    memory = "unknown" if scale.gigabytes is None else f"about {scale.gigabytes:g} GB a process"
    return "\n".join([*lines, f"{len(lines)} runs; time left: {time}; memory: {memory}"])


def steps_done(folder):
    """The step of the newest checkpoint of a run, or of the seeds that it trains beside."""
    seed = int(folder.name.removeprefix("seed"))
    places = [folder]
    for path in folder.parent.glob("seeds*-*"):
        first, last = map(int, path.name.removeprefix("seeds").split("-"))
        places += [path] * (first <= seed <= last)
    names = [path.name for place in places for path in place.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdigit()), default=0)
