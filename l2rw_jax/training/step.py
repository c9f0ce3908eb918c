"""One training step, as a pure function of the state and the step's number."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from l2rw_jax import data, losses
from l2rw_jax.gradients import reweighted_value_and_grad
from l2rw_jax.methods import Method, StepInfo
from l2rw_jax.models import Model
from l2rw_jax.training.batches import Arrays, Batches, draw, draw_clean, step_keys, take
from l2rw_jax.training.optimizers import kernels
from l2rw_jax.training.prepare import RunData
from l2rw_jax.training.state import TrainState, network, split_weighting


class Step(Protocol):
    """A step, or a chunk of steps: from a state to the next one and the metrics."""

    def __call__(
        self, state: TrainState, run_data: RunData, key: jax.Array, images: Any = None
    ) -> tuple[TrainState, Arrays]:
        """Returns ``(state, metrics)``."""


def make_step(
    method: Method,
    model: Model,
    optimizer: optax.GradientTransformation,
    batches: Batches,
    *,
    schedule: optax.Schedule,
    micro_batches: int = 1,
    clean_smoothing: float = 0.0,
    clean_weight_decay: float = 0.0,
    ema: float = 0.0,
    axis_name: str | None = None,
    shard: Callable[[Any], Any] = lambda tree: tree,
    replicate: Callable[[Any], Any] = lambda tree: tree,
    finetune: bool = False,
) -> Step:
    """Returns ``step(state, run_data, key, images=None) -> (state, metrics)``.

    A step samples, augments, weights and updates. What it draws follows from ``key`` and
    ``state.step`` alone: indices uniformly with replacement for the batch, without for the clean
    batch. If its loss or gradient is not finite, or none of its scores is, a step changes
    only the counters; the schedule of the learning rate counts good steps alone.

    Args:
      method: the ``Method``.
      model: the ``Model``.
      optimizer: an Optax optimizer for the model's parameters.
      batches: the ``Batches``.
      schedule: the learning rate by the number of good steps.
      micro_batches: how many parts a batch is computed in, one after the other.
      clean_smoothing: label smoothing in the clean loss.
      clean_weight_decay: L2 on kernels in the clean loss.
      ema: decay of ``state.ema_params``; 0 for none.
      axis_name: mapped axis of the devices that share a batch. Each draws the whole batch's indices
        and takes its part, so that any number of devices trains on the same images.
      shard: tells the compiler that a batch's arrays are sharded over the devices;
      replicate: that each device holds all of them.
      finetune: leave the examples' weights as they are.

    Returns:
      The step; ``metrics`` is a dict of scalars, the whole batch's. ``images`` are the (device's
      part of the) batch's, if they are not to be taken from ``run_data``.
    """
    clean_loss_of: Callable[[jax.Array, jax.Array], jax.Array] = losses.cross_entropy
    if clean_smoothing:
        clean_loss_of = functools.partial(losses.smoothed_cross_entropy, smoothing=clean_smoothing)

    def step(
        state: TrainState, run_data: RunData, key: jax.Array, images: Any = None
    ) -> tuple[TrainState, Arrays]:
        keys = step_keys(key, state.step)
        rows = draw(batches, run_data, keys[0])
        clean_rows = draw_clean(batches, run_data, keys[1])
        batch = take(
            batches, run_data, run_data.train, rows, keys[2], axis_name=axis_name, images=images
        )
        clean_batch = take(
            batches, run_data, run_data.clean, clean_rows, keys[3], axis_name=axis_name
        )
        batch, clean_batch = (
            each | shard({name: x for name, x in each.items() if name != "rng"})
            for each in (batch, clean_batch)
        )
        forward = _make_forward(model, state.model_state, micro_batches)

        def per_example_loss_fn(params: optax.Params, batch: Arrays) -> tuple[jax.Array, Any]:
            logits, model_state = forward(params, batch)
            aux = {"logits": logits, "model_state": model_state}
            aux["correct"] = jnp.argmax(logits, -1) == batch["label"]
            if method.transition:
                logits = losses.s_model_logits(logits, params["transition"])
            if "target" in batch:
                return losses.expected(method.loss, logits, batch["target"]), aux
            return method.loss(logits, batch["label"]), aux

        def clean_loss_fn(params: optax.Params, batch: Arrays) -> jax.Array:
            logits, _ = forward(params, batch)
            loss = clean_loss_of(logits, batch["label"])
            if clean_weight_decay:
                loss += clean_weight_decay / 2 * _squares(params)
            return loss

        weighting = method.weighting(
            StepInfo(
                rng=keys[4],
                learning_rate=schedule(state.step - state.bad_steps),
                label_counts=run_data.confusion.sum(0),
                true_counts=run_data.confusion.sum(1),
            )
        )
        value_and_grad = reweighted_value_and_grad(
            per_example_loss_fn,
            clean_loss_fn,
            weighting=weighting,
            has_aux=True,
            axis_name=axis_name,
        )
        params = split_weighting(state.params) if method.init_weighting else state.params
        looks_ahead = bool(jax.tree.leaves(state.lookahead_state))
        (loss, aux), grads = value_and_grad(
            params,
            clean_batch if method.on_clean else batch,
            clean_batch,
            lookahead_state=state.lookahead_state if looks_ahead else None,
        )
        if method.on_clean:  # for the record, what the training batch was; its weights are zero
            nothing = jnp.zeros(batch["label"].shape, aux.losses.dtype)
            seen = per_example_loss_fn(params, batch)[1]["logits"]
            aux = aux._replace(weights=nothing, scores=nothing, clean_loss=loss)
            aux = aux._replace(aux=aux.aux | {"logits": seen})
        lookahead_state = state.lookahead_state
        if looks_ahead:
            lookahead_state = weighting.update(grads, lookahead_state, params)
        if method.init_weighting:
            grads = grads[0] | {"weighting": grads[1]}
        model_state, correct = aux.aux["model_state"], aux.aux["correct"]
        margins = losses.margin(aux.aux["logits"], batch["label"])
        examples = (aux.weights, aux.scores, jnp.where(jnp.isfinite(margins), margins, 0))
        (weights, scores, margins), accuracy = _gather(examples, correct, axis_name)
        weights, scores, margins, rows = replicate((weights, scores, margins, rows))

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        updated = state._replace(
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            lookahead_state=lookahead_state,
        )
        if ema:
            average = optax.incremental_update(params, state.ema_params, 1 - ema)
            updated = updated._replace(ema_params=average)
        if not finetune:
            updated = updated._replace(
                weight_sum=state.weight_sum.at[rows].add(weights),
                margin_sum=state.margin_sum.at[rows].add(margins),
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


def make_predict(
    model: Model, batches: Batches
) -> Callable[[optax.Params, Any, jax.Array], jax.Array]:
    """Returns ``predict(params, model_state, images) -> [n]`` classes."""

    def predict(params: optax.Params, model_state: Any, images: jax.Array) -> jax.Array:
        scaled = data.to_float(images, low=batches.low, high=batches.high)
        logits, _ = model.apply(network(params), model_state, scaled, train=False)
        return jnp.argmax(logits, -1)

    return predict


def _gather(
    examples: tuple[jax.Array, ...], correct: jax.Array, axis_name: str | None
) -> tuple[Sequence[jax.Array], jax.Array]:
    """The whole batch's values ``[b]`` from this part's, and accuracy ``[]``: one collective."""
    accuracy = jnp.mean(correct, dtype=examples[0].dtype)
    if axis_name is None:
        return examples, accuracy
    parts = jax.lax.all_gather(jnp.concatenate([*examples, accuracy[None]]), axis_name)
    columns = jnp.split(parts[:, :-1], len(examples), axis=1)
    return [column.ravel() for column in columns], parts[:, -1].mean()


def _make_forward(
    model: Model, model_state: Any, micro_batches: int
) -> Callable[[optax.Params, Arrays], tuple[Any, Any]]:
    """Returns ``forward(params, batch) -> (logits, model_state)``, in training.

    With micro-batches, parts are computed in turn, and again in the backward pass, so only one
    part's activations are kept. Batch normalisation then sees one part at a time.
    """

    def apply(params: optax.Params, images: jax.Array, rng: jax.Array) -> tuple[Any, Any]:
        return model.apply(network(params), model_state, images, train=True, rng=rng)

    @jax.checkpoint
    def part(params: optax.Params, images: jax.Array, rng: jax.Array) -> tuple[Any, Any]:
        return apply(params, images, rng)

    def forward(params: optax.Params, batch: Arrays) -> tuple[Any, Any]:
        images, rng, count = batch["image"], batch["rng"], micro_batches
        if count == 1:
            return apply(params, images, rng)
        # A part takes rows from all over the batch: each device has an equal share of every part.
        parts = images.reshape(-1, count, *images.shape[1:]).swapaxes(0, 1)
        keys = jax.random.split(rng, count)
        logits, states = jax.lax.map(lambda part_: part(params, *part_), (parts, keys))
        return logits.swapaxes(0, 1).reshape(-1, logits.shape[-1]), jax.tree.map(
            lambda s: s.mean(0), states
        )

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
