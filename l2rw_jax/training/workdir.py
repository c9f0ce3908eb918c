"""The files that a run leaves: config.json, metrics.jsonl, weights.npz, result.json, ended.json."""

import contextlib
import errno
import fcntl
import io
import json
import math
import os
import platform
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from l2rw_jax import _messages
from l2rw_jax._files import StrPath, write_whole
from l2rw_jax.training.config import flatten
from l2rw_jax.training.errors import ConfigError, Ended, RunError

CONFIG, METRICS, RESULT, ENDED = "config.json", "metrics.jsonl", "result.json", "ended.json"
WEIGHTS, CHECKPOINTS, TENSORBOARD = "weights.npz", "checkpoints", "tensorboard"
LOCK = ".lock"

_WEIGHTS = ("mean_weight", "mean_margin", "count", "corrupted")
_RESULT = {"method": str, "test_accuracy": float | list}  # of several seeds, lists


def as_folder(workdir: StrPath) -> Path:
    """``workdir`` as a path.

    Raises:
      ConfigError: it is empty, or no folder of this machine's file system.
    """
    text = os.fspath(workdir)
    if not text or "\0" in text:
        raise ConfigError(f"workdir: got {text!r}; takes the name of a folder.")
    if re.match(r"\w+://", text):
        raise ConfigError(
            f"workdir: got {text}; takes a folder of this machine's file system: mount the bucket."
        )
    return Path(text)


def check_workdir(workdir: StrPath, config: ConfigDict) -> dict[str, Any] | None:
    """Returns the result of the same run if ``workdir`` holds it, else None.

    Raises:
      ConfigError: ``workdir`` holds a run of another config, or is no folder.
      Ended: the run has ended for good, without a result.
      RunError: its result cannot be read.
    """
    workdir = as_folder(workdir)
    files, folders = (CONFIG, METRICS, RESULT, ENDED, WEIGHTS), (CHECKPOINTS, TENSORBOARD)
    with _readable(workdir):
        if workdir.exists() and not workdir.is_dir():
            raise ConfigError(f"workdir: {workdir} is a file; takes a folder.")
        places = {name: workdir / name for name in files + folders}
        found = {name: path for name, path in places.items() if os.path.lexists(path)}
        for name, path in found.items():
            own_file = path.is_file() and not path.is_symlink()
            if not (path.is_dir() if name in folders else own_file):
                kind = "folder" if name in folders else "file"
                raise ConfigError(
                    f"workdir: {path} is no {kind}, as a run's is; take another folder, or remove "
                    "it."
                )
    if CONFIG not in found:
        if found:
            raise ConfigError(
                f"workdir: {workdir} holds {next(iter(found))} of a run without its {CONFIG}; take "
                "another folder, or remove that one."
            )
        return None
    try:
        held = flatten(_read_json(workdir / CONFIG))
    except RunError:
        raise ConfigError(
            f"workdir: {workdir}/{CONFIG} is not a config; take another folder, or remove that one."
        ) from None
    wanted = flatten(to_json(config.to_dict()))
    for field in sorted(held.keys() | wanted.keys()):
        if held.get(field) != wanted.get(field):
            raise ConfigError(
                f"workdir: {workdir} holds a run of another config: its {field} is "
                f"{held.get(field)!r}, not {wanted.get(field)!r}; take another folder, or remove "
                "that one."
            )
    if ENDED in found:
        try:
            reason = _read_json(workdir / ENDED, reason=str)["reason"]
        except RunError:
            reason = f"{workdir / ENDED} cannot be read."
        raise Ended(f"{reason} That run has ended; remove {workdir} to start it anew.")
    return _read_json(workdir / RESULT, **_RESULT) if RESULT in found else None


def _read_json(path: Path, **kinds: Any) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
        if isinstance(value, dict):
            missing = [key for key, kind in kinds.items() if not isinstance(value.get(key), kind)]
            if not missing:
                return value
        reason = f"its {missing[0]} is none" if isinstance(value, dict) else "no JSON object"
    except (ValueError, RecursionError):
        reason = "no JSON"
    except OSError as error:
        reason = str(error.strerror)
    raise RunError(f"{path} cannot be read: {reason}; remove it, and the run writes it again.")


