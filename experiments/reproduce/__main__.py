"""Makes a table or figure of the paper again: runs what it takes, and reports beside the paper.

python -m experiments.reproduce --target=figure3 --scale=cpu --dry-run
python -m experiments.reproduce --target=figure3 --scale=cpu

Finished runs are not run again, a stopped one continues, and a run that several targets share
runs once. On two cores, two processes are fastest:

taskset -c 0 python -m experiments.reproduce --target=figure3 --scale=cpu --shard=0/2 &
taskset -c 1 python -m experiments.reproduce --target=figure3 --scale=cpu --shard=1/2
"""

import re
from pathlib import Path

import jax
from absl import flags

from experiments import cli, programs
from experiments.reproduce import report
from experiments.reproduce.plan import describe, make_plan, train
from experiments.reproduce.scales import SCALES
from experiments.reproduce.targets import TARGETS
from l2rw_jax.training import ConfigError, RunError, resolve

TARGET = flags.DEFINE_enum("target", None, list(TARGETS), "Which table or figure.")
SCALE = flags.DEFINE_enum(
    "scale",
    "smoke",
    list(SCALES),
    "paper: its protocol; cpu: a reduced one; mnist: CIFAR-10's on MNIST; smoke: a minute.",
)
DRY_RUN = flags.DEFINE_bool("dry-run", False, "Only says what would be run.")
ROWS = flags.DEFINE_list("rows", None, "Only these rows, as 'Ours,Baseline + ES'.")
COLUMNS = flags.DEFINE_list("columns", None, "Only these columns, as CIFAR-10.")
SEEDS = flags.DEFINE_integer("seeds", None, "Number of seeds; the scale's by default.", 1)
SHARD = flags.DEFINE_string("shard", "0/1", "I/N: every N-th run from the I-th on.")
NOTE = flags.DEFINE_string("note", "", "A sentence for the table, the figure and the JSON file.")
OUTPUT = flags.DEFINE_string(
    "output", None, "Start of the names of what is written; results/TARGET-SCALE-DEVICE by default."
)


def main():
    """Runs what is missing, then reports on what is done."""
    if flags.FLAGS.config is not None:
        raise ConfigError("--config: takes none; the settings are experiments/reproduce/scales.py.")
    plan = make_plan(
        TARGET.value, SCALE.value, rows=ROWS.value, columns=COLUMNS.value, seeds=SEEDS.value
    )
    workdir = Path(cli.WORKDIR.value or "runs/reproduce")
    shard, shards = parse_shard(SHARD.value)
    part = any(flag.value is not None for flag in (ROWS, COLUMNS, SEEDS))
    if part and OUTPUT.value is None and shards == 1 and not DRY_RUN.value:
        raise ConfigError(
            "--output: missing; with --rows, --columns or --seeds it takes a name of its own, as "
            "results/part, for the whole target's results are not written over."
        )
    done = report.finished(plan, workdir)  # refuses a folder that holds something else
    if DRY_RUN.value:
        print(describe(plan, workdir, done))
    todo = {
        cell.column.label: folder
        for cell in plan.cells
        for folder in cell.runs
        if folder not in done
    }
    for folder in todo.values():  # mistakes and missing data come to light first
        resolve(plan.runs[folder])
    if DRY_RUN.value:
        return
    output = OUTPUT.value
    if output is None:
        output = f"results/{plan.target}-{plan.scale}-{device_name()}"
    programs.prepare_output("reproduce", output, ".png")
    cli.create_folder(workdir, "--workdir")
    failed = train(plan, workdir, plan.groups[shard::shards])
    if shards > 1:
        print("this shard is done; the command without --shard reports, when all are")
    elif jax.process_index() == 0 and (report.finished(plan, workdir) or not failed):
        command = programs.about("reproduce")["command"]
        print("\n" + report.write(plan, workdir, output, command, NOTE.value, failed))
    if failed:
        reasons = "; ".join(f"{folder}: {reason}" for folder, reason in failed.items())
        raise RunError(f"{len(failed)} runs could not go on, the others are done: {reasons}")


def parse_shard(text):
    """``(i, n)`` of I/N."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise ConfigError(f"--shard: got {text!r}; takes I/N with I from 0 to N - 1, as 0/2.")
    return int(match[1]), int(match[2])


def device_name():
    """The device as part of a file's name, such as cpu or nvidia-h200."""
    device = jax.devices()[0]
    name = device.platform if device.platform == "cpu" else device.device_kind
    return re.sub(r"\W+", "-", name.lower())


if __name__ == "__main__":
    cli.run(main, required=["target"])
