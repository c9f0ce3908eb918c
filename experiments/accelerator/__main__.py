"""Runs everything worth measuring on an accelerator: `make gpu`.

python -m experiments.accelerator --output=runs/gpu
python -m experiments.accelerator --output=runs/gpu --parts=benchmark,table2 --minutes=60
python -m experiments.accelerator --output=runs/gpu-smoke --smoke

In this order: the method's tests; the benchmark against PyTorch; scaling; Table 2; Figure 3;
Table 1. Each piece is a process of its own: if one fails, its line says why, and the others still
run. To resume, give the same command again. What is done is not run again, and training goes on
from its last checkpoint; any other piece starts anew, if the time that is left is all it may take.
Writes into OUTPUT: files and a log for each piece, pieces.json and summary.md.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from absl import flags

from experiments import cli, programs
from experiments.accelerator.pieces import pieces, run_all
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
    """Runs what is not done yet."""
    output = Path(OUTPUT.value)
    chosen = pieces(output, smoke=SMOKE.value)
    parts = programs.choose("--parts", PARTS.value, dict.fromkeys(p.part for p in chosen))
    seconds = float("inf") if MINUTES.value is None else programs.seconds(MINUTES.value)
    record = read_record(output / "pieces.json")
    names = ["summary.md", *(f"{piece.name}.log" for piece in chosen)]
    if not record["pieces"] and (taken := [name for name in names if (output / name).exists()]):
        raise ConfigError(
            f"--output: {output / taken[0]} is not of this program; give another folder."
        )
    about = environment()
    cli.create_folder(output)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the running piece as well
    end = time.monotonic() + seconds
    run_all([piece for piece in chosen if piece.part in parts], output, about | record, end)
    print("\n" + (output / "summary.md").read_text())


def read_record(path):
    """What earlier calls have recorded of their pieces."""
    if not path.exists():
        return {"pieces": {}}
    try:
        return {"pieces": dict(json.loads(path.read_text())["pieces"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(
            f"--output: {path} is damaged; delete it to run all pieces again, or give another "
            "folder."
        ) from None


def environment():
    """The device and the versions.

    Raises:
      ConfigError: there is no accelerator.
      RunError: there is one, and JAX cannot use it.
    """
    # In a process of its own: this one must not hold the device's memory.
    asked = subprocess.run([sys.executable, "-c", ABOUT], capture_output=True, text=True)
    if asked.returncode:
        last = programs.last_line(asked.stderr, "no message")
        raise RunError(f"JAX cannot use the device: {last}")
    about = json.loads(asked.stdout.splitlines()[-1])
    if about["device"].startswith("cpu") and not SMOKE.value:
        raise ConfigError("--smoke: missing, and JAX finds a CPU alone; a CPU takes --smoke.")
    return about


if __name__ == "__main__":
    programs.run(main)
