"""Several seeds of one config: side by side as one program, each with a folder of its own."""

import copy
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from l2rw_jax.training import workdir as files
from l2rw_jax.training.config import ConfigError, RunError
from l2rw_jax.training.loop import train_and_evaluate
from l2rw_jax.training.prepare import with_seed


def train_seeds(
    config: ConfigDict, folders: Sequence[files.StrPath], *, together: bool | None = None
) -> list[dict[str, Any]]:
    """Trains seeds ``config.seed``, ``config.seed + 1``, ..., one a folder.

    Those that are not done yet train as one program (``config.replicas``), in the folder
    ``seedsFIRST-LAST`` beside theirs; if that does not fit into the device's memory, in two, and so
    on. On a CPU they train one after the other: convolutions with a kernel each are slow there.

    Args:
      config: a config of one replica; its seed is the first.
      folders: one for each seed.
      together: whether to train them as one program; by default on accelerators.

    Returns:
      Their results, a list of dicts.

    Raises:
      ConfigError, Stopped: as ``train_and_evaluate`` does.
      RunError: some seeds cannot go on; the others are done.
    """
    if config.replicas != 1:
        raise ConfigError(f"config.replicas: got {config.replicas}; takes 1 where seeds are given.")
    configs = {config.seed + i: with_seed(config, config.seed + i) for i in range(len(folders))}
    folder_of = dict(zip(configs, map(Path, folders), strict=True))
    if together is None:
        together = jax.default_backend() != "cpu"
    if together and config.parallel == "none" and not config.stream:
        for path in folder_of[config.seed].parent.glob("seeds*-*"):  # trained, but not yet split
            first, last = map(int, path.name.removeprefix("seeds").split("-"))
            if (path / files.RESULT).exists():
                _split(with_seed(config, first), last - first + 1, path, folder_of)
        todo = [s for s, each in configs.items() if files.check_workdir(folder_of[s], each) is None]
        # Replicas are consecutive seeds.
        for _, group in itertools.groupby(enumerate(todo), lambda item: item[1] - item[0]):
            _train_together(config, [seed for _, seed in group], folder_of)
    results, errors = [], []
    for seed, each in configs.items():  # those that are done already only give their result
        try:
            results.append(train_and_evaluate(each, folder_of[seed]))
        except RunError as error:
            errors.append(f"seed {seed}: {error}")
    if errors:
        raise RunError("; ".join(errors))
    return results


def _train_together(config: ConfigDict, seeds: list[int], folder_of: Mapping[int, Path]) -> None:
    """Trains consecutive seeds as replicas, if they fit, and leaves each one's files."""
    if len(seeds) == 1:
        return
    joint = folder_of[seeds[0]].parent / f"seeds{seeds[0]}-{seeds[-1]}"
    first = with_seed(config, seeds[0])
    try:
        train_and_evaluate(_replicated(first, len(seeds)), joint)
    except RunError as error:  # one seed's end is no reason to lose the others
        logging.warning("%s: its seeds are trained one by one: %s", joint, error)
        return
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) or any(joint.glob("checkpoints/[0-9]*")):
            raise
        logging.warning("%d replicas do not fit into memory: halving", len(seeds))
        fits = False
    else:
        fits = True
    if fits:
        _split(first, len(seeds), joint, folder_of)
        return
    # Only here, behind the handler, is the memory of the attempt free again.
    shutil.rmtree(joint)
    _train_together(config, seeds[: len(seeds) // 2], folder_of)
    _train_together(config, seeds[len(seeds) // 2 :], folder_of)


def _replicated(config: ConfigDict, count: int) -> ConfigDict:
    config = copy.deepcopy(config)
    config.replicas = count
    return config


def _split(first: ConfigDict, count: int, joint: Path, folder_of: Mapping[int, Path]) -> None:
    """Writes the replicas' files, each as its seed alone would have left them, the result last."""
    result = cast(dict[str, Any], files.check_workdir(joint, _replicated(first, count)))
    lines = files.read_metrics(joint)
    with np.load(joint / "weights.npz") as arrays:
        weights = [arrays[name] for name in ("mean_weight", "count", "corrupted")]
    for i in range(count):
        config, folder = with_seed(first, first.seed + i), folder_of.get(first.seed + i)
        if folder is None or (folder / files.RESULT).exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / files.CONFIG, config.to_dict())
        own = "".join(json.dumps(_own(line, i)) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(own)
        files.write_weights(folder, *(each[i] for each in weights))
        seed = {"seed": config.seed, "replicas": count}
        figures = {name: value for name, value in result.items() if name != "seeds"}
        files.write_json(folder / files.RESULT, seed | _own(figures, i))


def _own(record: Mapping[str, Any], index: int) -> dict[str, Any]:
    """One replica's part of a record: its entry of every list."""
    return {name: x[index] if isinstance(x, list) else x for name, x in record.items()}
