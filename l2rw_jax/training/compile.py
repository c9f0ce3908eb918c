"""The compiled programs of a run: its chunks of steps, and its evaluation."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from l2rw_jax.training.metrics import classification_metrics
from l2rw_jax.training.resolve import Run
from l2rw_jax.training.state import TrainState
from l2rw_jax.training.step import Step

# A batch of evaluation may be larger than one of training: it keeps no activations.
_EVALUATED = 4


def compile_chunks(
    run: Run, chunk: Step, arguments: Sequence[Any], images: Iterator[Any]
) -> Callable[[TrainState], tuple[TrainState, dict[str, np.ndarray]]]:
    """Returns ``train(state) -> (state, metrics)``: as many steps as one line of metrics tells of.

    Args:
      run: the ``Run``.
      chunk: ``run.chunk`` or ``run.finetune``.
      arguments: state, run data and key, on the devices.
      images: an iterator over the calls' images; of None where they are not streamed.

    Returns:
      The function; ``metrics`` is a dict of host arrays ``[steps]``, of replicas
      ``[replicas, steps]``.
    """
    state, *others = arguments
    first = next(images, None)
    images = itertools.chain([first], images)
    streamed = () if first is None else (first,)
    compiled = run.engine.compile(chunk, state, *others, *streamed)

    def train(state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        collected = []
        for _ in range(run.cadence.log // run.num_steps):
            streamed = next(images)
            state, metrics = compiled(state, *others, *(() if streamed is None else (streamed,)))
            collected.append(metrics)
        collected = run.engine.get(collected)  # waits for the steps
        join = np.concatenate if run.num_steps > 1 else np.stack
        return state, {name: join([m[name] for m in collected], -1) for name in collected[0]}

    return train


def compile_evaluate(run: Run, state: TrainState) -> Callable[[TrainState], dict[str, np.ndarray]]:
    """Returns ``evaluate(state) -> {set: classes [n]}``, of replicas ``[replicas, n]``.

    The sets are ``test``, ``val`` where there is one, and with an average of the parameters the
    same by it, ``ema_test`` and ``ema_val``. All devices share the images.

    Args:
      run: the ``Run``.
      state: a state on the devices, for its shapes.
    """
    replicas = run.config.replicas > 1
    sets = {"test": run.data.test_images}
    if run.config.val_size:
        sets["val"] = run.data.images[run.data.val.index]
    compiled = {
        name: _compile_predict(run, state, images, 0 if replicas and name == "val" else None)
        for name, images in sets.items()
    }

    def evaluate(state: TrainState) -> dict[str, np.ndarray]:
        params = {"": state.params} | ({"ema_": state.ema_params} if run.config.ema else {})
        return {
            prefix + name: classes((each, state.model_state))
            for prefix, each in params.items()
            for name, classes in compiled.items()
        }

    return evaluate


def _compile_predict(
    run: Run, state: TrainState, images: np.ndarray, images_axis: int | None
) -> Callable[[Any], np.ndarray]:
    """Returns ``classes(weights) -> [..., n]`` of host images, batch by batch.

    ``images_axis`` is 0 where replicas have images of their own.
    """
    predict, axis = run.predict, 0 if images_axis is None else 1
    if run.config.replicas > 1:
        predict = jax.vmap(predict, in_axes=(0, 0, images_axis))
    devices, count = run.engine.num_devices, images.shape[axis]
    size = _EVALUATED * run.batches.batch_size // run.config.micro_batches
    size = -(-min(size, count) // devices) * devices

    def batch(start: int) -> np.ndarray:
        """The images from ``start`` on, with some of them again where there are too few."""
        return np.take(images, np.arange(start, start + size) % count, axis)

    weights = (state.params, state.model_state)
    compiled = run.engine.compile_predict(predict, weights, batch(0))

    def classes(weights: Any) -> np.ndarray:
        parts = [compiled(weights, batch(start)) for start in range(0, count, size)]
        return np.concatenate(parts, -1)[..., :count]

    return classes


def figures_of(run: Run, classes: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures of an evaluation by their names; replicas' figures are lists."""
    labels = {"test": run.data.test_labels, "val": run.data.val.label}
    figures: dict[str, Any] = {}
    for name, predictions in classes.items():
        known = np.broadcast_to(labels[name.removeprefix("ema_")], predictions.shape)
        if run.config.replicas == 1:
            figures |= classification_metrics(name, known, predictions)
            continue
        pairs = zip(known, predictions, strict=True)
        each = [classification_metrics(name, *pair) for pair in pairs]
        figures |= {figure: [one[figure] for one in each] for figure in each[0]}
    return figures
