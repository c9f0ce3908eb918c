"""One training step, as a pure function of the state and the step's number."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from l2rw_jax import data, losses
from l2rw_jax.methods import get_method, own_part
from l2rw_jax.models import Model
from l2rw_jax.training.prepare import Part, RunData
from l2rw_jax.training.state import TrainState, kernels, network

Arrays = dict[str, jax.Array]  # a batch, or metrics


class Step(Protocol):
    """A step, or a chunk of steps: from a state to the next one and the metrics."""

    def __call__(
        self, state: TrainState, run_data: RunData, key: jax.Array, images: Any = None
    ) -> tuple[TrainState, Arrays]:
        """Returns ``(state, metrics)``."""


def make_step(
    config: ConfigDict,
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    axis_name: str | None = None,
    finetune: bool = False,
) -> Step:
    """Returns ``step(state, run_data, key, images=None) -> (state, metrics)``.

    A step samples, augments, weights and updates. What it draws follows from ``key`` and
    ``state.step`` alone: indices uniformly with replacement for the batch, without for the clean
    batch. A step whose loss or gradient is not finite, or none of whose scores is, changes
    nothing but the counters; the learning rate's schedule, too, counts good steps.

    Args:
      config: a validated config.
      model: the ``Model``.
      optimizer: an Optax optimizer for the model's parameters.
      axis_name: mapped axis of the devices that share a batch. Each draws the whole batch's indices
        and takes its part, so that any number of devices trains on the same images.
      finetune: train on the clean set alone, and leave the examples' weights as they are.

    Returns:
      The step; ``metrics`` is a dict of scalars, the whole batch's. ``images`` are the (device's
      part of the) batch's, if they are not to be taken from ``run_data``.
    """
    method = get_method("clean_only" if finetune else config.method)

    def step(
        state: TrainState, run_data: RunData, key: jax.Array, images: Any = None
    ) -> tuple[TrainState, Arrays]:
        keys = _keys(key, state.step)
        rows = _draw(config, run_data, keys[0])
        trusted = data.sample_without_replacement(
            keys[1], len(run_data.clean.index), config.clean_batch_size
        )
        batch = _batch(config, run_data, run_data.train, rows, keys[2], axis_name, images)
        clean_batch = _batch(config, run_data, run_data.clean, trusted, keys[3], axis_name)
        forward = _make_forward(config, model, state.model_state)

        def per_example_loss_fn(params: optax.Params, batch: Arrays) -> tuple[jax.Array, Any]:
            logits, model_state = forward(params, batch)
            correct = jnp.argmax(logits, -1) == batch["label"]
            if method.transition:
                logits = losses.s_model_logits(logits, params["transition"])
            return method.loss(logits, batch["label"]), (model_state, correct)

        def clean_loss_fn(params: optax.Params, batch: Arrays) -> jax.Array:
            loss = losses.cross_entropy(forward(params, batch)[0], batch["label"]).mean()
            if config.clean_weight_decay:
                loss += config.clean_weight_decay / 2 * _squares(params)
            return loss

        value_and_grad = method.value_and_grad(
            per_example_loss_fn, clean_loss_fn, rng=keys[4], axis_name=axis_name
        )
        (loss, aux), grads = value_and_grad(state.params, batch, clean_batch)
        model_state, correct = aux.aux
        weights, scores, accuracy = _gather(aux.weights, aux.scores, correct, axis_name)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        updated = state._replace(
            params=optax.apply_updates(state.params, updates),
            model_state=model_state,
            opt_state=opt_state,
        )
        if not finetune:
            updated = updated._replace(
                weight_sum=state.weight_sum.at[rows].add(weights),
                weight_count=state.weight_count.at[rows].add(1),
            )
        grad_norm = optax.tree.norm(grads)
        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(scores).any()
        state = jax.tree.map(lambda new, old: jnp.where(good, new, old), updated, state)
        state = state._replace(
            step=state.step + 1,
            bad_steps=state.bad_steps + ~good,
            bad_in_a_row=jnp.where(good, 0, state.bad_in_a_row + 1),
        )
        metrics = {
            "loss": loss,
            "clean_loss": aux.clean_loss,
            "train_accuracy": accuracy,
            "grad_norm": grad_norm,
            "param_norm": optax.tree.norm(state.params),
            "bad_in_a_row": state.bad_in_a_row,
        }
        return state, metrics | _weight_metrics(weights, run_data.corrupted[rows])

    return step


def make_chunk(step: Step, num_steps: int, *, average_over: str | None = None) -> Step:
    """Returns ``chunk(state, run_data, key, images=None) -> (state, metrics)``.

    It is many steps in one program; ``metrics`` holds each step's values, ``[num_steps]``.

    Args:
      step: as ``make_step`` returns it.
      num_steps: steps a call; images come as ``[num_steps, b, h, w, c]``. With 1 there is no loop
        (see what compile.py says of convolutions on a CPU), and no leading axis.
      average_over: mapped axis over which running moments are averaged, where each device has its
        own. Once, at the end: no step reads them, and they are linear in the batches' moments.
    """

    def chunk(
        state: TrainState, run_data: RunData, key: jax.Array, images: Any = None
    ) -> tuple[TrainState, Arrays]:
        if num_steps == 1:
            state, metrics = step(state, run_data, key, images)
        else:
            state, metrics = jax.lax.scan(
                lambda state, images: step(state, run_data, key, images),
                state,
                images,
                length=num_steps,
            )
        if average_over is not None and state.model_state:
            state = state._replace(model_state=jax.lax.pmean(state.model_state, average_over))
        return state, metrics

    return chunk


def make_rows(
    config: ConfigDict, num_steps: int
) -> Callable[[RunData, jax.Array, ArrayLike], jax.Array]:
    """Returns ``rows(run_data, key, step) -> [num_steps, b]``: the images of the next steps."""

    def rows(run_data: RunData, key: jax.Array, step: ArrayLike) -> jax.Array:
        def rows_of(step: ArrayLike) -> jax.Array:
            return run_data.train.index[_draw(config, run_data, _keys(key, step)[0])]

        return jax.vmap(rows_of)(step + jnp.arange(num_steps))

    return rows


def make_predict(
    config: ConfigDict, model: Model, batch_size: int = 500
) -> Callable[[optax.Params, Any, jax.Array], jax.Array]:
    """Returns ``predict(params, model_state, images) -> [n]`` classes, in batches on the device."""

    def predict(params: optax.Params, model_state: Any, images: jax.Array) -> jax.Array:
        def predict_one(image: jax.Array) -> jax.Array:
            scaled = data.to_float(image[None], low=config.low, high=config.high)
            logits, _ = model.apply(network(params), model_state, scaled, train=False)
            return jnp.argmax(logits[0], -1)

        return jax.lax.map(predict_one, images, batch_size=min(batch_size, len(images)))

    return predict


def _keys(key: jax.Array, step: ArrayLike) -> jax.Array:
    """A step's keys: batch, clean batch, the augmentation and dropout of either, method."""
    return jax.random.split(jax.random.fold_in(key, step), 5)


