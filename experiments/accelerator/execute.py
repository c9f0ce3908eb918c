"""Running the pieces, one process after the other, with a record of how each ended."""

import contextlib
import json
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
      seconds: total time, not counting a stopped piece's last checkpoint.
    """
    end = time.monotonic() + seconds
    for piece in chosen:
        command = shlex.join(["python", "-m", *piece.command])
        new = {"status": "not run", "line": "", "seconds": 0.0, "command": command}
        entry = record["pieces"].setdefault(piece.name, new)
        if entry["status"] == "done":
            continue
        limit = time_limit(piece, entry, end - time.monotonic())
        if limit:
            with recorded(record, output, entry):
                entry |= run(piece, output, limit)
        elif entry["status"] == "not run":
            entry["line"] = "out of time (--minutes)"
        print(": ".join(filter(None, (piece.name, entry["status"], entry["line"]))), flush=True)
    write(record, output)


def time_limit(piece: Piece, entry: dict[str, Any], left: float) -> float:
    """Seconds for a piece; 0 where too few are left.

    A piece that starts anew gets twice the time in which it was cut short, or is not started: else
    short calls would repeat it for ever, and what comes after it would never run.
    """
    needed = 2 * entry.get("cut_short_after", 0.0)
    limit = min(max(60 * piece.minutes, needed), left)
    return 0.0 if limit < max(LEAST, needed) else limit


@contextlib.contextmanager
def recorded(record: dict[str, Any], output: Path, entry: dict[str, Any]) -> Iterator[None]:
    """Writes the record and the summary when a piece ends, Ctrl-C included."""
    started = time.monotonic()
    entry |= {"status": "stopped", "line": ""}
    try:
        yield
    finally:
        entry["seconds"] += time.monotonic() - started
        write(record, output)


def write(record: dict[str, Any], output: Path):
    """Writes the record and the summary."""
    files.write_json(output / "parts.json", record)
    files.write_text(output / "summary.md", summary(output, record))


def run(piece: Piece, output: Path, limit: float) -> dict[str, Any]:
    """Runs a piece for ``limit`` seconds at most; returns how it ended, as fields of its entry."""
    command = [sys.executable, "-m", *piece.command]
    if piece.bounded:  # its figure is a wish, and compiling comes on top
        command.append(f"--minutes={0.7 * limit / 60:.2f}")
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
            process.wait(limit)
        except subprocess.TimeoutExpired:
            in_time = False
        finally:
            stop(process)
    after = f"after {limit / 60:.1f} minutes"
    if in_time and process.returncode:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1].strip()[:200] if lines else "nothing was printed"
        return {"status": "failed", "line": last}
    if not in_time and piece.resumes:
        return {"status": "stopped", "line": f"{after}; the same command goes on"}
    missing = without_time(output / f"{piece.name}.json") if in_time and piece.bounded else ""
    if in_time and not missing:
        return {"status": "done", "line": ""}
    line = f"{after}{missing}; starts anew once given {2 * limit / 60:.1f} minutes"
    return {"status": "stopped", "line": line, "cut_short_after": limit}


def without_time(path: Path) -> str:
    """How many rows of a program's JSON file say that time ran out, in words; "" for none."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    missing = sum((row.get("error") or "").startswith("not run") for row in rows)
    return f", {missing} of {len(rows)} rows not run" if missing else ""


def stop(process: subprocess.Popen):
    """Ends a process, with time to save its state."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
