"""What there is to run on an accelerator, a process for each piece, and how they are run."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from experiments import programs
from l2rw_jax.reports import to_markdown
from l2rw_jax.training import workdir as files

# The most minutes for a model's benchmark in one precision: estimates, mostly for compiling.
MODELS = {"resnet-32": 15.0, "wrn-28-10": 30.0, "vit-192-6": 15.0}
PRECISIONS = ("float32", "tf32", "bfloat16")
METHODS = ("l2rw", "baseline", "random", "evidence")
TESTS = (
    *("weights", "scores", "gradients", "transform", "mask", "micro_batches", "modes"),
    "losses",
)
# Their devices share a batch, and there may be one device alone.
ONE_DEVICE = "not share_a_batch and not shard_map and not pmap and not mesh"

LEAST = 20.0  # seconds: with less left nothing is started
GRACE = 90.0  # seconds that a stopped piece has to save its state


class Piece(NamedTuple):
    """One process.

    Attributes:
      part: what ``--parts`` calls it.
      name: its own name, and the start of the names of the files it writes.
      command: what follows ``python -m``.
      minutes: the most that it may take in one call of the program.
      resumes: whether it saves its state and goes on in the next call; others start anew.
      environment: variables of its own.
    """

    part: str
    name: str
    command: tuple[str, ...]
    minutes: float
    resumes: bool = False
    environment: dict[str, str] = {}  # noqa: RUF012 - a NamedTuple's default, never written to


def pieces(output: Path, *, smoke: bool) -> list[Piece]:
    """All pieces, those of the smoke size or those of the accelerator.

    Args:
      output: the folder of what they write; checkpoints are in ``runs`` there.
      smoke: whether to take tiny sizes, which a CPU does in minutes.
    """

    def out(name: str) -> str:
        return f"--output={output / name}"

    def within(minutes: float) -> str:  # the program's limit is a wish; compiling comes on top
        return f"--minutes={0.7 * minutes:g}"

    tests = [f"tests/test_{name}.py" for name in (TESTS[:1] if smoke else TESTS)]
    tests = ["pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", ONE_DEVICE, *tests]
    exact = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}  # the tests' tolerances are float32's
    exact |= {} if smoke else {"JAX_PLATFORMS": "cuda,cpu"}
    found = [Piece("tests", "tests", tuple(tests), 20, environment=exact)]

    for model, minutes in {"tiny": 4.0}.items() if smoke else MODELS.items():
        for precision in ("float32", "bfloat16") if smoke else PRECISIONS:
            name = f"benchmark-{model}-{precision}"
            own = ("--smoke", "--repeats=3") if smoke else (f"--models={model}",)
            own = (*own, f"--precisions={precision}", within(minutes), out(name))
            found.append(Piece("benchmark", name, ("experiments.benchmark", *own), minutes))

    size = ("--smoke",) if smoke else ()
    command = ("experiments.scaling", *size, within(20), out("scaling"))
    found.append(Piece("scaling", "scaling", command, 20))

    runs = output / "runs"
    variant, seeds = (":smoke", 2) if smoke else ("", 5)
    table2 = (
        *(f"--config=configs/cifar10_background.py{variant}", f"--seeds={seeds}"),
        *(f"--workdir={runs / 'table2'}", "--config.keep_checkpoints=1"),
    )
    for method in METHODS:
        name = f"table2-{method}"
        command = ("experiments.sweep", *table2, f"--methods={method}", out(name))
        found.append(Piece("table2", name, command, 60, resumes=True))

    scale = f"--scale={'smoke' if smoke else 'paper'}"
    for target, minutes in (("figure3", 60), ("table1", 24 * 60)):
        command = ("experiments.reproduce", f"--target={target}", scale)
        command = (*command, f"--workdir={runs}", out(target))
        found.append(Piece(target, target, command, minutes, resumes=True))
    return found


def run_all(chosen: Iterable[Piece], output: Path, record: dict[str, Any], end: float) -> None:
    """Runs what is not done yet; each piece leaves a line, however it ends.

    Args:
      chosen: the pieces, in order.
      output: folder of their files, of pieces.json and summary.md, which are written after each.
      record: what earlier calls left: ``device``, and ``pieces``, an entry for each by name.
      end: when to stop, by ``time.monotonic``, not counting a stopped piece's last checkpoint.
    """
    for piece in chosen:
        entry = record["pieces"].setdefault(piece.name, {"minutes": 0.0})
        command = shlex.join(["python", "-m", *piece.command])
        if entry.get("status") != "done" or entry.get("command") != command:
            started = time.monotonic()
            left = end - started
            needed = LEAST if piece.resumes else max(LEAST, 60 * piece.minutes)
            entry |= {"command": command, "status": "stopped"}  # Ctrl-C, unless it ends otherwise
            try:
                if left < needed:
                    entry["status"] = f"not run: of --minutes {left / 60:.1f} are left"
                    entry["status"] += f"; takes {needed / 60:.1f}"
                else:
                    entry["status"] = run(piece, output, min(60 * piece.minutes, left))
            finally:
                entry["minutes"] += (time.monotonic() - started) / 60
                files.write_json(output / "pieces.json", record)
                (output / "summary.md").write_text(summary(output, record))
        print(f"{piece.name}: {entry['status']}", flush=True)
    (output / "summary.md").write_text(summary(output, record))


def run(piece: Piece, output: Path, limit: float) -> str:
    """Runs a piece for ``limit`` seconds at most; returns how it ended, "done" if it did."""
    log = output / f"{piece.name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *piece.command],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | piece.environment,
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            how = "the same command goes on" if piece.resumes else "starts anew next time"
            return f"stopped after {limit / 60:.1f} minutes; {how}"
        finally:
            stop(process)
    if not process.returncode:
        return "done"
    last = programs.last_line(log.read_text(errors="replace"), "nothing was printed")
    return f"failed: {last}"


def stop(process: subprocess.Popen) -> None:
    """Ends a process, with time to save its state."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def summary(output: Path, record: dict[str, Any]) -> str:
    """A line for each piece, then the tables that the pieces have written, in Markdown."""
    entries = record["pieces"].items()
    ran = [[name, f"{entry['minutes']:.1f}", entry["status"]] for name, entry in entries]
    texts = [record["device"], to_markdown(["piece", "minutes", "how it ended"], ran)]
    for name, _ in entries:
        path = output / f"{name}.md"
        if path.exists():
            texts.append(f"## {name}\n\n{path.read_text().strip()}")
    return "\n\n".join(texts) + "\n"
