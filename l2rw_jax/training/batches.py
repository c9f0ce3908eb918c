"""A step's batches: draws rows, takes (or is sent) their images, and augments them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from l2rw_jax import data
from l2rw_jax.training.prepare import Part, RunData

Arrays = dict[str, jax.Array]  # a batch, or metrics


class Batches(NamedTuple):
    """What a config says of its batches, by the names of its fields.

    Attributes:
      batch_size: examples of a batch, of all devices together.
      clean_batch_size: examples of a clean batch.
      balanced: whether a batch is drawn equally from every class.
      pad, flip: the augmentation, as ``data.augment`` takes it.
      low, high: the range of the pixels, as ``data.to_float`` takes it.
    """

    batch_size: int
    clean_batch_size: int
    balanced: bool
    pad: int
    flip: bool
    low: float
    high: float


def make_batches(config: ConfigDict, *, balanced: bool) -> Batches:
    """The ``Batches`` of a validated config."""
    fields = ("batch_size", "clean_batch_size", "pad", "flip", "low", "high")
    return Batches(balanced=balanced, **{field: config[field] for field in fields})


def step_keys(key: jax.Array, step: ArrayLike) -> jax.Array:
    """A step's keys: batch, clean batch, the augmentation and dropout of either, method."""
    return jax.random.split(jax.random.fold_in(key, step), 5)


def draw(batches: Batches, run_data: RunData, key: jax.Array) -> jax.Array:
    """Rows of ``run_data.train`` for one whole batch, ``[b]``."""
    if run_data.train.bounds is not None:
        return data.sample_by_share(key, run_data.train.bounds, batches.batch_size)
    if batches.balanced:
        counts = run_data.confusion.sum(0)
        return data.sample_balanced(key, run_data.train.label, counts, batches.batch_size)
    return data.sample(key, len(run_data.train.index), batches.batch_size)


def draw_clean(batches: Batches, run_data: RunData, key: jax.Array) -> jax.Array:
    """Rows of ``run_data.clean`` for one whole clean batch, ``[m]``, without replacement."""
    return data.sample_without_replacement(key, len(run_data.clean.index), batches.clean_batch_size)


def take(
    batches: Batches,
    run_data: RunData,
    part: Part,
    rows: jax.Array,
    key: jax.Array,
    *,
    axis_name: str | None = None,
    images: Any = None,
) -> Arrays:
    """The batch of these rows of ``part``; under a mapped axis, this device's share of it.

    Args:
      batches: the ``Batches``.
      run_data: the run's data.
      part: ``run_data.train`` or ``run_data.clean``.
      rows: ``[b]`` rows of the whole batch.
      key: of augmentation and dropout.
      axis_name: mapped axis of the devices that share the batch.
      images: the (device's share of the) images, where they are not to be taken from ``run_data``.

    Returns:
      ``image``, ``label`` and ``rng``; ``target`` ``[b, K]``, too, where labels are probabilities.
    """
    augment_key, dropout_key = jax.random.split(key)
    # One key per image, so an image is augmented alike on any device.
    keys = own_part(jax.random.split(augment_key, len(rows)), axis_name)
    rows = own_part(rows, axis_name)
    if images is None:
        images = run_data.images[part.index[rows]]
    augmented = jax.vmap(
        lambda key, image: data.augment(key, image[None], pad=batches.pad, flip=batches.flip)[0]
    )(keys, images)
    if axis_name is not None:
        dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))
    labels = part.label[rows]
    batch = {
        "image": data.to_float(augmented, low=batches.low, high=batches.high),
        "label": labels,
        "rng": dropout_key,  # its own: a shared mask would tie the batch to the clean batch
    }
    if labels.ndim == 2:
        batch |= {"label": jnp.argmax(labels, -1), "target": labels}
    return batch


def own_part(whole: jax.Array, axis_name: str | None) -> jax.Array:
    """This device's part of an array ``[b]`` for the whole batch, which ``axis_name`` divides."""
    if axis_name is None:
        return whole
    size = len(whole) // jax.lax.axis_size(axis_name)
    return jax.lax.dynamic_slice_in_dim(whole, jax.lax.axis_index(axis_name) * size, size)


def make_rows(
    batches: Batches, num_steps: int
) -> Callable[[RunData, jax.Array, ArrayLike], jax.Array]:
    """Returns ``rows(run_data, key, step) -> [num_steps, b]``: the images of the next steps."""

    def rows(run_data: RunData, key: jax.Array, step: ArrayLike) -> jax.Array:
        def rows_of(step: ArrayLike) -> jax.Array:
            return run_data.train.index[draw(batches, run_data, step_keys(key, step)[0])]

        return jax.vmap(rows_of)(step + jnp.arange(num_steps))

    return rows


def steps_per_call(config: ConfigDict) -> int:
    """How many steps one compiled call takes: ``log_every``, or 1.

    One call does them all, except with convolutions on a CPU: inside a loop, XLA's CPU compiler
    makes their weight gradients about ten times slower (JAX 0.10, 0.11).
    """
    return 1 if convolves_on_cpu(config) else config.log_every


def convolves_on_cpu(config: ConfigDict) -> bool:
    """Whether the model has convolutions and the device is a CPU."""
    return jax.default_backend() == "cpu" and not config.model.startswith(("mlp", "vit"))