def _draw(config: ConfigDict, run_data: RunData, key: jax.Array) -> jax.Array:
    """Rows of ``run_data.train`` for one whole batch, ``[b]``."""
    if get_method(config.method).balanced:
        counts = run_data.confusion.sum(0)
        return data.sample_balanced(key, run_data.train.label, counts, config.batch_size)
    return data.sample(key, len(run_data.train.index), config.batch_size)


def _batch(
    config: ConfigDict,
    run_data: RunData,
    part: Part,
    rows: jax.Array,
    key: jax.Array,
    axis_name: str | None,
    images: Any = None,
) -> Arrays:
    """This device's share of the batch that ``rows`` of ``part`` make."""
    augment_key, dropout_key = jax.random.split(key)
    # A key an image, so that an image is augmented alike whichever device it is on.
    keys = own_part(jax.random.split(augment_key, len(rows)), axis_name)
    rows = own_part(rows, axis_name)
    if images is None:
        images = run_data.images[part.index[rows]]
    augmented = jax.vmap(
        lambda key, image: data.augment(key, image[None], pad=config.pad, flip=config.flip)[0]
    )(keys, images)
    if axis_name is not None:
        dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))
    return {
        "image": data.to_float(augmented, low=config.low, high=config.high),
        "label": part.label[rows],
        "rng": dropout_key,  # its own: a shared mask would tie the batch to the clean batch
        "true_counts": run_data.confusion.sum(1),
        "label_counts": run_data.confusion.sum(0),
    }


def _gather(
    weights: jax.Array, scores: jax.Array, correct: jax.Array, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The whole batch's weights and scores, ``[b]``, and accuracy, ``[]``: one collective."""
    accuracy = jnp.mean(correct, dtype=weights.dtype)
    if axis_name is None:
        return weights, scores, accuracy
    own = jnp.concatenate([weights, scores, accuracy[None]])
    parts = jax.lax.all_gather(own, axis_name)
    b = len(weights)
    return parts[:, :b].ravel(), parts[:, b : 2 * b].ravel(), parts[:, -1].mean()


def _make_forward(
    config: ConfigDict, model: Model, model_state: Any
) -> Callable[[optax.Params, Arrays], tuple[jax.Array, Any]]:
    """Returns ``forward(params, batch) -> (logits, model_state)``, in training.

    With micro-batches one part is computed after the other and again in the backward pass, so that
    no more than one part's activations are kept. Batch normalisation then sees a part at a time.
    """

    @jax.checkpoint
    def part(params: optax.Params, images: jax.Array, rng: jax.Array) -> tuple[jax.Array, Any]:
        return model.apply(network(params), model_state, images, train=True, rng=rng)

    def forward(params: optax.Params, batch: Arrays) -> tuple[jax.Array, Any]:
        images, rng, count = batch["image"], batch["rng"], config.micro_batches
        if count == 1:
            return model.apply(network(params), model_state, images, train=True, rng=rng)
        parts = images.reshape(count, -1, *images.shape[1:]), jax.random.split(rng, count)
        logits, states = jax.lax.map(lambda part_: part(params, *part_), parts)
        return logits.reshape(-1, logits.shape[-1]), jax.tree.map(lambda s: s.mean(0), states)

    return forward


def _squares(params: optax.Params) -> jax.Array:
    """The sum of the squares of all kernels."""
    chosen = jax.tree.map(lambda p, is_kernel: p if is_kernel else 0, params, kernels(params))
    return optax.tree.norm(chosen, squared=True)


def _weight_metrics(weights: jax.Array, corrupted: jax.Array) -> Arrays:
    total, squares = jnp.sum(weights), jnp.sum(jnp.square(weights))

    def mean_of(chosen: jax.Array) -> jax.Array:
        return jnp.sum(weights * chosen) / jnp.maximum(jnp.sum(chosen), 1)

    return {
        "active_share": jnp.mean(weights > 0),
        "effective_sample_size": jnp.square(total) / jnp.where(squares > 0, squares, 1),
        "weight_corrupted": mean_of(corrupted),
        "weight_uncorrupted": mean_of(~corrupted),
    }
