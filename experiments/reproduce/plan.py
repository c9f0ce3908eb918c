"""From a target and a scale to the runs that they take."""

import importlib
from typing import Any, NamedTuple

from experiments import programs
from experiments.reproduce.scales import SCALES
from experiments.reproduce.targets import TARGETS, Column, Row
from l2rw_jax.training import ConfigError


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
      groups: the folders of runs that train together, side by side as replicas.
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
            groups += [tuple(made)] if scale.replicas else [(folder,) for folder in made]
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
