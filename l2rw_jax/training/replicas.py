"""Several seeds of one config: side by side as one program, each with a folder of its own."""

import itertools
import json
import shutil
from pathlib import Path

import jax
import numpy as np
from absl import logging

from l2rw_jax.training import workdir as files
from l2rw_jax.training.loop import train_and_evaluate
from l2rw_jax.training.prepare import with_seed


def train_seeds(config, folders, *, together=None):
    """Trains seeds ``config.seed``, ``config.seed + 1``, ..., one a folder.

    Those that are not done yet train as one program (``config.replicas``), in the folder
    ``seedsFIRST-LAST`` beside theirs; if that does not fit into the device's memory, in two, and so
    on. On a CPU one after the other is faster (results/throughput-cpu.json).

    Args:
      config: a config of one replica; its seed is the first.
      folders: one for each seed.
      together: whether to train them as one program; by default on accelerators.

    Returns:
      Their results, a list of dicts.

    Raises:
      ConfigError, RunError, Stopped: as ``train_and_evaluate`` does.
    """
    if together is None:
        together = jax.default_backend() != "cpu"
    configs = [with_seed(config, config.seed + i) for i in range(len(folders))]
    alone = not together or config.parallel != "none" or config.stream
    if not alone:
        todo = [
            (each.seed, folder)
            for each, folder in zip(configs, folders, strict=True)
            if files.check_workdir(folder, each) is None
        ]
        # Replicas are consecutive seeds.
        for _, group in itertools.groupby(enumerate(todo), lambda item: item[1][0] - item[0]):
            _train_together(config, [item for _, item in group])
    # Those that are done already only give their result.
    return [train_and_evaluate(each, f) for each, f in zip(configs, folders, strict=True)]


def _train_together(config, seeds_and_folders):
    """Trains consecutive seeds as replicas and leaves each one's files in its folder."""
    (first, folder), *_ = seeds_and_folders
    if len(seeds_and_folders) == 1:
        return
    joint_config = with_seed(config, first)
    joint_config.replicas = len(seeds_and_folders)
    joint = Path(folder).parent / f"seeds{first}-{first + joint_config.replicas - 1}"
    try:
        train_and_evaluate(joint_config, joint)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        logging.warning("%d replicas do not fit into memory: halving", joint_config.replicas)
        shutil.rmtree(joint)
        half = len(seeds_and_folders) // 2
        _train_together(config, seeds_and_folders[:half])
        _train_together(config, seeds_and_folders[half:])
        return
    for i, (seed, each) in enumerate(seeds_and_folders):
        _split(with_seed(config, seed), joint, i, each)


def _split(config, joint, index, folder):
    """Writes one replica's files, as its seed alone would have left them, the result last."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    files.write_json(f"{folder}/{files.CONFIG}", config.to_dict())
    lines = [_own(line, index) for line in files.read_metrics(joint)]
    Path(folder, "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with np.load(joint / "weights.npz") as arrays:
        files.write_weights(
            folder, *(arrays[name][index] for name in ("mean_weight", "count", "corrupted"))
        )
    result = json.loads((joint / files.RESULT).read_text())
    seeds = result.pop("seeds")
    result = {"seed": seeds[index]} | _own(result, index) | {"replicas": len(seeds)}
    files.write_json(f"{folder}/{files.RESULT}", result)


def _own(record, index):
    """One replica's part of a record: its entry of every list."""
    return {name: x[index] if isinstance(x, list) else x for name, x in record.items()}
