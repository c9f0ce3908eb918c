"""Runs on an accelerator all that this project wants to know of it: `make gpu`.

python -m experiments.accelerator --output=runs/gpu
python -m experiments.accelerator --output=runs/gpu --parts=benchmark,table2 --minutes=9
python -m experiments.accelerator --output=runs/gpu-smoke --smoke

In this order: the method's tests; the benchmark against PyTorch; throughput; Table 2; Figure 3;
Table 1. Each piece is a process with a limit of its own. One that fails leaves a line, and the
others go on. The same command goes on where the last one stopped: what is done is not run again.
Writes into OUTPUT: files and a log for each piece, parts.json, summary.md.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from absl import flags

from experiments import cli, programs
from experiments.accelerator.pieces import Piece, pieces
from experiments.accelerator.summary import summary
from l2rw_jax.training import ConfigError
from l2rw_jax.training import workdir as files

OUTPUT = flags.DEFINE_string("output", "runs/gpu", "Folder for all that is written.")
PARTS = flags.DEFINE_list("parts", None, "Only these parts, as benchmark,table2.")
MINUTES = flags.DEFINE_float(
    "minutes", None, "Time to spend in all, but for the last checkpoint; no limit by default."
)
SMOKE = flags.DEFINE_bool("smoke", False, "Tiny sizes: whether all of it works; minutes on a CPU.")

LEAST = 20.0  # seconds: with less left nothing is started
GRACE = 90.0  # seconds that a stopped piece has to save its state
ABOUT = (
    "import json; from l2rw_jax.training import workdir; print(json.dumps(workdir.environment()))"
)


def main():
    """Runs what is not done yet, and writes the record and the summary after each piece."""
    output = Path(OUTPUT.value)
    chosen = pieces(output, smoke=SMOKE.value)
    parts = programs.choose("--parts", PARTS.value, dict.fromkeys(p.part for p in chosen))
    seconds = float("inf") if MINUTES.value is None else programs.seconds(MINUTES.value)
    end = time.monotonic() + seconds
    cli.create_folder(output)
    record = open_record(output)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the running piece as well
    for piece in chosen:
        before = record["pieces"].get(piece.name, {"status": "", "seconds": 0.0})
        if piece.part not in parts or before["status"] == "done":
            continue
        with whatever_comes(record, output, piece, before):
            status, line = run(piece, output, end - time.monotonic())
            record["pieces"][piece.name] |= {"status": status, "line": line}
        print(f"{piece.name}: {record['pieces'][piece.name]['status']}: {line}", flush=True)
    print("\n" + (output / "summary.md").read_text())


def open_record(output: Path) -> dict[str, Any]:
    """What earlier calls left in ``output``; a new record where there were none.

    Raises:
      ConfigError: the device is none, or they were of the other size.
    """
    path = output / "parts.json"
    # In a process of its own: this one must not hold the device's memory.
    asked = subprocess.run([sys.executable, "-c", ABOUT], capture_output=True, text=True)
    if asked.returncode:
        raise RuntimeError(asked.stderr)
    about = json.loads(asked.stdout.splitlines()[-1])
    if about["device"].startswith("cpu") and not SMOKE.value:
        raise ConfigError("--smoke: missing, and JAX finds a CPU alone; a CPU takes --smoke.")
    if not path.exists():
        return {"smoke": SMOKE.value} | about | {"pieces": {}}
    record = json.loads(path.read_text())
    if record["smoke"] != SMOKE.value:
        other = "a" if record["smoke"] else "no"
        raise ConfigError(f"--output: {output} is of {other} smoke run; takes another folder.")
    return record | about


@contextlib.contextmanager
def whatever_comes(record: dict[str, Any], output: Path, piece: Piece, before: dict[str, Any]):
    """Writes the record and the summary when a piece ends, Ctrl-C included."""
    started = time.monotonic()
    command = shlex.join(["python", "-m", *piece.command])
    record["pieces"][piece.name] = {"status": "stopped", "line": "", "command": command}
    try:
        yield
    finally:
        seconds = before["seconds"] + time.monotonic() - started
        record["pieces"][piece.name]["seconds"] = seconds
        files.write_json(output / "parts.json", record)
        (output / "summary.md").write_text(summary(output, record))


def run(piece: Piece, output: Path, left: float) -> tuple[str, str]:
    """Runs a piece for as long as there is time; how it ended, and the last line of its log."""
    seconds = min(60 * piece.minutes, left)
    if seconds < LEAST:
        return "not run", "out of time (--minutes)"
    command = [sys.executable, "-m", *piece.command]
    if piece.bounded:  # its figure is a wish, and compiling comes on top
        command.append(f"--minutes={0.7 * seconds / 60:.2f}")
    log = output / f"{piece.name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | piece.environment,
        )
        in_time = True
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            in_time = False
        finally:
            stop(process)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1].strip()[:200] if lines else "nothing was printed"
    if not in_time:
        return "stopped", f"after {seconds / 60:.1f} minutes; the same command goes on"
    return ("done", "") if process.returncode == 0 else ("failed", last)


def stop(process: subprocess.Popen):
    """Ends a process, with time to save its state."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    programs.run(main)
