"""The training labels that a finished run doubts most, with what its network says instead."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from l2rw_jax import data
from l2rw_jax.training import checkpoint, prepare, resolve
from l2rw_jax.training import workdir as files
from l2rw_jax.training.errors import ConfigError, RunError
from l2rw_jax.training.fit import probabilities
from l2rw_jax.training.state import network


class Doubt(NamedTuple):
    """A training label that a run doubts.

    Attributes:
      image: the picture.  # shape=(h, w, c), dtype=uint8
      given: the label that the run trained on.
      says: the class that its network predicts at the end.
      probability: of that class, in 0..1.
      weight: the example's mean weight over training; 1 is an equal share of the batch.
      true: the label before the noise; None where there was no noise.
    """

    image: np.ndarray
    given: str
    says: str
    probability: float
    weight: float
    true: str | None


def most_doubted(config: ConfigDict, workdir: files.StrPath, count: int = 20) -> list[Doubt]:
    """The pictures whose given labels had the lowest mean margins over the training.

    Args:
      config: of a finished run of one seed.
      workdir: its folder.
      count: how many to return, at most.

    Returns:
      A list of ``Doubt``, the lowest margin first. It is empty for a run on features, on streamed
      images or on others than gray and RGB ones, of several processes, or without its data or
      checkpoints.
    """
    if config.stream or jax.process_count() > 1:
        return []
    try:
        prepared = run_data, num_classes = prepare.prepare(config)
    except ConfigError:  # a report of finished runs does not need their data
        return []
    height, width, channels = run_data.images.shape[1:]
    if (height, width) == (1, 1) or channels not in (1, 3):  # no picture, or none that a PNG shows
        return []
    arrays = files.read_weights(workdir)
    drawn = np.flatnonzero(arrays["count"])
    rows = drawn[np.argsort(arrays["mean_margin"][drawn], kind="stable")][:count]
    index = run_data.train.index[rows]
    images = np.asarray(run_data.images[index])
    predicted = _predict(config, prepared, Path(workdir), images)
    if predicted is None:
        return []
    names = list(config.classes) or range(num_classes)
    true = _true_labels(config)[index] if arrays["corrupted"].any() else None
    return [
        Doubt(
            image=images[i],
            given=str(names[run_data.train.label[row]]),
            says=str(names[predicted[i].argmax()]),
            probability=float(predicted[i].max()),
            weight=float(arrays["mean_weight"][row]) * config.batch_size,
            true=None if true is None else str(true[i]),
        )
        for i, row in enumerate(rows)
    ]


def _true_labels(config: ConfigDict) -> np.ndarray:
    """The labels of the data set's training part, before selection and noise, ``[N]``."""
    column = config.noise.column or None
    return data.load(config.dataset, data_dir=config.data_dir or None, column=column).train_labels


def _predict(config: ConfigDict, prepared: Any, workdir: Path, images: Any) -> np.ndarray | None:
    """The probabilities of the run's last network, ``[n, K]``; None without its checkpoint."""
    place = 0
    if not (workdir / files.CHECKPOINTS).exists():  # it may have been trained beside other seeds
        joint = _together(config, workdir)
        if joint is None:
            return None
        place = config.seed - joint[0].seed
        config, workdir = joint
        prepared = prepare.prepare_seeds(config)
    try:
        run = resolve(config, prepared)
        with checkpoint.open_checkpoints(workdir, config.keep_checkpoints) as checkpoints:
            restored = checkpoint.restore_newest(checkpoints, run.engine.like(run.create))
    except (ConfigError, RunError):
        return None
    if restored is None:
        return None
    state = jax.device_get(restored[0])
    trained = network(state.params), state.model_state
    if config.seeds == 1:
        trained = jax.tree.map(lambda x: x[None], trained)
    params, model_state = jax.tree.map(lambda x: x[place : place + 1], trained)
    low, high = config.low, config.high
    return probabilities(run.model, params, model_state, images, low=low, high=high)


def _together(config: ConfigDict, workdir: Path) -> tuple[ConfigDict, Path] | None:
    """The run of several seeds that holds this seed's network: its config and its folder."""
    for folder in workdir.parent.glob("seeds*-*"):
        match = re.fullmatch(r"seeds(\d+)-(\d+)", folder.name)
        if match and int(match[1]) <= config.seed <= int(match[2]):
            joint = prepare.with_seed(config, int(match[1]))
            joint.seeds = int(match[2]) - joint.seed + 1
            return joint, folder
    return None
