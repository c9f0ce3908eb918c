"""Running the pieces, one process after the other, with a record of how each ended."""

import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from experiments.accelerator.pieces import Piece
from experiments.accelerator.summary import summary
from l2rw_jax.training import workdir as files

LEAST = 20.0  # seconds: with less left nothing is started
GRACE = 90.0  # seconds that a stopped piece has to save its state


def run_all(chosen: Iterable[Piece], output: Path, record: dict[str, Any], seconds: float):
    """Runs what is not done yet; each piece leaves a line, however it ends.

    Args:
      chosen: the pieces, in order.
      output: folder of their files, of the record and the summary.
      record: what earlier calls left, ``{"pieces": {name: ...}, ...}``; written after each piece.
      seconds: time to spend in all, but for a stopped piece's last checkpoint.
    """
    end = time.monotonic() + seconds
    for piece in chosen:
        before = record["pieces"].get(piece.name, {"status": "", "seconds": 0.0})
        if before["status"] == "done":
            continue
        with whatever_comes(record, output, piece, before["seconds"]):
            status, line = run(piece, output, end - time.monotonic())
            record["pieces"][piece.name] |= {"status": status, "line": line}
        print(f"{piece.name}: {status}" + (f": {line}" if line else ""), flush=True)
    (output / "summary.md").write_text(summary(output, record))


@contextlib.contextmanager
def whatever_comes(
    record: dict[str, Any], output: Path, piece: Piece, before: float
) -> Iterator[None]:
    """Writes the record and the summary when a piece ends, Ctrl-C included."""
    started = time.monotonic()
    command = shlex.join(["python", "-m", *piece.command])
    record["pieces"][piece.name] = {"status": "stopped", "line": "", "command": command}
    try:
        yield
    finally:
        seconds = before + time.monotonic() - started
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
