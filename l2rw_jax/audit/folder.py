"""The folder of an audit: which files an audit replaces and removes there, and when.

An audit replaces the files of `FILES`; it starts only where the folder holds a whole earlier audit,
or none of these names. It removes only what this very run created. Everything else in the folder
stays as it is, and nothing beside it is touched. If a file to be replaced is not as the earlier
audit wrote it, which shows by the SHA-256 in `summary.json`, a copy goes into a new folder
``changed-...`` first.

All new files are written into a scratch folder of an unguessable name. Then they are renamed into
place one by one, `summary.json` first: by this one rename the new audit is the folder's. It names
the scratch folder; so if the process is killed between the renames, the next audit or ``--predict``
makes the rest (`whole`). If it is killed before, the earlier audit is untouched and the scratch
folder stays: no other run removes it, for its name alone does not prove whose it is.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from l2rw_jax._files import check_place, sync, write_whole
from l2rw_jax.audit.errors import AuditError
from l2rw_jax.audit.tables import listed

PROGRAM = "l2rw-audit"
SUMMARY, MODEL = "summary.json", "model"
# In the order in which they are put in place.
FILES: tuple[str, ...] = (SUMMARY, "model/model.npz", "model/config.json")
FILES += ("issues.csv", "corrected.csv", "report.html")
_SCRATCH, _CHANGED = ".l2rw-audit-unfinished-", "changed-"
_LARGEST = 2**26  # bytes of a summary.json
_BLANK = "0" * 64  # in place of summary.json's own digest


@contextlib.contextmanager
def opened(output: Path, inputs: Mapping[str, Sequence[Path]]) -> Iterator[Path]:
    """The folder of that name, made if absent, for this audit alone; checked before any work.

    Args:
        output: what --output names; a link to a folder will do.
        inputs: the files that are read, by the flags that name them.

    Raises:
        AuditError: another audit is writing there, nothing can be written there, it has one of the
            names of `FILES` and is no whole audit, or the audit would replace an input.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = output.resolve()
            if folder.exists() and not folder.is_dir():
                raise AuditError(f"--output={output}: is a file; give a new folder's name")
            stack.enter_context(_made(folder))
            stack.enter_context(_locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB))
            with whole(folder):
                _check_names(output, folder)
            _check_inputs(output, folder, inputs)
            tempfile.TemporaryFile(dir=folder).close()
        except BlockingIOError:
            raise AuditError(f"--output={output}: another audit is writing it") from None
        except (OSError, RuntimeError) as error:  # Python 3.11 calls a loop of links RuntimeError
            reason = getattr(error, "strerror", None) or error
            raise AuditError(f"--output={output}: cannot be written: {reason}") from None
        yield folder


@contextlib.contextmanager
def put(folder: Path) -> Iterator[Path]:
    """A scratch folder to write `FILES` into, which are put in place once all of them are there.

    Args:
        folder: what `opened` gave.

    Raises:
        AuditError: they cannot be written; the earlier audit is as it was.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)  # it may have gone since
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
        try:
            yield scratch
            _put(folder, scratch)
        except BaseException:
            if (_written(folder) or {}).get("scratch") != scratch.name:  # not put in place
                shutil.rmtree(scratch, ignore_errors=True)  # made above, by this run
            raise
    except OSError as error:
        if error.errno is None:  # of a picture that cannot be read
            raise
        raise AuditError(f"{folder}: cannot be written: {error.strerror}") from None


@contextlib.contextmanager
def whole(audit: Path) -> Iterator[Path]:
    """The folder of an audit, to read from: as long as it lasts, no other audit takes its place.

    If an audit was killed while it was put in place, that is done first.

    Raises:
        AuditError: it has to be done, and cannot be.
    """
    folder = audit.resolve()
    while True:
        with _locked(folder / SUMMARY, fcntl.LOCK_SH) as current:
            if current and not _left(folder):
                yield folder
                return
        with _locked(folder / SUMMARY, fcntl.LOCK_EX) as current:
            if current:
                _finish(folder)


def _put(folder: Path, scratch: Path) -> None:
    """Writes summary.json with what is known of the files; renames it, then the others."""
    earlier = _written(folder)
    summary = json.loads((scratch / SUMMARY).read_bytes())
    files = {name: _digest(scratch / name) for name in FILES[1:]} | {SUMMARY: _BLANK}
    before = earlier["files"] if earlier else {}
    summary["written"] = {"scratch": scratch.name, "before": before, "files": files}
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    head, _, tail = text.rpartition(_BLANK)
    digest = hashlib.sha256(f"{head}{_BLANK}{tail}".encode()).hexdigest()
    write_whole(scratch / SUMMARY, f"{head}{digest}{tail}".encode())
    for name in FILES:
        sync(scratch / name)
    for each in (scratch / MODEL, scratch, folder):
        sync(each)
    for name in FILES:  # the folder may have been filled since
        check_place(folder / name)
    with (
        _locked(folder / SUMMARY, fcntl.LOCK_EX),  # waits for who reads it
        _locked(scratch / SUMMARY, fcntl.LOCK_EX),  # so that the next wait
    ):
        _keep_changed(folder, [SUMMARY], before)
        os.replace(scratch / SUMMARY, folder / SUMMARY)
        sync(folder)
        _finish(folder)


def _finish(folder: Path) -> None:
    """Puts in place what an audit, whole but for that, still has in its scratch folder."""
    left = _left(folder)
    if not left:
        return
    written = _written(folder) or {}
    scratch, model = folder / written["scratch"], folder / MODEL
    try:
        if model.is_symlink():
            raise OSError(errno.ELOOP, "Is a symbolic link", str(model))
        model.mkdir(exist_ok=True)
        _keep_changed(folder, left, written["before"], written["files"])
        for name in left:
            check_place(folder / name)
            os.replace(scratch / name, folder / name)
    except OSError as error:
        raise AuditError(
            f"{folder}: a new audit is not yet in place: {error.filename}: {error.strerror}; "
            f"mend that, and the next audit or --predict puts it there from {scratch.name}"
        ) from None
    sync(model)
    sync(folder)
    for each in (scratch / MODEL, scratch):
        with contextlib.suppress(OSError):  # it holds something else
            each.rmdir()


def _left(folder: Path) -> list[str]:
    """The files of the folder's audit that are still in its scratch folder."""
    written = _written(folder)
    if written is None or not _is(stat.S_ISDIR, folder / written["scratch"]):
        return []
    return [name for name in FILES[1:] if _is(stat.S_ISREG, folder / written["scratch"] / name)]


