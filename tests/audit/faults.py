"""A script: an audit into a folder is killed, or its disk is full, before each change of a file.

python faults.py FOLDER STEP, with nothing in FOLDER; of the changes, every STEP-th. Prints what was
tried and what went wrong, as JSON. The audits run in forked children.
"""

import contextlib
import errno
import io
import json
import os
import resource
import shutil
import sys
import types
from pathlib import Path

import numpy as np
from made_up import CLASSES, blobs, write_labels
from stand_in import StandIn

from l2rw_jax import _files
from l2rw_jax.audit import folder as files
from l2rw_jax.audit import output
from l2rw_jax.audit.command import main

TAKES = {"open", "os.mkdir"}  # room on the disk
CHANGES = TAKES | {"os.rename", "os.remove", "os.rmdir"}
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
ROOT = Path(*sys.argv[1:2])
OUT, EARLIER = ROOT / "out", ROOT / "earlier"
faults, tried = [], []


def write_rows(seed):
    X, _, given = blobs(40, seed=seed)
    np.save(ROOT / "x.npy", X)
    write_labels(ROOT / "labels.csv", CLASSES[given])


def run():
    """The audit's status and errors."""
    errors = io.StringIO()
    arguments = [f"--features={ROOT}/x.npy", f"--labels={ROOT}/labels.csv", f"--output={OUT}"]
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = main(arguments)
    return status, [line for line in errors.getvalue().splitlines() if "training" not in line]


def child(fault):
    """Audits in a child after ``fault()``; returns its status, and its errors."""
    with (ROOT / "told").open("w+") as told:
        pid = os.fork()
        if not pid:
            status = 70
            with contextlib.suppress(BaseException):
                fault()
                status, lines = run()
                resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
                os.write(told.fileno(), "\n".join(lines).encode())
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        told.seek(0)
        return status, told.read().splitlines()


def at_change(number, events, act):
    """A fault: ``act()`` before each change in the output's folder from that number on."""

    def fault():
        count = 0

        def hook(event, args):
            nonlocal count
            if event not in events or not str(args[0]).startswith(str(OUT)):
                return
            if event != "open" or args[2] & os.O_ACCMODE != os.O_RDONLY:
                count += 1
                if count >= number:
                    act()

        sys.addaudithook(hook)

    return fault


def full_at_sync(number):
    """A fault: the disk is found full as the file of that number is synchronised."""

    def fault():
        count, sync = 0, os.fsync

        def fsync(descriptor):
            nonlocal count
            count += 1
            if count == number:
                raise FULL
            sync(descriptor)

        _files.os = types.SimpleNamespace(**vars(os) | {"fsync": fsync})

    return fault


def full_from(size):
    """A fault: no file can have more bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, -1))


def killed():
    os._exit(9)


def full():
    raise FULL


def snapshot():
    return {
        path.relative_to(OUT).as_posix(): path.read_bytes()
        for path in OUT.rglob("*")
        if path.is_file()
    }


def is_whole():
    """Whether each file is the one that summary.json names."""
    written = files._written(OUT)
    return bool(written) and all(
        (OUT / name).is_file() and files._digest(OUT / name) == digest
        for name, digest in written["files"].items()
    )


def check(fault, before, kill):
    """What is wrong after a fault; None if it came to nothing."""
    status, lines = child(fault)
    if status == 0 and (kill or not lines):
        return None
    if status != (9 if kill else 1) or (not kill and len(lines) != 1):
        return f"status {status}, {lines}"
    with files.whole(OUT):
        found = snapshot()
    ours = {name: found.get(name) for name in files.FILES}
    foreign = {name: content for name, content in before.items() if name not in files.FILES}
    if any(found.get(name) != content for name, content in foreign.items()):
        return "a foreign file changed"
    if any(ours[name] != before.get(name) for name in files.FILES) and not is_whole():
        return f"torn: {sorted(found)}"
    others = [name for name in found if name not in files.FILES and name not in foreign]
    if others and not (kill and all(name.startswith(".l2rw-") for name in others)):
        return f"left behind: {others}"
    if not kill and not found and OUT.exists():
        return "an empty folder is left behind"
    if kill:
        status, lines = run()
        if status or not is_whole():
            return f"the next audit: {status}, {lines}"
    return ""


def try_all(name, make, numbers, earlier):
    """All faults of a kind; where the numbers are of changes, up to the last change."""
    for number in numbers:
        shutil.rmtree(OUT, ignore_errors=True)
        if earlier:
            shutil.copytree(EARLIER, OUT)
        wrong = check(make(number), snapshot(), name == "kill")
        if wrong is None and name in ("kill", "full"):
            return
        tried.append([name, number, earlier])
        if wrong:
            faults.append([name, number, earlier, wrong])


def together(times):
    """Two audits at once: one may be refused, and what is left is one of them, whole."""
    shutil.rmtree(OUT, ignore_errors=True)
    for _ in range(times):
        children = []
        for _ in range(2):
            if not (pid := os.fork()):
                os._exit(run()[0])
            children.append(pid)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        tried.append(["together", statuses])
        if sorted(statuses) not in ([0, 0], [0, 1]) or not is_whole() or len(snapshot()) != 6:
            faults.append(["together", statuses, sorted(snapshot())])


if __name__ == "__main__":
    sys.modules["l2rw_jax.classifier"] = types.ModuleType("l2rw_jax.classifier")
    sys.modules["l2rw_jax.classifier"].ReweightClassifier = StandIn
    output.environment = dict  # JAX would start threads
    write_rows(1)
    run()
    (OUT / "checked.csv").write_text("mine")
    (OUT / "model/mine.pt").write_text("mine")
    shutil.copytree(OUT, EARLIER)
    write_rows(2)
    for earlier in (False, True):
        changes = range(1, 200, int(sys.argv[2]))
        try_all("kill", lambda number: at_change(number, CHANGES, killed), changes, earlier)
        try_all("full", lambda number: at_change(number, TAKES, full), changes, earlier)
        try_all("sync", full_at_sync, [1, 7], earlier)
        try_all("size", full_from, [0, 600, 4000], earlier)
    together(3)
    print(json.dumps({"faults": faults, "tried": tried}))
