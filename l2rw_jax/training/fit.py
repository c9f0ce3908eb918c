"""Training in memory on arrays: no files, and several networks side by side."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from l2rw_jax import data
from l2rw_jax.models import Model
from l2rw_jax.training.batches import make_rows
from l2rw_jax.training.errors import RunError
from l2rw_jax.training.prepare import Part, RunData
from l2rw_jax.training.resolve import resolve
from l2rw_jax.training.state import (
    TrainState,
    create_state,
    initial_transition,
    mean_weights,
    network,
    seed_keys,
)

_ROWS = 4096  # of one prediction


class Fitted(NamedTuple):
    """Trained networks.

    Attributes:
      weights: each training example's mean weight over the times it was drawn.  # shape=(n,)
      params: the networks' parameters, a leading axis for the networks.
      model_state: their running moments, likewise.
    """

    weights: np.ndarray
    params: Any
    model_state: Any


def fit(
    config: ConfigDict,
    images: Any,
    labels: np.ndarray,
    clean_images: np.ndarray,
    clean_labels: np.ndarray,
    num_classes: int,
    *,
    progress: bool = False,
) -> tuple[Model, Fitted]:
    """Trains ``config.replicas`` networks, of as many seeds, on the same arrays.

    The images stay on the host; the rows of each chunk of steps are read as they are drawn.

    Args:
      config: some or all fields of ``default_config``; those of data, devices and files are not
        read.
      images: ``[n, h, w, c]`` uint8 or floating, an array or whatever else gives rows when it is
        indexed with integers.
      labels: ``[n]`` integer classes.
      clean_images: ``[m, h, w, c]`` of the trusted examples.
      clean_labels: ``[m]`` integer classes.
      num_classes: number of classes.
      progress: whether to show a progress bar.

    Returns:
      The ``Model`` and the ``Fitted`` networks.

    Raises:
      ConfigError: the config asks for what is not there.
      RunError: the training diverged.
    """
    config = ConfigDict(config)
    seeds = np.arange(config.seed, config.seed + config.replicas, dtype=np.uint32)
    config.replicas = 1
    run_data = _run_data(labels, clean_images, clean_labels, num_classes)
    run = resolve(config, (run_data, num_classes))

    def create(seed: ArrayLike) -> TrainState:
        transition = initial_transition(run.method, jnp.asarray(run_data.confusion))
        key, _ = seed_keys(seed)
        return create_state(
            key, run.model, run.optimizer, len(labels), transition, ema=config.ema > 0
        )

    state = jax.jit(jax.vmap(create))(seeds)
    _, keys = jax.vmap(seed_keys)(seeds)
    chunk = jax.jit(jax.vmap(run.chunk, in_axes=(0, None, 0, 0)), donate_argnums=0)
    rows_of = jax.jit(jax.vmap(make_rows(run.batches, run.num_steps), in_axes=(None, 0, None)))
    on_device = jax.device_put(run_data._replace(test_images=None, test_labels=None))
    bar = tqdm.tqdm(total=config.steps, desc=config.method, unit="step", disable=not progress)
    with bar:
        for step in range(0, config.steps, run.num_steps):
            rows = np.asarray(rows_of(on_device, keys, step))
            rows = rows if run.num_steps > 1 else rows[:, 0]
            state, metrics = chunk(state, on_device, keys, images[rows])
            if (np.asarray(metrics["bad_in_a_row"]) >= config.max_bad_steps).any():
                raise RunError(
                    f"step {step + 1}: the loss, the gradient or all scores were not finite for "
                    f"{config.max_bad_steps} steps in a row; try a smaller learning rate."
                )
            bar.update(run.num_steps)
    state = jax.device_get(state)
    weights = mean_weights(state.weight_sum, state.weight_count).mean(0)
    params = state.ema_params if config.ema else state.params
    return run.model, Fitted(weights, network(params), state.model_state)


def probabilities(
    model: Model, fitted: Fitted, images: Any, *, low: float = 0.0, high: float = 1.0
) -> np.ndarray:
    """The classes' probabilities, the mean over the networks.

    Args:
      model: the ``Model``.
      fitted: the trained networks.
      images: ``[n, h, w, c]``, as for training.
      low: value of black pixels, as in the config of the training.
      high: value of white pixels, likewise.

    Returns:
      ``[n, K]`` float32.
    """

    @jax.jit
    def predict(images: jax.Array) -> jax.Array:
        scaled = data.to_float(images, low=low, high=high)

        def one(params: Any, model_state: Any) -> jax.Array:
            return jax.nn.softmax(model.apply(params, model_state, scaled, train=False)[0])

        return jax.vmap(one)(fitted.params, fitted.model_state).mean(0)

    def parts() -> Iterator[np.ndarray]:
        for start in range(0, len(images), _ROWS):
            part = np.asarray(images[start : start + _ROWS])
            padding = [(0, min(_ROWS, len(images)) - len(part))] + [(0, 0)] * (part.ndim - 1)
            yield np.asarray(predict(np.pad(part, padding)))[: len(part)]

    return np.concatenate(list(parts()))


def _run_data(
    labels: np.ndarray, clean_images: np.ndarray, clean_labels: np.ndarray, num_classes: int
) -> RunData:
    """The data of a run whose training images are sent, chunk by chunk."""
    none = np.zeros(0, np.int32)
    counts = np.bincount(labels, minlength=num_classes).astype(np.float32)
    return RunData(
        images=clean_images,
        train=Part(np.arange(len(labels), dtype=np.int32), labels.astype(np.int32)),
        corrupted=np.zeros(len(labels), bool),  # not known
        confusion=np.diag(counts),
        clean=Part(np.arange(len(clean_labels), dtype=np.int32), clean_labels.astype(np.int32)),
        val=Part(none, none),
        test_images=clean_images[:0],
        test_labels=none,
    )
