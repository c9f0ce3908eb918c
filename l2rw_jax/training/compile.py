"""The compiled programs of a run: its chunks of steps, and its evaluation."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from l2rw_jax.models import Model
from l2rw_jax.training.metrics import classification_metrics
from l2rw_jax.training.parallel import AXIS, Engine
from l2rw_jax.training.prepare import RunData
from l2rw_jax.training.state import TrainState
from l2rw_jax.training.step import make_chunk, make_predict, make_step


def steps_per_call(config: ConfigDict) -> int:
    """How many steps one compiled call takes: ``log_every``, or 1.

    One call does them all, but for convolutions on a CPU: inside a loop, XLA's CPU compiler leaves
    their weight gradients in a form that is ten times slower (JAX 0.10, 0.11).
    """
    single = jax.default_backend() == "cpu" and not config.model.startswith("mlp")
    return 1 if single else config.log_every


def compile_run(
    config: ConfigDict,
    model: Model,
    optimizer: optax.GradientTransformation,
    engine: Engine,
    arguments: Sequence[Any],
    images: Iterator[Any],
    *,
    finetune: bool = False,
) -> Callable[[TrainState], tuple[TrainState, dict[str, np.ndarray]]]:
    """Returns ``run(state) -> (state, metrics)``: ``log_every`` steps.

    Args:
      config: a validated config.
      model: the ``Model``.
      optimizer: an Optax optimizer.
      engine: the ``Engine``.
      arguments: state, run data and key, on the devices.
      images: an iterator over the calls' images; of None where they are not streamed.
      finetune: as ``make_step`` takes it.

    Returns:
      The function; ``metrics`` is a dict of host arrays ``[log_every]``, of replicas
      ``[replicas, log_every]``.
    """
    num_steps = steps_per_call(config)
    step = make_step(config, model, optimizer, axis_name=engine.axis_name, finetune=finetune)
    average_over = engine.axis_name if config.batch_norm == "device" else None
    chunk = make_chunk(step, num_steps, average_over=average_over)
    state, *others = arguments
    first = next(images, None)
    images = itertools.chain([first], images)
    streamed = () if first is None else (first,)
    compiled = engine.compile(chunk, state, *others, *streamed)

    def run(state: TrainState) -> tuple[TrainState, dict[str, np.ndarray]]:
        collected = []
        for _ in range(config.log_every // num_steps):
            streamed = next(images)
            state, metrics = compiled(state, *others, *(() if streamed is None else (streamed,)))
            collected.append(metrics)
        collected = engine.get(collected)  # waits for the steps
        join = np.concatenate if num_steps > 1 else np.stack
        return state, {name: join([m[name] for m in collected], -1) for name in collected[0]}

    return run


def compile_evaluate(
    config: ConfigDict, model: Model, engine: Engine, state: TrainState, run_data: RunData
) -> Callable[[TrainState], dict[str, Any]]:
    """Returns ``evaluate(state) -> dict``: figures on the test and the hyper-validation set.

    Every process computes all of them on its first device. Replicas' figures are lists.
    """
    sets = {"test": (run_data.test_images, run_data.test_labels)}
    if config.val_size:
        sets["val"] = (run_data.images[run_data.val.index], run_data.val.label)
    sets = {name: (jax.numpy.asarray(x), np.asarray(y)) for name, (x, y) in sets.items()}

    def weights_of(state: TrainState) -> Any:
        weights = (state.params, state.model_state)
        return engine.get(weights) if engine.axis_name == AXIS else weights

    compiled = {}
    for name, (images, labels) in sets.items():
        predict = make_predict(config, model)
        if config.replicas > 1:
            predict = jax.vmap(predict, in_axes=(0, 0, 0 if labels.ndim > 1 else None))
        compiled[name] = jax.jit(predict).lower(*weights_of(state), images).compile()

    def evaluate(state: TrainState) -> dict[str, Any]:
        weights = weights_of(state)
        figures: dict[str, Any] = {}
        for name, (images, labels) in sets.items():
            predictions = np.asarray(compiled[name](*weights, images))
            figures |= _each(
                lambda labels, predictions, name=name: classification_metrics(
                    name, labels, predictions
                ),
                np.broadcast_to(labels, predictions.shape),
                predictions,
                replicas=config.replicas,
            )
        return figures

    return evaluate


def _each(
    function: Callable[..., dict[str, float]], *arrays: np.ndarray, replicas: int
) -> dict[str, Any]:
    """``function``'s dict; of replicas, with a list of the replicas' values under each name."""
    if replicas == 1:
        return function(*arrays)
    found = [function(*parts) for parts in zip(*arrays, strict=True)]
    return {name: [figures[name] for figures in found] for name in found[0]}
