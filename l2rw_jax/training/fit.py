"""Training in memory on arrays: no files, and several networks side by side."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from ml_collections import ConfigDict, FrozenConfigDict

from l2rw_jax import data
from l2rw_jax.models import Model
from l2rw_jax.training.batches import make_rows
from l2rw_jax.training.config import default_config
from l2rw_jax.training.errors import RunError
from l2rw_jax.training.prepare import Part, RunData
from l2rw_jax.training.resolve import resolve
from l2rw_jax.training.state import TrainState, mean_over_draws, network, seed_keys

_ROWS = 4096  # of one prediction
_OUTPUTS = 2**24  # of all networks for these rows, at most
# What networks have of their own (axis 0): how often they draw each example.
_SHARED = RunData(
    images=None,
    train=Part(None, None, 0),
    corrupted=None,
    confusion=None,
    clean=Part(None, None),
    val=Part(None, None),
    test_images=None,
    test_labels=None,
)


class Fitted(NamedTuple):
    """Trained networks.

    Attributes:
      weights: each training example's mean weight over the times that any network drew it, else
        0.  # shape=(n,)
      counts: how often that was.  # shape=(n,), dtype=int32
      params: the networks' parameters, a leading axis for the networks.
      model_state: their running moments, likewise.
    """

    weights: np.ndarray
    counts: np.ndarray
    params: Any
    model_state: Any


def recipe(n: int, m: int, *, steps: int | None, batch_size: int, **fields: Any) -> ConfigDict:
    """The config of a training in memory, by a recipe that suits most features.

    Args:
      n: number of training examples.
      m: number of trusted examples.
      steps: above 100 rounded up to hundreds; None: 20 epochs, but from 500 to 8,000 steps, and one
        epoch at least.
      batch_size: examples of a batch; n where there are fewer.
      fields: of the config, besides.

    >>> recipe(10_000, 50, steps=None, batch_size=100).steps
    2000
    """
    epoch = n // batch_size
    steps = steps or max(epoch, min(8000, max(500, 20 * epoch)))
    chunk = min(steps, 100)
    steps = -(-steps // chunk) * chunk
    config = default_config()
    config.update(steps=steps, log_every=chunk, eval_every=steps, checkpoint_every=steps)
    config.update(batch_size=min(batch_size, n), clean_batch_size=min(100, m), clean_size=m)
    config.boundaries = (steps // 2, 3 * steps // 4) if steps >= 4 else ()
    config.update(weight_decay=1e-3, clip_norm=5.0)
    config.update(fields)
    return config


def fit(
    config: ConfigDict,
    images: Any,
    labels: np.ndarray,
    clean_images: np.ndarray,
    clean_labels: np.ndarray,
    num_classes: int,
    *,
    shares: np.ndarray | None = None,
    progress: bool = False,
) -> tuple[Model, Fitted]:
    """Trains ``config.seeds`` networks, of as many seeds, on the same arrays.

    The images stay on the host; the rows of each chunk of steps are read as they are drawn.

    Args:
      config: some or all fields of ``default_config``; those of data, devices and files are not
        read.
      images: ``[n, h, w, c]`` uint8 or floating, an array or whatever else gives rows when it is
        indexed with integers.
      labels: ``[n]`` integer classes, or ``[n, K]`` their probabilities.
      clean_images: ``[m, h, w, c]`` of the trusted examples.
      clean_labels: ``[m]`` integer classes.
      num_classes: number of classes.
      shares: ``[networks, n]`` how often each network draws each example, at least 0, in any unit;
        None for equally often.
      progress: whether to show a progress bar.

    Returns:
      The ``Model`` and the ``Fitted`` networks.

    Raises:
      ConfigError: a field of the config cannot be used.
      RunError: the training diverged.
    """
    config = ConfigDict(config)
    seeds = np.arange(config.seed, config.seed + config.seeds, dtype=np.uint32)
    # What the programs do not depend on.
    config.update(seed=0, seeds=1, clean_size=config.clean_batch_size)
    run_data = _run_data(labels, clean_images, clean_labels, num_classes, shares)
    programs = _programs(FrozenConfigDict(config), images.shape[1:], num_classes)
    state = programs.init(seeds, run_data.confusion, len(labels))
    _, keys = jax.vmap(seed_keys)(seeds)
    on_device = jax.device_put(run_data)
    bar = tqdm.tqdm(total=config.steps, desc=config.method, unit="step", disable=not progress)
    with bar:
        for step in range(0, config.steps, programs.num_steps):
            rows = np.asarray(programs.rows(on_device, keys, step))
            rows = rows if programs.num_steps > 1 else rows[:, 0]
            state, metrics = programs.chunk(state, on_device, keys, images[rows])
            if (np.asarray(metrics["bad_in_a_row"]) >= config.max_bad_steps).any():
                raise RunError(
                    f"step {step + 1}: the loss, the gradient or all scores were not finite for "
                    f"{config.max_bad_steps} steps in a row; try a smaller learning rate."
                )
            bar.update(programs.num_steps)
    state = jax.device_get(state)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params)):
        raise RunError("the parameters are not finite after training; try a smaller learning rate.")
    weights = mean_over_draws(state.weight_sum.sum(0), state.weight_count.sum(0))
    params = state.ema_params if config.ema else state.params
    fitted = Fitted(weights, state.weight_count.sum(0), network(params), state.model_state)
    return programs.model, fitted


def probabilities(model: Model, params: Any, model_state: Any, images: Any, **pixels: float) -> Any:
    """The classes' probabilities, ``[n, K]`` float32; arguments as of ``probability_blocks``."""
    return np.concatenate(list(probability_blocks(model, params, model_state, images, **pixels)))


