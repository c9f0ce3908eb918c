"""The training loop: many steps in one compiled call, then log, evaluate, save."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tqdm
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from l2rw_jax import data
from l2rw_jax._messages import reason
from l2rw_jax.training import checkpoint
from l2rw_jax.training import workdir as files
from l2rw_jax.training.compile import compiled, figures_of
from l2rw_jax.training.config import validate
from l2rw_jax.training.errors import Ended, OutOfMemory, RunError
from l2rw_jax.training.interrupt import Stopped, stop_on_signal
from l2rw_jax.training.metrics import noise_auroc, summarize_steps
from l2rw_jax.training.resolve import Run, resolve
from l2rw_jax.training.state import TrainState, mean_over_draws

Evaluations = dict[int, dict[str, Any]]  # figures by step
Classes = Mapping[str, np.ndarray]  # what was predicted, by the set's name
Log = Callable[[dict[str, Any], Classes, TrainState], None]


def train_and_evaluate(config: ConfigDict, workdir: files.StrPath) -> dict[str, Any]:
    """Trains by one method from one seed, or several side by side, and leaves its files.

    Args:
      config: fields as ``default_config`` has them.
      workdir: folder of the run. One that holds this run's result is left as it is; one that
        holds its checkpoints continues from the newest: on the same devices, bit for bit as if
        never stopped.

    Returns:
      The result, a dict, as in result.json; of several seeds, figures are lists.

    Raises:
      ConfigError: the run is not possible as configured; nothing was written.
      RunError: the run cannot continue; earlier checkpoints are kept. A run that diverged has
        ended: the same call raises the same error.
      Stopped: SIGTERM or SIGINT came; the state is saved, or the result after the last step.
    """
    config, workdir = validate(config), files.as_folder(workdir)
    result = files.check_workdir(workdir, config)
    if result is not None:
        return result
    run = resolve(config)
    writes = jax.process_index() == 0
    with files.locked(workdir) if writes else contextlib.nullcontext(), stop_on_signal() as asked:
        result = files.check_workdir(workdir, config)  # again: another process may have been here
        if result is not None:
            return result
        if writes:
            files.write_json(workdir / files.CONFIG, config.to_dict())
        with _one_line(config):
            result = _train(run, workdir, asked, writes)
        if asked():  # too late for this run, but others may be about to follow
            raise Stopped(f"stopped after the last step; the result is in {workdir}.")
        return result


@contextlib.contextmanager
def _one_line(config: ConfigDict) -> Iterator[None]:
    """Errors of data and memory during a run, as a ``RunError``."""
    try:
        yield
    except data.ReadError as error:
        raise RunError(f"config.dataset={config.dataset}: {error}") from error
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemory(
            f"config.model={config.model}: out of memory ({reason(error)[:200]}); try more "
            "config.micro_batches, config.remat, or a smaller config.batch_size."
        ) from error


def _train(run: Run, workdir: Path, asked: Callable[[], bool], writes: bool) -> dict[str, Any]:
    engine, cadence = run.engine, run.cadence
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            checkpoint.open_checkpoints(workdir, run.config.keep_checkpoints)
        )
        start, state, evaluations = _start(run, checkpoints)
        if writes:
            files.keep_metrics(workdir, start)
        programs = stack.enter_context(compiled(run, state, start))
        log = stack.enter_context(_open_log(run, workdir, start)) if writes else None
        progress = {"initial": start, "total": cadence.last, "unit": "step"}
        bar = tqdm.tqdm(**progress, desc=run.config.method, disable=None if writes else True)
        stack.enter_context(bar)

        seconds = 0.0
        for step in range(start + cadence.log, cadence.last + 1, cadence.log):
            started = time.perf_counter()
            state, metrics = (programs.train if step <= cadence.train else programs.finetune)(state)
            elapsed = time.perf_counter() - started
            seconds += elapsed
            line: dict[str, Any] = {"step": step} | summarize_steps(metrics)
            line["steps_per_second"] = cadence.log / elapsed
            classes = {}
            if step % cadence.evaluate == 0 or step in (cadence.train, cadence.last):
                classes = programs.evaluate(state)
                evaluations[step] = figures_of(run, classes)
                line |= evaluations[step]
            if log:
                log(line, classes, state)
            end = _reason_to_end(run, workdir, step, metrics, asked())
            if step % cadence.save == 0 or step == cadence.last or end:
                ended = str(end) if isinstance(end, RunError) else ""
                notes = files.to_json({"evaluations": evaluations, "ended": ended})
                checkpoint.save(checkpoints, engine.to_save(state), notes)
            if end:
                checkpoint.finish(checkpoints)
                if writes and ended:
                    files.write_json(workdir / files.ENDED, {"step": step, "reason": ended})
                raise end
            bar.update(cadence.log)
            bar.set_postfix(_progress(line, evaluations))

    speed = (cadence.last - start) / seconds if seconds else None
    times = {"steps_per_second": speed, "compile_seconds": programs.seconds}
    return _finish(run, workdir, state, evaluations, times, writes)


def _start(run: Run, checkpoints: ocp.CheckpointManager) -> tuple[int, TrainState, Evaluations]:
    """The step to go on from, the state on the devices, and the evaluations so far."""
    restored = checkpoint.restore_newest(checkpoints, run.engine.like(run.create))
    start = _agreed(0 if restored is None else int(np.max(restored[0].step)))
    if restored is None:
        return start, run.engine.init(run.create), {}
    state, notes = restored
    if notes["ended"]:  # as ended.json says, unless that is lost
        raise Ended(f"{notes['ended']} That run has ended; take another workdir to start it anew.")
    evaluations = {int(step): figures for step, figures in notes["evaluations"].items()}
    return start, run.engine.put_state(state), evaluations


def _finish(
    run: Run,
    workdir: Path,
    state: TrainState,
    evaluations: Evaluations,
    times: dict[str, Any],
    writes: bool,
) -> dict[str, Any]:
    """Writes weights.npz and result.json; returns the result."""
    weight_sum, margin_sum, count, bad_steps = run.engine.get(
        (state.weight_sum, state.margin_sum, state.weight_count, state.bad_steps)
    )
    examples = {
        "mean_weight": mean_over_draws(weight_sum, count),
        "mean_margin": mean_over_draws(margin_sum, count),
        "count": count,
        "corrupted": run.data.corrupted,
    }
    result = _result(run, evaluations, examples)
    result |= {"bad_steps": bad_steps, "steps": run.cadence.train, **times}
    result |= files.environment(run.engine.num_devices)
    if writes:
        files.write_weights(workdir, examples)
        files.write_json(workdir / files.RESULT, result)
    if jax.process_count() > 1:  # what comes next may read it
        multihost_utils.sync_global_devices("result")
    return files.to_json(result)


def _agreed(start: int) -> int:
    """The step to continue from, which must be the same in all processes."""
    if jax.process_count() > 1:
        starts = multihost_utils.process_allgather(np.array(start)).tolist()
        if len(set(starts)) > 1:
            raise RunError(
                f"the processes read checkpoints of different steps, {starts}: try again."
            )
    return start


@contextlib.contextmanager
def _open_log(run: Run, workdir: Path, start: int) -> Iterator[Log]:
    """Yields ``log(line, classes, state)``; without an evaluation there are no classes."""
    with contextlib.ExitStack() as stack:
        boards: list[Any] = []
        if run.config.tensorboard:
            from l2rw_jax.training.tensorboard import open_board  # an extra, and slow to import

            boards.append(stack.enter_context(open_board(run, workdir, start)))

        def log(line: dict[str, Any], classes: Classes, state: TrainState) -> None:
            files.append_metrics(workdir, line)
            for board in boards:
                board(line, classes, run.engine.get((state.weight_sum, state.weight_count)))

        yield log


def _progress(line: dict[str, Any], evaluations: Evaluations) -> dict[str, str]:
    """The figures behind the progress bar; of several seeds, their means."""
    shown = {"loss": f"{np.mean(line['loss']):.3f}"}
    if evaluations:
        shown["accuracy"] = f"{np.mean(evaluations[max(evaluations)]['test_accuracy']):.3f}"
    return shown


def _reason_to_end(
    run: Run, workdir: Path, step: int, metrics: dict[str, np.ndarray], asked: bool
) -> Exception | None:
    """The exception to end the run with after this step; None to continue."""
    most = run.config.max_bad_steps
    row = np.atleast_2d(metrics["bad_in_a_row"]).min(0)  # while one seed is good it goes on
    if (row >= most).any():
        at = int(np.argmax(row >= most))
        first = step - run.cadence.log + 1 + at + 1 - int(row[at])
        return RunError(diverged(f"step {first}", most, workdir))
    if asked and step < run.cadence.last:
        return Stopped(
            f"stopped after step {step} of {run.cadence.last}, saved in {workdir}; the same "
            "command goes on."
        )
    return None


def diverged(where: str, most: int, workdir: files.StrPath) -> str:
    """The message of a run that ends after ``most`` bad steps in a row."""
    return (
        f"{where}: the loss, the gradient or all scores were not finite for {most} steps in a "
        f"row (config.max_bad_steps); the last good parameters are saved in {workdir}; try a "
        "smaller config.learning_rate or a config.clip_norm."
    )


def _result(
    run: Run, evaluations: Evaluations, examples: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """The training's part of result.json; of several seeds, a list under each figure."""
    config, last = run.config, max(evaluations)
    accuracy = [evaluations[step]["test_accuracy"] for step in evaluations]

    def auroc(value: str) -> Any:
        arrays = [examples[name] for name in (value, "count", "corrupted")]
        if config.seeds == 1:
            return noise_auroc(*arrays)
        return [noise_auroc(*one) for one in zip(*arrays, strict=True)]

    seeds: dict[str, Any] = {"seed": config.seed}
    if config.seeds > 1:
        seeds = {"seeds": list(range(config.seed, config.seed + config.seeds))}
    result = {"method": config.method, "dataset": config.dataset} | seeds | evaluations[last]
    result |= {"best_test_accuracy": np.max(accuracy, 0)}
    result |= {"noise_auroc": auroc("mean_weight"), "margin_auroc": auroc("mean_margin")}
    if config.finetune_steps:
        before = evaluations[config.steps]["test_accuracy"]
        result["test_accuracy_before_finetune"] = before
    return result