def _keep_changed(folder: Path, names: Collection[str], *known: Mapping[str, str]) -> None:
    """Copies those files that have none of the known digests into a new folder beside them."""
    changed = [
        name
        for name in names
        if os.path.lexists(folder / name)
        and _digest(folder / name) not in [digests.get(name) for digests in known]
    ]
    if not changed:
        return
    kept = Path(tempfile.mkdtemp(prefix=_CHANGED, dir=folder))
    try:
        for name in changed:
            write_whole(kept / Path(name).name, (folder / name).read_bytes())
    except BaseException:
        shutil.rmtree(kept, ignore_errors=True)  # made above, by this run
        raise
    print(f"not as an audit wrote it, so kept in {kept}: {listed(changed)}", file=sys.stderr)


def _check_names(output: Path, folder: Path) -> None:
    audit = _written(folder) is not None
    for name in (*FILES, MODEL):
        ours = _is(stat.S_ISDIR if name == MODEL else stat.S_ISREG, folder / name)
        if not ours if audit else os.path.lexists(folder / name):
            what = "an audit without its" if audit else "something else than an audit, named"
            raise AuditError(
                f"--output={output}: holds {what} {name}; give another folder, or move that away"
            )


def _check_inputs(output: Path, folder: Path, inputs: Mapping[str, Sequence[Path]]) -> None:
    for flag, path in ((flag, path) for flag, paths in inputs.items() for path in paths):
        if path.resolve() in [folder / name for name in FILES]:
            raise AuditError(
                f"{flag}={path}: is a file that --output={output} replaces; copy it, or give "
                f"another --output"
            )


def _written(folder: Path) -> dict[str, Any] | None:
    """What summary.json says of the audit's files; None where there is no such audit."""
    try:
        summary = json.loads(_read(folder / SUMMARY))
        written = summary["written"]
        scratch, before, files = (written[name] for name in ("scratch", "before", "files"))
        named = re.fullmatch(rf"{re.escape(_SCRATCH)}\w+", scratch)
        digests = [re.fullmatch("[0-9a-f]{64}", files[name]) for name in FILES]
        ours = summary["program"] == PROGRAM and isinstance(before, dict)
        return written if ours and named and all(digests) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _digest(path: Path) -> str:
    """The SHA-256 of a file; that of summary.json leaves itself out."""
    content = _read(path)
    if path.name == SUMMARY and (written := _written(path.parent)):
        own = str(written["files"][SUMMARY])
        head, _, tail = content.rpartition(own.encode())
        content = head + _BLANK.encode() + tail
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> bytes:
    check_place(path)
    if path.name == SUMMARY and path.stat().st_size > _LARGEST:
        raise ValueError(f"{path.name} is larger than {_LARGEST >> 20} MiB")
    return path.read_bytes()


def _is(kind: Callable[[int], bool], path: Path) -> bool:
    """Whether a file or folder of that kind, and no link, is there."""
    try:
        return kind(path.lstat().st_mode)
    except OSError:
        return False


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes a folder and those above it; after an error, those that are empty go again."""
    made: list[Path] = []
    try:
        for each in (*reversed(folder.parents), folder):
            if not each.is_dir():
                each.mkdir()
                made.append(each)
        yield
    except BaseException:
        for each in reversed(made):
            with contextlib.suppress(OSError):
                each.rmdir()
        raise


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[bool]:
    """Locks a file or folder, if it is there and its file system can; the lock leaves no trace.

    Yields:
        Whether the name still stands for what was locked.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        yield True
        return
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            raise
        except OSError:
            pass  # some file systems of networks have no locks
        yield os.path.exists(path) and os.path.samestat(os.fstat(descriptor), os.stat(path))
    finally:
        os.close(descriptor)
