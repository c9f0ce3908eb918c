"""Many starts of one program for the price of one: what it imports is imported once."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FORK = """
import json, os, runpy, sys
import experiments.cli, l2rw_jax.reports

program, folder, starts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
statuses = []
for i, arguments in enumerate(starts):
    child = os.fork()
    if not child:
        for number, name in enumerate(("out", "err"), 1):
            os.dup2(os.open(f"{folder}/{i}.{name}", os.O_WRONLY | os.O_CREAT), number)
        sys.argv[1:] = arguments
        runpy.run_module(program, run_name="__main__", alter_sys=True)
        sys.exit()
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(statuses))
"""


def run(program, starts, folder, **environment):
    """Runs ``python -m experiments.PROGRAM`` with each list of arguments, in a process of its own.

    Returns, of each, the exit status and what it wrote to stdout and to stderr.
    """
    folder.mkdir()
    starts = json.dumps([list(map(str, arguments)) for arguments in starts])
    done = subprocess.run(
        [sys.executable, "-c", FORK, f"experiments.{program}", str(folder), starts],
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
