"""The training loop: many steps in one compiled call, then log, evaluate, save."""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import tqdm
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from l2rw_jax import data
from l2rw_jax.models import Model, create_model
from l2rw_jax.training import checkpoint
from l2rw_jax.training import workdir as files
from l2rw_jax.training.compile import compile_evaluate, compile_run, steps_per_call
from l2rw_jax.training.config import ConfigError, RunError, validate
from l2rw_jax.training.interrupt import Stopped, stop_on_signal
from l2rw_jax.training.metrics import noise_auroc, summarize_steps
from l2rw_jax.training.parallel import AXIS, Engine, make_engine
from l2rw_jax.training.prepare import RunData, prepare_replicas, without_train_images
from l2rw_jax.training.state import TrainState, initial_state, make_optimizer, mean_weights
from l2rw_jax.training.step import make_rows

Evaluations = dict[int, dict[str, Any]]  # figures by step

# No step reads them: they need not lie on every device.
_ONLY_EVALUATED: dict[str, Any] = {"test_images": None, "test_labels": None}


def train_and_evaluate(config: ConfigDict, workdir: files.StrPath) -> dict[str, Any]:
    """Trains by one method from one seed, or several side by side, and leaves its files.

    Args:
      config: fields as ``default_config`` has them.
      workdir: folder of the run. One that holds this run's result is left as it is; one that
        holds its checkpoints goes on from the newest: on the same devices bit for bit as if never
        stopped.

    Returns:
      The result, a dict, as in result.json; of replicas, figures are lists.

    Raises:
      ConfigError: the run cannot be as asked for; nothing was written.
      RunError: the run cannot go on; earlier checkpoints are kept.
      Stopped: SIGTERM or SIGINT came; the state is saved, or the result if that was the end.
    """
    validate(config)
    result = files.check_workdir(workdir, config)
    if result is not None:
        return result
    run_data, model, optimizer = check(config)
    writes = jax.process_index() == 0
    with files.locked(workdir) if writes else contextlib.nullcontext(), stop_on_signal() as asked:
        result = files.check_workdir(workdir, config)  # again: another process may have been here
        if result is not None:
            return result
        try:
            if writes:
                files.write_json(f"{workdir}/{files.CONFIG}", config.to_dict())
            checkpoints = checkpoint.open_checkpoints(workdir, config.keep_checkpoints)
            with checkpoint.finished_on_error(checkpoints):
                result = _train(
                    config, workdir, checkpoints, run_data, model, optimizer, asked, writes
                )
        except data.ReadError as error:
            raise RunError(f"config.dataset={config.dataset}: {error}") from error
        except OSError as error:
            raise RunError(
                f"workdir: {workdir} cannot be written: {error.strerror or error}; earlier "
                "checkpoints are kept, and the same command goes on from them."
            ) from error
        if asked():  # too late for this run, but others may be about to follow
            raise Stopped(f"stopped after the last step; the result is in {workdir}.")
        return result


def _train(
    config: ConfigDict,
    workdir: files.StrPath,
    checkpoints: ocp.CheckpointManager,
    run_data: RunData,
    model: Model,
    optimizer: optax.GradientTransformation,
    asked: Callable[[], bool],
    writes: bool,
) -> dict[str, Any]:
    state, key = initial_state(config, model, optimizer, run_data)
    state = checkpoint.restore_newest(checkpoints, jax.device_get(state))
    start = _agreed(int(np.max(state.step)))
    evaluations = _earlier_evaluations(workdir, start, writes)
    last = config.steps + config.finetune_steps

    started = time.perf_counter()
    engine = make_engine(config, num_steps=steps_per_call(config))
    with open_images(config, engine, run_data, key, start) as images:
        on_host = without_train_images(run_data) if config.stream else run_data
        state, *others = engine.put((state, on_host._replace(**_ONLY_EVALUATED), key))
        compile_ = functools.partial(
            compile_run, config, model, optimizer, engine, (state, *others)
        )
        train = compile_(images)
        if config.finetune_steps:
            finetune = compile_(itertools.repeat(None), finetune=True)
        evaluate = compile_evaluate(config, model, engine, state, on_host)
        compile_seconds = time.perf_counter() - started

        seconds = 0.0
        progress = {"initial": start, "total": last, "unit": "step", "desc": config.method}
        with tqdm.tqdm(**progress, disable=None if writes else True) as bar:
            for step in range(start + config.log_every, last + 1, config.log_every):
                started = time.perf_counter()
                state, metrics = (train if step <= config.steps else finetune)(state)
                elapsed = time.perf_counter() - started
                seconds += elapsed
                line: dict[str, Any] = {"step": step} | summarize_steps(metrics)
                line["steps_per_second"] = config.log_every / elapsed
                if step % config.eval_every == 0 or step in (config.steps, last):
                    evaluations[step] = evaluate(state)
                    line |= evaluations[step]
                if writes:
                    files.append_metrics(workdir, line)
                end = _reason_to_end(config, workdir, step, metrics, asked())
                if step % config.checkpoint_every == 0 or step == last or end:
                    checkpoint.save(checkpoints, engine.get(state))
                if end:
                    checkpoint.close(checkpoints)
                    raise end
                bar.update(config.log_every)
                bar.set_postfix(_progress(line, evaluations))

    checkpoint.close(checkpoints)
    state = engine.get(state)
    result = _result(config, state, evaluations, run_data.corrupted)
    result |= {
        "steps_per_second": (last - start) / seconds if seconds else None,
        "compile_seconds": compile_seconds,
        **files.environment(),
    }
    if writes:
        files.write_weights(workdir, mean_weights(state), state.weight_count, run_data.corrupted)
        files.write_json(f"{workdir}/{files.RESULT}", result)
    if jax.process_count() > 1:  # what comes next may read it
        multihost_utils.sync_global_devices("result")
    return files.to_json(result)


