"""Many starts of the programs for the price of one: what they import is imported once."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORK = """
import importlib, json, os, runpy, sys, traceback

folder, starts, imported = sys.argv[1], *map(json.loads, sys.argv[2:])
for name in imported:
    importlib.import_module(name)
statuses = []
for i, (program, *arguments) in enumerate(starts):
    child = os.fork()
    if not child:
        for number, name in enumerate(("out", "err"), 1):
            os.dup2(os.open(f"{folder}/{i}.{name}", os.O_WRONLY | os.O_CREAT), number)
        sys.argv[1:] = arguments
        status = 1
        try:
            runpy.run_module(f"experiments.{program}", run_name="__main__", alter_sys=True)
            status = 0
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)  # to take the interpreter down takes longer than most starts
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(statuses))
"""


def run(program, starts, folder, **environment):
    """Runs ``python -m experiments.PROGRAM`` with each list of arguments, in a process of its own.

    Returns, of each, the exit status and what it wrote to stdout and to stderr.
    """
    return _run([[program, *arguments] for arguments in starts], folder, **environment)


def check_refusals(mistakes, folder, imported=()):
    """Each start ends with status 2 and one line on stderr, and leaves no file in the repository.

    Args:
      mistakes: ``{program: {arguments as in a shell: what the line must contain}}``.
      folder: for what the starts write to stdout and stderr.
      imported: modules to import once, before the starts; they must not define flags.
    """
    starts = [
        (program, arguments, message)
        for program, messages in mistakes.items()
        for arguments, message in messages.items()
    ]
    places = [ROOT, ROOT / "results"]
    before = [sorted(place.iterdir()) for place in places]
    done = _run(
        [[program, *shlex.split(arguments)] for program, arguments, _ in starts],
        folder / "done",
        imported,
    )
    for (status, _, errors), (program, arguments, message) in zip(done, starts, strict=True):
        assert status == 2, f"{program} {arguments}: {errors}"
        only_line = message in errors and len(errors.splitlines()) == 1
        assert only_line, f"{program} {arguments}: {errors}"
    assert [sorted(place.iterdir()) for place in places] == before


def _run(starts, folder, imported=(), **environment):
    folder.mkdir()
    starts = json.dumps([list(map(str, start)) for start in starts])
    imported = json.dumps(["experiments.programs", "l2rw_jax.reports", *imported])
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(folder), starts, imported],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""} | environment,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    return [
        (status, *((folder / f"{i}.{name}").read_text() for name in ("out", "err")))
        for i, status in enumerate(json.loads(done.stdout))
    ]
