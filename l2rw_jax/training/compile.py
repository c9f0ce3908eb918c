"""The compiled programs of a run: its chunks of steps, and its evaluation."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from l2rw_jax import data
from l2rw_jax.training.batches import make_rows
from l2rw_jax.training.metrics import classification_metrics
from l2rw_jax.training.prepare import without_train_images
from l2rw_jax.training.resolve import Run
from l2rw_jax.training.state import TrainState
from l2rw_jax.training.step import Step

# No step reads them: they need not lie on every device.
_ONLY_EVALUATED: dict[str, Any] = {"test_images": None, "test_labels": None}
# A batch of evaluation may be larger than one of training: it keeps no activations.
_EVALUATED = 4


class Programs(NamedTuple):
    """The compiled programs of a run, and how long making them took.

    Attributes:
      train: ``state -> (state, metrics)``, as many steps as one line of metrics covers; None
        where they are done.
      finetune: the same on the clean set; None without fine-tuning.
      evaluate: ``state -> classes`` of the images of each set.
      seconds: from the data on the host to the last program.
    """

    train: Any
    finetune: Any
    evaluate: Any
    seconds: float


@contextlib.contextmanager
def compiled(run: Run, state: TrainState, start: int) -> Iterator[Programs]:
    """The compiled programs of a run, while its images are open from step ``start`` on.

    Args:
      run: the ``Run``.
      state: the state on the devices.
      start: steps that are done already.
    """
    started = time.perf_counter()
    with open_images(run, start) as images:
        if run.config.stream:
            run = run._replace(data=without_train_images(run.data))
        others = run.engine.put((run.data._replace(**_ONLY_EVALUATED), run.key))
        train = finetune = None
        if start < run.cadence.train:
            train = compile_chunks(run, run.chunk, (state, *others), images)
        if run.cadence.last > run.cadence.train:
            nothing = itertools.repeat(None)
            finetune = compile_chunks(run, run.finetune, (state, *others), nothing)
        evaluate = compile_evaluate(run, state)
        yield Programs(train, finetune, evaluate, time.perf_counter() - started)


@contextlib.contextmanager
def open_images(run: Run, start: int) -> Iterator[Iterator[Any]]:
    """An iterator over the images of the compiled calls from step ``start`` on.

    Without ``config.stream`` nothing is sent, and None comes.

    Args:
      run: the ``Run``, its data with all images.
      start: steps that are done already, a multiple of ``config.log_every``.
    """
    if not run.config.stream:
        yield itertools.repeat(None)
        return
    num_steps = run.num_steps
    indices = run.data._replace(images=None, test_images=None, test_labels=None)
    indices = jax.tree.map(jnp.asarray, indices)
    rows = jax.jit(functools.partial(make_rows(run.batches, num_steps), indices, run.key))
    share = run.batches.batch_size // jax.process_count()
    first = jax.process_index() * share
    chunks = data.stream(
        run.data.images,
        lambda chunk: rows(chunk * num_steps),
        min(start, run.cadence.train) // num_steps,
        run.cadence.train // num_steps,
        columns=slice(first, first + share),
        put=lambda images: run.engine.put_images(images[0] if num_steps == 1 else images),
    )
    with contextlib.closing(cast(Any, chunks)):  # its threads
        yield chunks


def compile_chunks(
    run: Run, chunk: Step, arguments: Sequence[Any], images: Iterator[Any]
) -> Callable[[TrainState], tuple[TrainState, dict[str, np.ndarray]]]:
    """Returns ``train(state) -> (state, metrics)``: as many steps as one line of metrics covers.

    Args:
      run: the ``Run``.
      chunk: ``run.chunk`` or ``run.finetune``.
      arguments: state, run data and key, on the devices.
      images: an iterator over the calls' images; of None where they are not streamed.

    Returns:
      The function; ``metrics`` is a dict of host arrays ``[steps]``, of several
      seeds ``[seeds, steps]``.
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
    """Returns ``evaluate(state) -> {set: classes [n]}``, of several seeds ``[seeds, n]``.

    The sets are ``test``, and ``val`` where there is one; with an average of the parameters also
    ``ema_test`` and ``ema_val``, predicted by it. All devices share the images.

    Args:
      run: the ``Run``.
      state: a state on the devices, for its shapes.
    """
    several = run.config.seeds > 1
    sets = {"test": run.data.test_images}
    if run.config.val_size:
        sets["val"] = run.data.images[run.data.val.index]
    compiled = {
        name: _compile_predict(run, state, images, 0 if several and name == "val" else None)
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

    ``images_axis`` is 0 where seeds have images of their own.
    """
    predict, axis = run.predict, 0 if images_axis is None else 1
    if run.config.seeds > 1:
        predict = jax.vmap(predict, in_axes=(0, 0, images_axis))
    devices, count = run.engine.num_devices, images.shape[axis]
    size = _EVALUATED * run.batches.batch_size // run.config.micro_batches
    size = -(-min(size, count) // devices) * devices

    def batch(start: int) -> np.ndarray:
        """The images from ``start`` on; where there are too few, some are repeated."""
        return np.take(images, np.arange(start, start + size) % count, axis)

    weights = (state.params, state.model_state)
    compiled = run.engine.compile_predict(predict, weights, batch(0))

    def classes(weights: Any) -> np.ndarray:
        parts = [compiled(weights, batch(start)) for start in range(0, count, size)]
        return np.concatenate(parts, -1)[..., :count]

    return classes


def figures_of(run: Run, classes: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures of an evaluation by their names; of several seeds they are lists."""
    labels = {"test": run.data.test_labels, "val": run.data.val.label}
    figures: dict[str, Any] = {}
    for name, predictions in classes.items():
        known = np.broadcast_to(labels[name.removeprefix("ema_")], predictions.shape)
        if run.config.seeds == 1:
            figures |= classification_metrics(name, known, predictions)
            continue
        pairs = zip(known, predictions, strict=True)
        each = [classification_metrics(name, *pair) for pair in pairs]
        figures |= {figure: [one[figure] for one in each] for figure in each[0]}
    return figures
