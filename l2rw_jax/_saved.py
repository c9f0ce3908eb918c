"""The two files of a saved classifier, which are replaced as one."""

import io
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from l2rw_jax._files import check_place, sync, write_whole

MODEL, CONFIG = "model.npz", "config.json"


def put(folder: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Writes both files, over those of an earlier call alone.

    The new arrays get their name last. If the process is killed before, config.json says which they
    are: see `model_file`.

    Args:
      folder: made if absent.
      arrays: for model.npz.
      about: for config.json.

    Raises:
      ValueError: the folder has a file of these names that no earlier call wrote.
      OSError: they cannot be written; the earlier ones are as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _read(folder / CONFIG)
    for name in (CONFIG, MODEL):
        check_place(folder / name)
        if earlier is None and (folder / name).exists():
            raise ValueError(
                f"folder: {folder} holds a {name} that save did not write; give another folder"
            )
    if earlier and (unfinished := model_file(folder, earlier)).name != MODEL:
        os.replace(unfinished, folder / MODEL)
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    part = folder / f".model-{secrets.token_hex(8)}.npz"
    text = json.dumps({**about, "unfinished": part.name}, indent=2) + "\n"
    try:
        write_whole(part, file.getvalue())
        write_whole(folder / CONFIG, text.encode())
    except BaseException:
        if (_read(folder / CONFIG) or {}).get("unfinished") != part.name:
            part.unlink(missing_ok=True)
        raise
    os.replace(part, folder / MODEL)
    sync(folder)


def model_file(folder: Path, about: Mapping[str, Any]) -> Path:
    """Where the arrays are that belong to a config.json."""
    part = folder / str(about.get("unfinished"))
    ours = re.fullmatch(r"\.model-[0-9a-f]{16}\.npz", part.name) and part.parent == folder
    return part if ours and part.is_file() else folder / MODEL


def _read(config: Path) -> dict[str, Any] | None:
    """What an earlier call wrote; None where there is something else, or nothing."""
    try:
        about = json.loads(config.read_text())
        return about if {"format", "parameters", "classes", "network"} <= about.keys() else None
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
