"""Runs everything worth measuring on an accelerator: `make gpu`.

python -m experiments.accelerator --output=runs/gpu
python -m experiments.accelerator --output=runs/gpu --parts=benchmark,table2 --minutes=9
python -m experiments.accelerator --output=runs/gpu-smoke --smoke

In this order: the method's tests; the benchmark against PyTorch; throughput; Table 2; Figure 3;
Table 1. Each piece is a process with a time limit of its own. If one fails, its line says why, and
the others still run. To resume, give the same command again: what is done is not run again.
Training continues from its last checkpoint; a benchmark that ran out of time starts anew, once it
can have twice the time. Writes into OUTPUT: files and a log for each piece, parts.json, summary.md.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli, programs
from experiments.accelerator.execute import run_all
from experiments.accelerator.pieces import pieces
from l2rw_jax.training import ConfigError, RunError

OUTPUT = flags.DEFINE_string("output", "runs/gpu", "Folder for all that is written.")
PARTS = flags.DEFINE_list("parts", None, "Only these parts, as benchmark,table2.")
MINUTES = flags.DEFINE_float(
    "minutes", None, "Total time in minutes, not counting the last checkpoint; no limit by default."
)
SMOKE = flags.DEFINE_bool("smoke", False, "Tiny sizes: whether all of it works; minutes on a CPU.")

ABOUT = (
    "import json; from l2rw_jax.training import workdir; print(json.dumps(workdir.environment()))"
)


def main():
    """Runs what is not done yet, and writes the record and the summary after each piece."""
    output = Path(OUTPUT.value)
    chosen = pieces(output, smoke=SMOKE.value)
    parts = programs.choose("--parts", PARTS.value, dict.fromkeys(p.part for p in chosen))
    seconds = float("inf") if MINUTES.value is None else programs.seconds(MINUTES.value)
    record = open_record(output)
    names = ["summary.md", *(f"{piece.name}.log" for piece in chosen)]
    if not record["pieces"] and (taken := [name for name in names if (output / name).exists()]):
        raise ConfigError(f"--output: {output / taken[0]} is not of this program; takes another.")
    cli.create_folder(output)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the running piece as well
    run_all([piece for piece in chosen if piece.part in parts], output, record, seconds)
    print("\n" + (output / "summary.md").read_text())


def open_record(output: Path) -> dict[str, Any]:
    """What earlier calls left in ``output``; a new record where there were none.

    Raises:
      ConfigError: there is no accelerator, the record is damaged, or its run had the other size.
      RunError: there is one, and JAX cannot use it.
    """
    path = output / "parts.json"
    record: dict[str, Any] = {"pieces": {}, "smoke": SMOKE.value}
    if path.exists():
        try:
            found = json.loads(path.read_text())
            record = {"pieces": dict(found["pieces"]), "smoke": found["smoke"]}
        except (ValueError, KeyError, TypeError):
            remedy = "delete it to run all pieces again, or give another folder"
            raise ConfigError(f"--output: {path} is damaged; {remedy}.") from None
    if record["smoke"] != SMOKE.value:
        other = "with" if record["smoke"] else "without"
        raise ConfigError(f"--output: {output} holds a run {other} --smoke; give another folder.")
    # In a process of its own: this one must not hold the device's memory.
    asked = subprocess.run([sys.executable, "-c", ABOUT], capture_output=True, text=True)
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or ["no message"])[-1]
        raise RunError(f"JAX cannot use the device: {last}")
    about = json.loads(asked.stdout.splitlines()[-1])
    if about["device"].startswith("cpu") and not SMOKE.value:
        raise ConfigError("--smoke: missing, and JAX finds a CPU alone; a CPU takes --smoke.")
    return record | about


if __name__ == "__main__":
    programs.run(main)