def probability_blocks(
    model: Model,
    params: Any,
    model_state: Any,
    images: Any,
    *,
    low: float = 0.0,
    high: float = 1.0,
) -> Iterator[np.ndarray]:
    """The classes' probabilities, the mean over the networks, of one block of rows at a time.

    Args:
      model: the ``Model``.
      params: of the networks, as ``Fitted`` has them.
      model_state: likewise.
      images: ``[n, h, w, c]``, as for training.
      low: value of black pixels, as in the config of the training.
      high: value of white pixels, likewise.

    Yields:
      ``[b, K]`` float32.

    Raises:
      RunError: a probability is not a number.
    """
    networks = len(jax.tree.leaves(params)[0])
    one = jax.ShapeDtypeStruct((1, *images.shape[1:]), np.float32)
    classes = jax.eval_shape(functools.partial(_predict, model), params, model_state, one).shape[1]
    # Few sizes, since each is a program.
    size = min(_ROWS, 1 << (max(1, _OUTPUTS // (networks * classes)).bit_length() - 1))
    size = min(size, 1 << (len(images) - 1).bit_length())
    for start in range(0, len(images), size):
        part = np.asarray(images[start : start + size])
        padding = [(0, size - len(part))] + [(0, 0)] * (part.ndim - 1)
        padded = data.to_float(jnp.asarray(np.pad(part, padding)), low=low, high=high)
        predicted = np.asarray(_predict(model, params, model_state, padded))[: len(part)]
        if not np.isfinite(predicted.sum()):
            raise RunError(
                f"row {start}: the networks give no probabilities, since parameters are not finite "
                "or too large; train again, with a smaller learning rate"
            )
        yield predicted


@functools.partial(jax.jit, static_argnums=0)
def _predict(model: Model, params: Any, model_state: Any, images: jax.Array) -> jax.Array:
    """The mean of the networks' probabilities, ``[b, K]``."""

    def one(params: Any, model_state: Any) -> jax.Array:
        return jax.nn.softmax(model.apply(params, model_state, images, train=False)[0])

    return jax.vmap(one)(params, model_state).mean(0)


class _Programs(NamedTuple):
    """The compiled programs of a training, kept for the next one on data of the same shapes."""

    model: Model
    num_steps: int
    init: Any
    rows: Any
    chunk: Any


@functools.lru_cache(maxsize=8)
def _programs(config: FrozenConfigDict, shape: tuple[int, int, int], num_classes: int) -> _Programs:
    """The programs of a config with one seed, for any number of networks and examples."""
    m = config.clean_batch_size
    none = np.zeros(m, np.int32)
    some = _run_data(none, np.zeros((m, *shape), np.float32), none, num_classes, None)
    run = resolve(ConfigDict(config), (some, num_classes))
    rows = make_rows(run.batches, run.num_steps)

    @functools.partial(jax.jit, static_argnums=2)
    def init(seeds: jax.Array, confusion: jax.Array, num_train: int) -> TrainState:
        return jax.vmap(lambda seed: run.init(seed, confusion, num_train))(seeds)

    return _Programs(
        run.model,
        run.num_steps,
        init,
        jax.jit(jax.vmap(rows, in_axes=(_SHARED, 0, None))),
        jax.jit(jax.vmap(run.chunk, in_axes=(0, _SHARED, 0, 0)), donate_argnums=0),
    )


def _run_data(
    labels: np.ndarray,
    clean_images: np.ndarray,
    clean_labels: np.ndarray,
    num_classes: int,
    shares: np.ndarray | None,
) -> RunData:
    """The data of a run whose training images are sent, chunk by chunk."""
    none = np.zeros(0, np.int32)
    soft = labels.ndim == 2
    counts = labels.sum(0) if soft else np.bincount(labels, minlength=num_classes)
    counts = counts.astype(np.float32)
    return RunData(
        images=clean_images,
        train=Part(
            np.arange(len(labels), dtype=np.int32),
            labels.astype(np.float32 if soft else np.int32),
            None if shares is None else data.draw_bounds(shares),
        ),
        corrupted=np.zeros(len(labels), bool),  # not known
        confusion=np.diag(counts),
        clean=Part(np.arange(len(clean_labels), dtype=np.int32), clean_labels.astype(np.int32)),
        val=Part(none, none),
        test_images=clean_images[:0],
        test_labels=none,
    )
