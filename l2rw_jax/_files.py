"""Files written whole: a reader finds the old one or the new one, never half of one."""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

StrPath = str | os.PathLike[str]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_whole(path: StrPath, content: bytes) -> None:
    """Writes a file, or leaves the one that is there.

    Raises:
      OSError: it cannot be written; on a full disk, the error says how many bytes it takes.
    """
    try:
        with replacing(path) as file:
            file.write(content)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        folder, told = Path(path).parent, f"{os.strerror(error.errno)} for {len(content):,} bytes"
        raise OSError(error.errno, told, str(folder)) from None


@contextlib.contextmanager
def replacing(path: StrPath) -> Iterator[BinaryIO]:
    """Opens a new file that takes the place of ``path`` once all is written.

    Until then it lies beside it, under a name that nobody can guess: it is no one else's file.

    Raises:
      OSError: it cannot be written, or ``path`` is a link, a folder or a device; nothing changed.
    """
    path = Path(path)
    check_place(path)
    part = path.with_name(f".l2rw-unfinished-{secrets.token_hex(8)}")
    with part.open("xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    sync(path.parent)


def check_place(path: Path) -> None:
    """Raises OSError if something else than a regular file has the name."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "Is a symbolic link", str(path))
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Is no regular file", str(path))


def sync(path: Path) -> None:
    """Makes a file, or the names in a folder, last through a power failure, where that is known."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
