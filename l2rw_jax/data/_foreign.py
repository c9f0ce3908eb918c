"""Files from elsewhere, read as data: regular files only, and no more than they say they hold.

What is wrong with a file's content is a ``ValueError`` of one line, whatever its parser raises;
what is wrong with its place is an ``OSError``.
"""

import contextlib
import errno
import json
import math
import os
import stat
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from l2rw_jax.data._check import reason

_JSON_BYTES = 2**26  # read at most; in memory it takes up to 20 times as much


class Header(NamedTuple):
    """What an array's header says of it."""

    shape: tuple[int, ...]
    dtype: np.dtype


def open_regular(path: Path) -> BinaryIO:
    """Opens a file to read; raises OSError for what may block or never end: FIFOs and devices."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.open("rb")


def read_json(path: Path) -> Any:
    """The value in a JSON file of at most 64 MiB.

    Raises:
        ValueError: it is larger, or is no JSON; NaN and infinities are none.
        OSError: there is no such regular file.
    """
    with open_regular(path) as file:
        text = file.read(_JSON_BYTES + 1)
    if len(text) > _JSON_BYTES:
        raise ValueError(f"{path.name} is larger than {_JSON_BYTES >> 20} MiB")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no JSON ({reason(error)})") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


@contextlib.contextmanager
def open_arrays(path: Path, *, compressed: bool = True) -> Iterator["Arrays"]:
    """Opens an .npz file.

    Args:
        path: the file.
        compressed: whether arrays may be compressed; if not, they are no larger than the file.

    Raises:
        ValueError: it is no .npz, or a damaged one.
        OSError: there is no such regular file.
    """
    with open_regular(path) as file:
        with _damage(path.name):
            archive = zipfile.ZipFile(file)
        with archive:
            yield Arrays(path, archive, compressed)


class Arrays:
    """The arrays of an .npz file: a header can be looked at before its array is read.

    Args:
        path: the file.
        archive: the file, opened.
        compressed: as of `open_arrays`.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, compressed: bool):
        self._archive, self._free = archive, _half_of_memory()
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        self._members = {info.filename.removesuffix(".npy"): info for info in members}
        self.names = list(self._members)
        if len(members) > len(self.names):
            raise ValueError(f"{path.name} holds two arrays of one name")
        # NumPy deflates, others take too much memory.
        self._kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[: 1 + compressed]
        stored = [info for info in members if info.compress_type == zipfile.ZIP_STORED]
        if sum(info.file_size for info in stored) > path.stat().st_size:
            raise ValueError(f"{path.name} is smaller than its arrays")

    def header(self, name: str) -> Header:
        """The shape and dtype of an array that is as large as these say."""
        info = self._members[name]
        if info.compress_type not in self._kinds:
            raise ValueError(f"{name} is compressed")
        with _damage(name), self._archive.open(info) as member:
            shape, _, dtype = _HEADERS[np.lib.format.read_magic(member)](member)
            size = info.file_size - member.tell()
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects")
        whole = all(type(length) is int and length >= 0 for length in shape)
        if not whole or not dtype.itemsize or math.prod(shape) * dtype.itemsize != size:
            raise ValueError(f"{name} is damaged: {dtype} {list(shape)} are not {size} bytes")
        return Header(shape, dtype)

    def read(self, name: str) -> np.ndarray:
        """An array; all that are read may take half of the machine's memory."""
        header = self.header(name)
        self._free -= math.prod(header.shape) * header.dtype.itemsize
        if self._free < 0:
            raise ValueError(f"{name} does not fit into half of this machine's memory")
        with _damage(name), self._archive.open(self._members[name]) as member:
            array: np.ndarray = np.lib.format.read_array(member, allow_pickle=False)
            return array


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _half_of_memory() -> int:
    """In bytes: what is read is copied once, to train on it."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


@contextlib.contextmanager
def _damage(what: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the text in a header
            yield
    except Exception as error:  # whatever zipfile, zlib or NumPy's parser of headers raises
        raise ValueError(f"{what} is damaged ({reason(error)})") from None
