"""The trainer's options that cost time or save it, each timed on its own compiled calls."""

import contextlib
import functools
import tempfile
import time

import numpy as np

from configs import digits
from experiments.benchmark import timing
from experiments.scaling.trainer import compile_call
from l2rw_jax import data
from l2rw_jax.training import train_and_evaluate
from l2rw_jax.training.batches import steps_per_call

LEAST = 3  # rounds
IMAGES = "synthetic-28x28x1-10"  # as large as MNIST's
CIFAR = {"dataset": "synthetic-32x32x3-10", "pad": 4, "flip": True, "weight_decay": 2e-4}
TINY = {"batch_size": 8, "clean_batch_size": 8}


def configure(model, **fields):
    """The digits config with another model, on images of the size that it is for."""
    config = digits.get_config()
    config.clean_size = config.clean_batch_size = 100
    if model.startswith(("resnet", "wrn")):
        config.update(CIFAR)
    elif model == "lenet":  # a clean batch as in the paper's section 4.1
        config.update({"dataset": IMAGES, "clean_size": 10, "clean_batch_size": 10})
    config.update({"model": model, "steps": 10**7, "eval_every": 10**7, "checkpoint_every": 10**7})
    config.update(fields)
    return config


def prepare(stack, config, per_call, steps, lead=0):
    """The trainer's compiled call.

    Args:
      stack: an ``ExitStack`` that ends what the setting started.
      config: a validated config.
      per_call: steps in a compiled call.
      steps: timed steps a turn.
      lead: steps before them in each turn, that use up what was streamed in another's turn.

    Returns:
      A ``timing.Ready``.
    """
    call = compile_call(stack, config, per_call)
    about = {field: config[field] for field in ("dataset", "dtype", "stream")}
    about |= {"seeds": config.seeds, "batch": config.batch_size}
    about |= {"clean_batch": config.clean_batch_size, "steps_per_call": per_call}
    about["compile_seconds"] = call.compile_seconds

    def turn():
        if lead:
            call.run(lead // per_call)
        started = time.perf_counter()
        call.run(steps // per_call)
        return time.perf_counter() - started

    return timing.Ready(turn, about, steps * config.seeds)


def prepare_run(stack, config):
    """A whole run for each turn, its compilation not counted."""
    del stack

    def turn():
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            result = train_and_evaluate(config, folder)
            return time.perf_counter() - started - result["compile_seconds"]

    about = {"dataset": config.dataset, "dtype": config.dtype, "batch": config.batch_size}
    about |= {"clean_batch": config.clean_batch_size, "checkpoint_every": config.checkpoint_every}
    return timing.Ready(turn, about, config.steps)


def comparisons(*, gpu, smoke):
    """``{(what is compared, model): {setting: make}}``; ratios are to the first setting.

    ``make(stack)`` returns a ``timing.Ready``.
    """
    most = 10 if smoke else 100
    fields = {"log_every": most} | (TINY if smoke else {})
    mlp = "mlp-8" if smoke else "mlp-256-256"
    networks = ["resnet-8"] if smoke else ["resnet-32", "wrn-28-10"]
    networks = networks if gpu else []

    def call(model, per_call, steps, lead=0, **others):
        config = configure(model, **(fields | others))
        return functools.partial(prepare, config=config, per_call=per_call, steps=steps, lead=lead)

    found: dict = {}
    for model in (mlp, *networks):
        steps = 5 * most if model == mlp else most
        settings = {f"K = {k}": call(model, k, steps) for k in (1, 10, most)}
        found["steps a call", model] = settings
    if not gpu and not smoke:  # see compile.py: why the trainer makes no loop of these
        found["steps a call", "lenet"] = {f"K = {k}": call("lenet", k, 10) for k in (1, 10)}
    for model in (mlp, *networks[:1]):
        found["seeds side by side", model] = {
            str(count): call(model, most, most, seeds=count)
            for count in ((1, 2) if smoke else (1, 2, 5, 10))
        }
    for model in (mlp, *networks):
        found["precision", model] = {
            dtype: call(model, most, most, dtype=dtype) for dtype in ("float32", "bfloat16")
        }
    dataset = IMAGES if smoke else mnist()
    for model in [mlp] if smoke else [mlp, "lenet"]:
        per_call = steps_per_call(configure(model, **fields))
        found["images", model] = {
            where: call(
                model,
                per_call,
                max(20, 10 * per_call),
                4 * per_call,  # no more than that lies ready
                dataset=dataset,
                stream=where == "streamed",
            )
            for where in ("resident", "streamed")
        }
    model = (mlp, *networks[:1])[-1]
    steps = 50 if smoke else 5000
    every = {"only at the end": steps, f"every {steps // 5} steps": steps // 5}
    ends = {"steps": steps, "eval_every": steps}
    found["checkpoints", model] = {
        name: functools.partial(
            prepare_run, config=configure(model, **fields, **ends, checkpoint_every=n)
        )
        for name, n in every.items()
    }
    return found


def mnist():
    """MNIST where it is prepared, else a synthetic set of images of its size."""
    try:
        return data.load("mnist").name
    except (OSError, ValueError, data.ReadError):
        return IMAGES


def measure(name, model, makers, *, seconds, least=LEAST, most=None):
    """Rows of one comparison, one a setting.

    Args:
      name: what is compared.
      model: the model's name.
      makers: as ``comparisons`` returns them.
      seconds: time to spend, about.
      least: rounds at least, even if time is short.
      most: rounds at most.

    Returns:
      Dicts; those of settings that did not run have ``error`` and no times.
    """
    with contextlib.ExitStack() as stack:
        made = {setting: functools.partial(make, stack) for setting, make in makers.items()}
        rows, times = timing.measure(made, seconds=seconds, least=least, most=most)
    about = {"comparison": name, "model": model}
    found = {setting: about | {"setting": setting} | row for setting, row in rows.items()}
    return add_ratios(found, times)


def add_ratios(rows, times):
    """Adds speeds to the rows of ``timing.measure``, and ratios of turns in the same round.

    Args:
      rows: ``{setting: row}``.
      times: ``{setting: [seconds a step, of each round]}``, of the settings that ran.

    Returns:
      The rows, a list; the ratios are to the first of them.

    >>> rows = {"a": {"median_ms": 2.0}, "b": {"median_ms": 4.0}}
    >>> add_ratios(rows, {"a": [0.002, 0.002], "b": [0.004, 0.004]})[1]["ratio"]
    2.0
    """
    first = times.get(next(iter(rows)))
    for setting, seconds in times.items():
        row = rows[setting]
        row["steps_per_second"] = 1e3 / row["median_ms"]
        if first:
            ratios = np.array(seconds) / first
            for field, share in (("ratio_q1", 25), ("ratio", 50), ("ratio_q3", 75)):
                row[field] = float(np.percentile(ratios, share))
    return list(rows.values())