def _agreed(start: int) -> int:
    """The step to go on from, which must be the same in all processes."""
    if jax.process_count() > 1:
        starts = multihost_utils.process_allgather(np.array(start)).tolist()
        if len(set(starts)) > 1:
            raise RunError(
                f"the processes read checkpoints of different steps, {starts}: try again."
            )
    return start


def _progress(line: dict[str, Any], evaluations: Evaluations) -> dict[str, str]:
    """What stands behind the progress bar; of replicas, means."""
    shown = {"loss": f"{np.mean(line['loss']):.3f}"}
    if evaluations:
        shown["accuracy"] = f"{np.mean(evaluations[max(evaluations)]['test_accuracy']):.3f}"
    return shown


@contextlib.contextmanager
def open_images(
    config: ConfigDict, engine: Engine, run_data: RunData, key: jax.Array, start: int
) -> Iterator[Iterator[Any]]:
    """An iterator over the images of the compiled calls from step ``start`` on.

    Args:
      config: a validated config; without ``config.stream`` nothing is sent, and None comes.
      engine: the ``Engine``.
      run_data: the data on the host, all images included.
      key: the steps' key.
      start: steps that are done already, a multiple of ``config.log_every``.
    """
    if not config.stream:
        yield itertools.repeat(None)
        return
    num_steps = steps_per_call(config)
    indices = run_data._replace(images=None, test_images=None, test_labels=None)
    indices = jax.tree.map(jnp.asarray, indices)
    rows = jax.jit(functools.partial(make_rows(config, num_steps), indices, key))
    share = config.batch_size // jax.process_count()
    first = jax.process_index() * share
    chunks = data.stream(
        run_data.images,
        lambda chunk: rows(chunk * num_steps),
        min(start, config.steps) // num_steps,
        config.steps // num_steps,
        columns=slice(first, first + share),
        put=lambda images: engine.put_images(images[0] if num_steps == 1 else images),
    )
    with contextlib.closing(cast(Any, chunks)):  # its threads
        yield chunks


def _reason_to_end(
    config: ConfigDict,
    workdir: files.StrPath,
    step: int,
    metrics: dict[str, np.ndarray],
    asked: bool,
) -> Exception | None:
    """The exception to end the run with after this step; None to go on."""
    row = np.atleast_2d(metrics["bad_in_a_row"]).min(0)  # of replicas, while one is good it goes on
    if (row >= config.max_bad_steps).any():
        at = int(np.argmax(row >= config.max_bad_steps))
        first = step - config.log_every + 1 + at + 1 - int(row[at])
        return RunError(
            f"step {first}: the loss, the gradient or all scores were not finite for "
            f"{config.max_bad_steps} steps in a row (config.max_bad_steps); the last good "
            f"parameters are saved in {workdir}; try a smaller config.learning_rate or a "
            "config.clip_norm."
        )
    last = config.steps + config.finetune_steps
    if asked and step < last:
        return Stopped(
            f"stopped after step {step} of {last}, saved in {workdir}; the same command goes on."
        )
    return None


def _result(
    config: ConfigDict, state: TrainState, evaluations: Evaluations, corrupted: np.ndarray
) -> dict[str, Any]:
    """What result.json says of the training; of replicas, a list under each figure."""
    last = max(evaluations)
    accuracy = [evaluations[step]["test_accuracy"] for step in evaluations]
    weights, counts = np.asarray(mean_weights(state)), np.asarray(state.weight_count)
    if config.replicas == 1:
        seeds = {"seed": config.seed}
        auroc: Any = noise_auroc(weights, counts, corrupted)
    else:
        seeds = {"seeds": list(range(config.seed, config.seed + config.replicas))}
        auroc = [noise_auroc(*each) for each in zip(weights, counts, corrupted, strict=True)]
    result = {"method": config.method, "dataset": config.dataset} | seeds | evaluations[last]
    result |= {"best_test_accuracy": np.max(accuracy, 0), "noise_auroc": auroc}
    if config.finetune_steps:
        before = evaluations[config.steps]["test_accuracy"]
        result["test_accuracy_before_finetune"] = before
    return result | {"bad_steps": state.bad_steps, "steps": config.steps}


def _earlier_evaluations(workdir: files.StrPath, start: int, writes: bool) -> Evaluations:
    """The evaluations up to the step that the run goes on from; drops later metrics."""
    return {
        line["step"]: {name: line[name] for name in line if name.startswith(("test_", "val_"))}
        for line in files.keep_metrics(workdir, start, rewrite=writes)
        if "test_accuracy" in line
    }


def check(config: ConfigDict) -> tuple[RunData, Model, optax.GradientTransformation]:
    """Makes all that a run needs, without writing or training anything.

    Returns:
      ``(RunData, Model, optimizer)``, the data on the host.

    Raises:
      ConfigError: the run cannot be as asked for.
    """
    validate(config)
    run_data, num_classes = prepare_replicas(config)
    try:
        model = create_model(
            config.model,
            num_classes=num_classes,
            image_shape=run_data.images.shape[1:],
            dtype=config.dtype,
            dropout=config.dropout,
            batch_norm_axis=AXIS if config.batch_norm == "global" else None,
            remat=config.remat,
        )
    except ValueError as error:
        raise ConfigError(f"config.model={config.model}: {error}") from error
    optimizer = make_optimizer(config)
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    try:
        _, opt_state = jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p), params)
        if any(
            jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(opt_state)
        ):
            raise TypeError("its state holds a random key, which checkpoints do not take")
    except TypeError as error:  # it asks for more than gradients, or an argument is of no use
        raise ConfigError(f"config.optimizer={config.optimizer}: {error}") from error
    return run_data, model, optimizer
