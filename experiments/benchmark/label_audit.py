r"""Compares the label audit with cleanlab's on data whose wrong labels are known.

python -m experiments.benchmark.label_audit --data=digits --trusted=50
python -m experiments.benchmark.label_audit --data=npz:human.npz --output=results/label-audit-human
python -m experiments.benchmark.label_audit --data=npz:human.npz --check=100 --seeds=5 \
    --output=results/label-audit-check

An .npz holds given_labels besides what ``l2rw_jax.data.load`` reads; digits get 40 % uniform noise.
The trusted rows get their true labels first ("both labels": the audit gets these and the given
ones), and no metric counts them. F1 is that of as many rows as are wrong, lowest scores first;
precision and recall are those of the flagged rows. "Test accuracy" is that of the audit's own
model; "pruned accuracy" that of one network, trained plainly on what the audit does not flag.
Every audit runs in a process of its own; GB is the peak memory of that.

``--check=N`` runs the audit, gives N suggested rows their true labels, and runs it again; cleanlab
is not needed. ``--control`` adds an audit that takes those rows' given labels for verified, though
nobody has looked at them. Writes OUTPUT.json and OUTPUT.md as it goes. Without ``--check`` it
writes OUTPUT.png too, and needs the extra ``benchmark``.
"""

import functools
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from experiments import programs
from experiments.benchmark import audits, second_audit
from l2rw_jax import _extras, data
from l2rw_jax.audit.calibrate import STRATA
from l2rw_jax.training import ConfigError
from l2rw_jax.training import workdir as files

DATA = flags.DEFINE_string("data", "digits", "digits, or npz:PATH with given_labels.")
OUTPUT = flags.DEFINE_string(
    "output", None, "Start of the files' names; by default results/label-audit-DATA[-check]."
)
TRUSTED = flags.DEFINE_integer("trusted", 1000, "How many rows are verified, drawn at random.", 2)
CHECK = flags.DEFINE_integer(
    "check", None, "How many suggested rows are checked; a multiple of ten.", 10
)
CONTROL = flags.DEFINE_bool("control", False, "With --check: also with rows not looked at.")
WORKERS = flags.DEFINE_integer("workers", 2, "Processes, with --check.", 1)
SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of trusted rows, networks, folds, noise.", 1)
STEPS = flags.DEFINE_integer("steps", None, "Of a network; by default the classifier's choice.", 1)
NOTE = flags.DEFINE_string("note", "", "What a reader of the tables should know.")


def read() -> data.Dataset:
    """The set of ``--data``, checked."""
    if CHECK.value and CHECK.value % STRATA:
        raise ConfigError(f"--check: got {CHECK.value}; takes a multiple of {STRATA}, such as 100")
    column = "given_labels" if DATA.value.startswith("npz:") else None
    try:
        dataset = data.load(DATA.value, column=column)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--data={DATA.value}: {error}") from error
    name, count = ("check", CHECK.value) if CHECK.value else ("trusted", TRUSTED.value)
    if count > (most := len(dataset.train_labels) // 2):
        raise ConfigError(f"--{name}: got {count}; takes at most {most}, half of the rows")
    if column and np.sum(dataset.given_labels != dataset.train_labels) <= count:
        raise ConfigError(f"--data={DATA.value}: more given_labels must be wrong than --{name}")
    return dataset


def output() -> str:
    """The start of the files' names."""
    return OUTPUT.value or audits.default_output(DATA.value, bool(CHECK.value))


def compare(dataset: data.Dataset, content: dict[str, Any]) -> None:
    """All audits of each seed."""
    for seed in range(SEEDS.value):
        task = audits.draw(dataset, TRUSTED.value, seed)
        content["wrong_labels"] = float(np.mean(task.given != task.true))
        for audit in audits.AUDITS:
            found = audits.alone(audit, task, seed, STEPS.value)
            pruned = audits.pruned_accuracy(task, found.flagged, seed, STEPS.value)
            rows = [{"seed": seed} | row for row in audits.rows(task, found, pruned)]
            write(content, rows, audits.table)
    audits.plot(content["rows"], f"{output()}.png")


def check(dataset: data.Dataset, content: dict[str, Any], count: int) -> None:
    """The audits of each seed before and after the check, several seeds at once: none is timed."""
    seeds = range(SEEDS.value)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS.value, mp_context=context) as pool:
        tasks = [audits.draw(dataset, count, seed) for seed in seeds]
        rounds = functools.partial(
            second_audit.rounds, steps=STEPS.value, count=count, control=CONTROL.value
        )
        for rows in pool.map(rounds, tasks, seeds):
            write(content, rows, second_audit.table)


def write(content: dict[str, Any], rows: list[dict[str, Any]], table: Any) -> None:
    """Adds rows to the two files."""
    content["rows"] += rows
    files.write_json(f"{output()}.json", content)
    files.write_text(f"{output()}.md", table(content["rows"]))
    for row in rows:
        print(f"seed {row['seed']}: {row['audit']}, AUROC {row['AUROC']:.4f}", file=sys.stderr)


def main() -> None:
    """Audits, and writes the two files after each."""
    if not CHECK.value:
        try:
            _extras.require("benchmark", "cleanlab")
        except ImportError as error:
            raise ConfigError(str(error)) from error
    dataset = read()
    programs.prepare_output("benchmark.label_audit", output(), *([] if CHECK.value else [".png"]))
    content: dict[str, Any] = programs.about("benchmark.label_audit")
    packages = ("scikit-learn",) if CHECK.value else ("scikit-learn", "cleanlab")
    content["versions"] |= {name: metadata.version(name) for name in packages}
    content |= {"note": NOTE.value, "rows": []}
    if CHECK.value:
        check(dataset, content, CHECK.value)
    else:
        compare(dataset, content)
    print(Path(f"{output()}.md").read_text())


if __name__ == "__main__":
    programs.run(main)
