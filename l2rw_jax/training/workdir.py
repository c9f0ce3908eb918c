"""The files that a run leaves: config.json, metrics.jsonl, weights.npz and result.json."""

import contextlib
import fcntl
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from l2rw_jax.training.config import ConfigError

CONFIG, RESULT = "config.json", "result.json"

StrPath = str | os.PathLike[str]


def check_workdir(workdir: StrPath, config: ConfigDict) -> dict[str, Any] | None:
    """Returns the result of the same run if ``workdir`` holds it, else None.

    Raises:
      ConfigError: ``workdir`` holds a run of another config, or is no folder.
    """
    workdir = Path(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"workdir: {workdir} is a file; takes a folder.")
    if not (workdir / "config.json").exists():
        for name in ("metrics.jsonl", "checkpoints", RESULT):
            if (workdir / name).exists():
                raise ConfigError(
                    f"workdir: {workdir} holds {name} of a run without its config.json; take "
                    "another folder, or remove that one."
                )
        return None
    try:
        found = flatten(json.loads((workdir / "config.json").read_text()))
    except (ValueError, AttributeError):
        raise ConfigError(
            f"workdir: {workdir}/config.json is not a config; take another folder, or remove that "
            "one."
        ) from None
    wanted = flatten(to_json(config.to_dict()))
    for field in sorted(found.keys() | wanted.keys()):
        if found.get(field) != wanted.get(field):
            raise ConfigError(
                f"workdir: {workdir} holds a run of another config: its {field} is "
                f"{found.get(field)!r}, not {wanted.get(field)!r}; take another folder, or remove "
                "that one."
            )
    result = workdir / RESULT
    return json.loads(result.read_text()) if result.exists() else None


@contextlib.contextmanager
def locked(workdir: StrPath) -> Iterator[None]:
    """Creates the folder and keeps other processes out of it.

    Raises:
      ConfigError: another process has it, or it cannot be written.
    """
    try:
        Path(workdir).mkdir(parents=True, exist_ok=True)
        file = Path(workdir, ".lock").open("w")  # noqa: SIM115 - closed below
    except OSError as error:
        raise ConfigError(f"workdir: {workdir} cannot be written: {error.strerror}.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"workdir: {workdir} is in use by another process; wait for it, or take another."
            ) from None
        yield


def append_metrics(workdir: StrPath, line: dict[str, Any]) -> None:
    """Adds one line to metrics.jsonl."""
    with Path(workdir, "metrics.jsonl").open("a") as file:
        file.write(json.dumps(to_json(line)) + "\n")


def read_metrics(workdir: StrPath) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, as dicts."""
    return [json.loads(line) for line in Path(workdir, "metrics.jsonl").read_text().splitlines()]


def keep_metrics(workdir: StrPath, step: int, *, rewrite: bool = True) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl up to ``step``; with ``rewrite`` the others are dropped."""
    path = Path(workdir, "metrics.jsonl")
    kept = []
    for line in path.read_text().splitlines() if path.exists() and step else []:
        kept.append(json.loads(line))
        if kept[-1]["step"] == step:  # what follows may be torn
            break
    if rewrite:
        temporary = Path(f"{path}.tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(temporary, path)
    return kept


def write_weights(
    workdir: StrPath, mean_weights: ArrayLike, weight_counts: ArrayLike, corrupted: ArrayLike
) -> None:
    """Writes what each training example weighed, ``[n]`` each, to weights.npz."""
    np.savez(
        Path(workdir, "weights.npz"),
        mean_weight=mean_weights,
        count=weight_counts,
        corrupted=corrupted,
    )


def write_json(path: StrPath, value: Any) -> None:
    """Writes ``value`` as JSON, whole or not at all."""
    temporary = Path(f"{path}.tmp")
    temporary.write_text(json.dumps(to_json(value), indent=2) + "\n")
    os.replace(temporary, path)


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


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dict as one dict with dotted keys.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def environment() -> dict[str, Any]:
    """The device and the versions that a result was made with."""
    device = jax.devices()[0]
    packages = ("l2rw_jax", "jax", "jaxlib", "flax", "optax", "numpy")
    versions = {name: _version(name) for name in packages}
    return {
        "device": f"{device.device_kind} x{jax.device_count()} ({os.cpu_count()} host cores)",
        "versions": {"python": platform.python_version()} | versions,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "not installed"
