"""The training loop: many steps in one compiled call, then log, evaluate, save."""

import time

import jax
import numpy as np
import tqdm

from l2rw_jax.models import create_model
from l2rw_jax.training import checkpoint
from l2rw_jax.training import workdir as files
from l2rw_jax.training.config import ConfigError, validate
from l2rw_jax.training.metrics import classification_metrics, noise_auroc
from l2rw_jax.training.prepare import prepare, to_device
from l2rw_jax.training.state import create_state, make_optimizer, mean_weights
from l2rw_jax.training.step import make_chunk, make_predict, make_step


def train_and_evaluate(config, workdir):
    """Trains one model by one method from one seed, and leaves its files in ``workdir``.

    Args:
      config: fields as ``default_config`` has them.
      workdir: folder of the run. One that holds this run's result is left as it is; one that
        holds its checkpoints goes on from the newest, bit for bit as if never stopped.

    Returns:
      The result, a dict, as in result.json.

    Raises:
      ConfigError: the run cannot be as asked for; nothing was written.
    """
    validate(config)
    result = files.check_workdir(workdir, config)
    if result is not None:
        return result
    run_data, model, optimizer = check(config)
    files.create_workdir(workdir, config)

    checkpoints = checkpoint.open_checkpoints(workdir)
    init_key, step_key = jax.random.split(jax.random.key(config.seed))
    state = create_state(init_key, model, optimizer, len(run_data.train.index))
    state = checkpoint.restore_newest(checkpoints, state)
    start = int(state.step)
    evaluations = _earlier_evaluations(workdir, start)
    run_data = to_device(run_data)
    started = time.perf_counter()
    run = _compiled(config, model, optimizer, state, run_data, step_key)
    evaluate = _evaluator(config, model, state, run_data)
    compile_seconds = time.perf_counter() - started

    seconds = 0.0
    progress = {"initial": start, "total": config.steps, "unit": "step", "desc": config.method}
    with tqdm.tqdm(**progress, disable=None) as bar:
        for step in range(start + config.log_every, config.steps + 1, config.log_every):
            started = time.perf_counter()
            state, metrics = run(state)
            elapsed = time.perf_counter() - started
            seconds += elapsed
            line = {"step": step} | metrics
            line["steps_per_second"] = config.log_every / elapsed
            if step % config.eval_every == 0 or step == config.steps:
                evaluations[step] = evaluate(state)
                line |= evaluations[step]
            files.append_metrics(workdir, line)
            if step % config.checkpoint_every == 0 or step == config.steps:
                checkpoint.save(checkpoints, state)
            bar.update(config.log_every)
            accuracy = evaluations[max(evaluations)]["test_accuracy"] if evaluations else 0.0
            bar.set_postfix(loss=f"{line['loss']:.3f}", accuracy=f"{accuracy:.3f}")

    checkpoints.close()
    weights, counts = jax.device_get((mean_weights(state), state.weight_count))
    corrupted = np.asarray(run_data.corrupted)
    files.write_weights(workdir, weights, counts, corrupted)
    result = {
        "method": config.method,
        "dataset": config.dataset,
        "seed": config.seed,
        **evaluations[config.steps],
        "best_test_accuracy": max(e["test_accuracy"] for e in evaluations.values()),
        "noise_auroc": noise_auroc(weights, counts, corrupted),
        "steps": config.steps,
        "steps_per_second": (config.steps - start) / seconds if seconds else None,
        "compile_seconds": compile_seconds,
        **files.environment(),
    }
    files.write_json(f"{workdir}/{files.RESULT}", result)
    return result


def _earlier_evaluations(workdir, start):
    """The evaluations up to the step that the run goes on from; drops later metrics."""
    return {
        line["step"]: {name: line[name] for name in line if name.endswith("_accuracy")}
        for line in files.keep_metrics(workdir, start)
        if "test_accuracy" in line
    }


def check(config):
    """Makes all that a run needs, without writing or training anything.

    Returns:
      ``(RunData, Model, optimizer)``, the data on the host.

    Raises:
      ConfigError: the run cannot be as asked for.
    """
    validate(config)
    run_data, num_classes = prepare(config)
    try:
        model = create_model(
            config.model,
            num_classes=num_classes,
            image_shape=run_data.images.shape[1:],
            dtype=config.dtype,
            dropout=config.dropout,
        )
    except ValueError as error:
        raise ConfigError(f"config.model={config.model}: {error}") from error
    optimizer = make_optimizer(config)
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    try:
        jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p), params)
    except TypeError as error:  # it asks for more than gradients, or an argument is of no use
        raise ConfigError(f"config.optimizer={config.optimizer}: {error}") from error
    return run_data, model, optimizer


def _compiled(config, model, optimizer, state, run_data, key):
    """Returns ``run(state) -> (state, metrics)``: ``log_every`` steps, metrics as their means."""
    # One compiled call does them all, but for convolutions on a CPU: inside a loop, XLA's CPU
    # compiler leaves their weight gradients in a form that is ten times slower (JAX 0.10, 0.11).
    single = jax.default_backend() == "cpu" and not config.model.startswith("mlp")
    chunk = make_chunk(make_step(config, model, optimizer), 1 if single else config.log_every)
    compiled = jax.jit(chunk, donate_argnums=0).lower(state, run_data, key).compile()

    def run(state):
        collected = []
        for _ in range(config.log_every if single else 1):
            state, metrics = compiled(state, run_data, key)
            collected.append(metrics)
        collected = jax.device_get(collected)  # waits for the steps
        steps = {name: np.ravel([m[name] for m in collected]) for name in collected[0]}
        extremes = {
            "grad_norm_max": steps["grad_norm"].max(),
            "effective_sample_size_min": steps["effective_sample_size"].min(),
        }
        return state, {name: np.mean(values) for name, values in steps.items()} | extremes

    return run


def _evaluator(config, model, state, run_data):
    """A function from a state to its figures on the test set and the hyper-validation set."""
    sets = {"test": (run_data.test_images, np.asarray(run_data.test_labels))}
    if config.val_size:
        sets["val"] = (run_data.images[run_data.val.index], np.asarray(run_data.val.label))
    predict = jax.jit(make_predict(config, model))
    compiled = {
        name: predict.lower(state.params, state.model_state, images).compile()
        for name, (images, _) in sets.items()
    }

    def evaluate(state):
        figures: dict = {}
        for name, (images, labels) in sets.items():
            predictions = compiled[name](state.params, state.model_state, images)
            figures |= classification_metrics(name, labels, np.asarray(predictions))
        return figures

    return evaluate