@contextlib.contextmanager
def locked(workdir: StrPath) -> Iterator[None]:
    """Creates the folder and keeps other processes out of it.

    Raises:
      ConfigError: another process has it, or it cannot be written.
    """
    try:
        Path(workdir).mkdir(parents=True, exist_ok=True)
        # Never emptied, nor made behind a link: the name may be someone else's.
        lock = os.open(Path(workdir, LOCK), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise ConfigError(f"workdir: {workdir} cannot be written: {error.strerror}.") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"workdir: {workdir} is in use by another process; wait for it, or take another."
            ) from None
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # such as a name that is too long
        raise ConfigError(f"workdir: {path} cannot be read: {error.strerror}.") from None


@contextlib.contextmanager
def written(path: Path) -> Iterator[None]:
    """An error of the file system becomes a ``RunError``."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"workdir: {path} cannot be written: {error.strerror or error}; what was saved before "
            "is kept, and the same command goes on from there."
        ) from error


def remove_unsaved(workdir: StrPath) -> None:
    """Removes what a run that saved nothing has written, and the folder if it is empty then."""
    for name in (CONFIG, METRICS):
        Path(workdir, name).unlink(missing_ok=True)
    lock = Path(workdir, LOCK)
    if lock.exists() and not lock.stat().st_size:  # a run leaves it empty
        lock.unlink()
    for folder in (Path(workdir, CHECKPOINTS), Path(workdir)):
        with contextlib.suppress(OSError):  # something else is in it
            folder.rmdir()


def append_metrics(workdir: StrPath, line: dict[str, Any]) -> None:
    """Adds one line to metrics.jsonl."""
    path = Path(workdir, METRICS)
    with written(path), path.open("ab", buffering=0) as file:
        end = file.tell()
        content = (json.dumps(to_json(line)) + "\n").encode()
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(end)  # no half line
            raise


def read_metrics(workdir: StrPath) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, as dicts; damaged ones are skipped and logged."""
    path = Path(workdir, METRICS)
    try:
        written = path.read_bytes().splitlines()
    except OSError as error:
        logging.warning("%s cannot be read (%s): it starts anew", path, error.strerror)
        return []
    lines = []
    for number, text in enumerate(written, 1):
        try:
            line = json.loads(text)
            if type(line["step"]) is not int:
                raise TypeError
            lines.append(line)
        except (ValueError, RecursionError, KeyError, TypeError):
            logging.warning("%s: line %d of %d is damaged: left out", path, number, len(written))
    return lines


def keep_metrics(workdir: StrPath, step: int) -> None:
    """Drops the lines of metrics.jsonl after ``step``, and those that are damaged."""
    path = Path(workdir, METRICS)
    kept = [line for line in read_metrics(workdir) if line["step"] <= step] if step else []
    write_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def write_weights(workdir: StrPath, arrays: Mapping[str, ArrayLike]) -> None:
    """Writes the weights and margins of the training examples, ``[n]`` each, to weights.npz."""
    path = Path(workdir, WEIGHTS)
    kept: dict[str, Any] = {name: arrays[name] for name in _WEIGHTS}
    file = io.BytesIO()
    np.savez(file, **kept)
    with written(path):
        write_whole(path, file.getvalue())


def read_weights(workdir: StrPath) -> dict[str, np.ndarray]:
    """What ``write_weights`` wrote: mean_weight, mean_margin, count and corrupted.

    Raises:
      RunError: it cannot be read.
    """
    path = Path(workdir, WEIGHTS)
    try:
        with np.load(path) as arrays:
            weights = {name: arrays[name] for name in _WEIGHTS}
        if len({array.shape for array in weights.values()}) > 1:
            raise ValueError("its arrays are of unlike lengths")
        return weights
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(
            f"{path} cannot be read: {_messages.reason(error)}; remove {workdir} to train that run "
            "again."
        ) from None


def write_json(path: StrPath, value: Any) -> None:
    """Writes ``value`` as JSON, whole or not at all."""
    write_text(path, json.dumps(to_json(value), indent=2) + "\n")


def write_text(path: StrPath, text: str) -> None:
    """Writes a text, whole or not at all."""
    with written(Path(path)):
        write_whole(path, text.encode())


def to_json(value: Any) -> Any:
    """``value`` in the types that JSON has; numbers that are not finite become None."""
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, np.generic | np.ndarray | jax.Array):
        return to_json(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def environment(num_devices: int | None = None) -> dict[str, Any]:
    """The devices, by default all there are, and the versions that a result was made with."""
    kind, count = jax.devices()[0].device_kind, num_devices or jax.device_count()
    packages = ("l2rw_jax", "jax", "jaxlib", "flax", "optax", "numpy")
    versions = {name: _version(name) for name in packages}
    return {
        "device": f"{kind} x{count} ({os.cpu_count()} host cores)",
        "versions": {"python": platform.python_version()} | versions,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "not installed"
