"""What a file holds, by its first bytes: a wrong file is named by what it is."""

import bz2
import gzip
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import Any

from l2rw_jax._messages import reason
from l2rw_jax.audit.errors import AuditError

TABLE = ".csv or .parquet"
ARRAY = ".npy, .npz, .csv or .parquet"
# What reading a damaged compressed file raises.
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)

_HEAD = 512
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",  # an empty one
} | {b"BZh%d1AY&SY" % level: "bzip2" for level in range(1, 10)}
_OTHERS = {  # first bytes: what it is, and what to do
    b"\x28\xb5\x2f\xfd": ("a Zstandard file", "unpack it"),
    b"7z\xbc\xaf": ("a 7z archive", "unpack it"),
    b"Rar!\x1a": ("a RAR archive", "unpack it"),
    b"ARROW1\0": ("a Feather file", "save it as Parquet or CSV"),
    b"\x89HDF": ("an HDF5 file", "save it as Parquet or CSV"),
    b"CDF\1": ("a NetCDF file", "save it as Parquet or CSV"),
    b"CDF\2": ("a NetCDF file", "save it as Parquet or CSV"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "save it as CSV"),
    b"SQLite format 3": ("an SQLite database", "save the table as CSV"),
    b"$FL2@(#)": ("an SPSS file", "save it as CSV"),
    b"<stata_dta>": ("a Stata file", "save it as CSV"),
    b"MATLAB 5.0 MAT-file": ("a MATLAB file", "save it as CSV"),
    b"%PDF-": ("a PDF file", "save the table as CSV"),
    b"\x89PNG": ("a picture", "give the table of its numbers"),
    b"\xff\xd8\xff": ("a picture", "give the table of its numbers"),
    b"version https://git-lfs": ("a Git LFS pointer, not the file", "run git lfs pull"),
    b"\xff\xfe": ("UTF-16 text, which is not UTF-8", "save it as UTF-8"),
    b"\xfe\xff": ("UTF-16 text, which is not UTF-8", "save it as UTF-8"),
} | {bytes([0x80, i]): ("a pickle", "save it as Parquet or CSV") for i in range(2, 6)}
_MARKUP = {  # first letters, in any case
    b"<!doctype": ("a web page", "download the file itself"),
    b"<html": ("a web page", "download the file itself"),
    b"<?xml": ("XML", "save it as CSV"),
    b'{"': ("JSON", "save it as CSV"),
    b"[{": ("JSON", "save it as CSV"),
    b"[[": ("JSON", "save it as CSV"),
    b"@relation": ("an ARFF file", "save it as CSV"),
}


def kind_of(flag: str, path: Path, takes: str) -> str:
    """What a file holds: "npy", "npz", "parquet", or "text", which may be compressed.

    Args:
        flag: the flag that names the file, for errors.
        path: the file.
        takes: `TABLE` or `ARRAY`.

    Raises:
        AuditError: no file, or one that holds none of what the flag takes.
    """
    is_file(flag, path)
    try:
        kind = _kind(path)
    except (AuditError, *BROKEN) as error:
        raise _refused(flag, path, _reason(error), takes, "give another file") from None
    if isinstance(kind, tuple):
        raise _refused(flag, path, kind[0], takes, kind[1])
    if kind in ("npy", "npz") and takes == TABLE:
        raise _refused(flag, path, "a NumPy array", takes, "save it as a table with named columns")
    claimed = path.suffix.lower().lstrip(".")
    if kind == "text" and claimed in ("npy", "npz", "parquet"):
        raise AuditError(
            f"{flag}={path}: cannot be read as .{claimed}, which its name says; save it again"
        )
    return kind


def is_array(path: Path) -> bool:
    """Whether --features names a NumPy array, not a table; the errors are those of `kind_of`."""
    return kind_of("--features", path, ARRAY) in ("npy", "npz")


def is_file(flag: str, path: Path) -> None:
    """Raises AuditError unless the path is a file that can be read."""
    try:
        if not path.exists():
            raise AuditError(f"{flag}={path}: no such file")
        if not path.is_file():
            raise AuditError(f"{flag}={path}: not a file")
        path.open("rb").close()
    except OSError as error:
        raise AuditError(f"{flag}={path}: cannot be read: {error.strerror}") from None


def open_text(path: Path) -> Any:
    """Opens a text file for its bytes, unpacked if it is compressed."""
    with path.open("rb") as file:
        packed = _packed(file.read(_HEAD))
    if packed == "gzip":
        return gzip.open(path)
    if packed == "bzip2":
        return bz2.open(path)
    if packed == "xz":
        return lzma.open(path)
    if packed == "zip":
        archive = zipfile.ZipFile(path)
        return archive.open(_members(archive)[0])
    return path.open("rb")


def _kind(path: Path) -> str | tuple[str, str]:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    packed = _packed(head)
    if packed == "zip":
        with zipfile.ZipFile(path) as archive:
            if (named := _archive(archive)) != "text":
                return named
    if packed:
        with open_text(path) as file:
            head = file.read(_HEAD)
    elif head.startswith(b"PAR1") and _end(path) == b"PAR1":
        return "parquet"
    kind = _plain(head)
    if packed and kind != "text":
        what = "a NumPy array" if kind == "npy" else kind[0]
        return f"a compressed file ({packed}) of {what}", "unpack it"
    return kind


def _end(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-4, 2)
        return file.read()


def _plain(head: bytes) -> str | tuple[str, str]:
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for known, start in ((_OTHERS, head), (_MARKUP, text)):
        for first, named in known.items():
            if start.startswith(first):
                return named
    if b"\0" in head:
        return "bytes that are not UTF-8 text", "save the table as CSV or Parquet"
    return "text"


def _packed(head: bytes) -> str | None:
    return next((name for first, name in _PACKED.items() if head.startswith(first)), None)


def _archive(archive: zipfile.ZipFile) -> str | tuple[str, str]:
    """What a ZIP archive is: many programs' files are one."""
    names = archive.namelist()
    if any(name.startswith("xl/") for name in names):
        return "an Excel workbook", "save it as CSV"
    if "content.xml" in names:
        return "an OpenDocument file", "save it as CSV"
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch file", "save it with numpy.save"
    members = _members(archive)
    if not names or all(name.endswith(".npy") for name in members):
        return "npz"
    if len(members) != 1:
        return f"a ZIP archive of {len(members)} files", "give one of them"
    return "text"


def _members(archive: zipfile.ZipFile) -> list[str]:
    """The files of an archive, without folders and what macOS adds."""
    return [
        name
        for name in archive.namelist()
        if not name.endswith(("/", ".DS_Store")) and not name.startswith("__MACOSX/")
    ]


def _refused(flag: str, path: Path, got: str, takes: str, do: str) -> AuditError:
    return AuditError(f"{flag}={path}: got {got}; takes {takes}; {do}")


def _reason(error: Exception) -> str:
    return f"a file that cannot be read ({reason(error)})"
