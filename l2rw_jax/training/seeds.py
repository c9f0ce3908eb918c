"""Several seeds of one config: side by side as one program, each with a folder of its own."""

import copy
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from absl import logging
from ml_collections import ConfigDict

from l2rw_jax.training import workdir as files
from l2rw_jax.training.batches import convolves_on_cpu
from l2rw_jax.training.config import validate
from l2rw_jax.training.errors import ConfigError, OutOfMemory, RunError
from l2rw_jax.training.loop import diverged, train_and_evaluate
from l2rw_jax.training.prepare import with_seed


def train_seeds(
    config: ConfigDict, folders: Sequence[files.StrPath], *, together: bool | None = None
) -> list[dict[str, Any] | RunError]:
    """Trains seeds ``config.seed``, ``config.seed + 1``, ..., one a folder.

    Those that are not done yet train as one program (``config.seeds``), in the folder
    ``seedsFIRST-LAST`` beside theirs; if that does not fit into the device's memory, in two, and so
    on. With convolutions on a CPU they train one after the other: batched kernels make these slow
    there.

    Args:
      config: a config of one seed, which is the first.
      folders: one for each seed.
      together: whether to train them as one program; by default where that is quicker.

    Returns:
      Their results, a list of dicts; for a seed that cannot continue, the ``RunError``.

    Raises:
      ConfigError, Stopped: as ``train_and_evaluate`` does.
    """
    if config.seeds != 1:
        raise ConfigError(f"config.seeds: got {config.seeds}; takes 1 where seeds are given.")
    configs = {config.seed + i: with_seed(config, config.seed + i) for i in range(len(folders))}
    folder_of = dict(zip(configs, map(Path, folders), strict=True))
    if together is None:
        together = not convolves_on_cpu(config)
    alone = config.parallel == "none" and not config.stream and not config.tensorboard
    if together and alone:
        for path in folder_of[config.seed].parent.glob("seeds*-*"):  # trained, but not yet split
            match = re.fullmatch(r"seeds(\d+)-(\d+)", path.name)
            if match and (path / files.RESULT).exists():
                first, last = map(int, match.groups())
                _split(with_seed(config, first), last - first + 1, path, folder_of)
        todo = [seed for seed, each in configs.items() if not _ended(folder_of[seed], each)]
        # One program's seeds are consecutive.
        for _, group in itertools.groupby(enumerate(todo), lambda item: item[1] - item[0]):
            _train_together(config, [seed for _, seed in group], folder_of)
    results: list[dict[str, Any] | RunError] = []
    for seed, each in configs.items():  # those that are done already only give their result
        try:
            results.append(train_and_evaluate(each, folder_of[seed]))
        except RunError as error:
            results.append(error)
    return results


def _ended(folder: Path, config: ConfigDict) -> bool:
    """Whether the run in ``folder`` has its result, or has ended without."""
    try:
        return files.check_workdir(folder, validate(config)) is not None
    except RunError:
        return True


def _train_together(config: ConfigDict, seeds: list[int], folder_of: Mapping[int, Path]) -> None:
    """Trains consecutive seeds as one program, if they fit, and leaves each one's files."""
    if len(seeds) == 1:
        return
    joint = folder_of[seeds[0]].parent / f"seeds{seeds[0]}-{seeds[-1]}"
    first = with_seed(config, seeds[0])
    try:
        train_and_evaluate(_with_seeds(first, len(seeds)), joint)
        fits = True
    except RunError as error:
        if not isinstance(error, OutOfMemory) or any(joint.glob("checkpoints/[0-9]*")):
            # One seed's failure must not stop the others.
            logging.warning("%s: its seeds are trained one by one: %s", joint, error)
            return
        logging.warning("%d seeds do not fit into memory: halving", len(seeds))
        fits = False
    if fits:
        _split(first, len(seeds), joint, folder_of)
        return
    # Only here, behind the handler, is the memory of the attempt free again.
    files.remove_unsaved(joint)
    _train_together(config, seeds[: len(seeds) // 2], folder_of)
    _train_together(config, seeds[len(seeds) // 2 :], folder_of)


def _with_seeds(config: ConfigDict, count: int) -> ConfigDict:
    config = copy.deepcopy(config)
    config.seeds = count
    return config


def _split(first: ConfigDict, count: int, joint: Path, folder_of: Mapping[int, Path]) -> None:
    """Writes each seed's files, as a run of it alone would; the result last."""
    config = validate(_with_seeds(first, count))
    result = cast(dict[str, Any], files.check_workdir(joint, config))
    lines = files.read_metrics(joint)
    weights = files.read_weights(joint)
    for i in range(count):
        config = validate(with_seed(first, first.seed + i))
        folder = folder_of.get(config.seed)
        if folder is None or _ended(folder, config):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / files.CONFIG, config.to_dict())
        own = "".join(json.dumps(_own(line, i)) + "\n" for line in lines)
        files.write_text(folder / files.METRICS, own)
        most = config.max_bad_steps
        bad = next((line for line in lines if line["bad_in_a_row"][i] >= most), None)
        if bad is not None:  # alone it would have ended there
            reason = diverged(f"before step {bad['step'] + 1}", most, joint)
            files.write_json(folder / files.ENDED, {"step": bad["step"], "reason": reason})
            continue
        files.write_weights(folder, {name: each[i] for name, each in weights.items()})
        seed = {"seed": config.seed, "side_by_side": count}
        figures = {name: value for name, value in result.items() if name != "seeds"}
        files.write_json(folder / files.RESULT, seed | _own(figures, i))


def _own(record: Mapping[str, Any], index: int) -> dict[str, Any]:
    """One seed's part of a record: its entry of every list."""
    return {name: x[index] if isinstance(x, list) else x for name, x in record.items()}
