"""The files below a folder of pictures: links are followed, and what is left out is named."""

import os
import re
from collections import deque
from pathlib import Path
from typing import NamedTuple

from l2rw_jax.audit.errors import AuditError
from l2rw_jax.audit.tables import listed
from l2rw_jax.data.pictures import is_system_file

_NAMES = r"(train|training|val|valid|validation|dev|eval|test|testing|holdout|fold)[-_ ]?(set|\d*)"
_PART = re.compile(_NAMES)
_PART_OF = re.compile(rf"(.*[-_ .])?{_NAMES}")  # such as images_train
_TOLD = 5  # reasons for which files are left out; summary.json has them all


class Found(NamedTuple):
    """Files as sorted paths relative to the folder; and by path, why others are left out."""

    names: list[str]
    left_out: dict[str, str]


def find_files(folder: Path, *, classes: bool = False) -> Found:
    """The files below a folder, without hidden ones.

    Args:
        folder: what --images names.
        classes: whether a class is the folder at the top that a file lies in. Files in none are
            left out, and folders without files.

    Raises:
        AuditError: no such folder, no file in it, a name that is not UTF-8; or folders at the top
            that are no classes but the parts of a data set.
    """
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise AuditError(f"--images={folder}: {what}")
    names, left_out, tops = _walk(folder)
    strange = [name for name in (*names, *left_out) if not is_utf8(name)]
    if strange:
        more = f", and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise AuditError(
            f"--images={folder}: holds {strange[0]!r}, whose name is not UTF-8{more}: rename it"
        )
    if not names:
        raise AuditError("; ".join([f"--images={folder}: holds no files", *told(left_out)[:1]]))
    if not classes:
        return Found(names, left_out)
    inside = [name for name in names if "/" in name]
    if not inside:
        raise AuditError(
            f"--images={folder}: its files lie in no subfolders: make one folder a class, or "
            "give --labels and --id_column with the files' names"
        )
    _refuse_parts(folder, inside)
    loose = [name for name in names if "/" not in name]
    full = {name.partition("/")[0] for name in inside}
    empty = [top for top in tops if top[:-1] not in full and top not in left_out]
    left_out |= dict.fromkeys(loose, "in no class folder") | dict.fromkeys(empty, "an empty folder")
    return Found(inside, left_out)


def told(left_out: dict[str, str]) -> list[str]:
    """Lines that name files left out, one for each of the commonest reasons."""
    groups: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        groups.setdefault(reason, []).append(name)
    reasons = sorted(groups, key=lambda reason: -len(groups[reason]))
    lines = [f"{len(groups[r])} left out ({r}): {listed(groups[r], 3)}" for r in reasons[:_TOLD]]
    rest = sum(len(groups[reason]) for reason in reasons[_TOLD:])
    return [*lines, f"{rest} left out for other reasons"] if rest else lines


def _walk(folder: Path) -> tuple[list[str], dict[str, str], list[str]]:
    """The files; what is left out, and why; and the folders at the top."""
    names: list[str] = []
    left_out: dict[str, str] = {}
    tops: list[str] = []
    above = {_identity(path) for path in (folder.resolve(), *folder.resolve().parents)}
    # Folders to list, each with those that are read in its class: two classes may share one.
    waiting: deque[tuple[str, set[tuple[int, int]]]] = deque([("", set())])
    while waiting:
        prefix, read = waiting.popleft()
        try:
            entries = sorted(os.scandir(folder / prefix), key=lambda e: (e.is_symlink(), e.name))
        except OSError as error:
            left_out[prefix] = error.strerror or "cannot be listed"
            continue
        for entry in entries:
            if is_system_file(entry.name):
                continue
            name, is_folder = prefix + entry.name, _is_folder(entry)
            name += "/" * is_folder
            if entry.name.startswith("."):
                left_out[name] = "hidden"
            elif not is_folder:
                names.append(name)
            else:
                place, read_here = _identity(folder / name), read if prefix else set()
                if place in above or place in read_here:
                    left_out[name] = "a folder that is read already"
                    continue
                read_here.add(place)
                waiting.append((name, read_here))
                tops += [] if prefix else [name]
    return sorted(names), dict(sorted(left_out.items())), tops


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def is_utf8(name: str) -> bool:
    """Whether a file's name, as Python has it, can be written as text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_parts(folder: Path, names: list[str]) -> None:
    """Raises AuditError if the folders at the top are train, test and so on, with classes below."""
    tops = sorted({name.partition("/")[0] for name in names})
    flat = {name.partition("/")[0] for name in names if name.count("/") == 1}
    parts = [top for top in tops if (_PART if top in flat else _PART_OF).fullmatch(top.lower())]
    if len(tops) == 1 and not parts and not flat:
        raise AuditError(
            f"--images={folder}: one folder alone, {tops[0]!r}: if its folders are the classes, "
            f"use --images={folder / tops[0]}"
        )
    if parts == tops or (len(parts) > 1 and not flat.intersection(parts)):
        first = next((part for part in parts if "train" in part.lower()), parts[0])
        remedy = (
            f"use --images={folder / first}" if first not in flat else "make one folder a class"
        )
        raise AuditError(
            f"--images={folder}: its folders {listed(parts)} are the parts of a data set, not "
            f"classes: {remedy}"
        )
