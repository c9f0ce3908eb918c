"""What `experiments.throughput` compares, each on the trainer's own compiled calls."""

import contextlib
import functools
import itertools
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from configs import digits
from experiments.throughput_report import summarize
from l2rw_jax import data
from l2rw_jax.training import check, loop, train_and_evaluate
from l2rw_jax.training.compile import steps_per_call
from l2rw_jax.training.parallel import make_engine
from l2rw_jax.training.prepare import without_train_images
from l2rw_jax.training.step import make_chunk, make_step

LEAST = 3  # rounds
# Dense bfloat16 peaks by NVIDIA's datasheets (SXM), flop/s.
PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
IMAGES = "synthetic-28x28x1-10"  # as large as MNIST's
CIFAR = {"dataset": "synthetic-32x32x3-10", "pad": 4, "flip": True, "weight_decay": 2e-4}
TINY = {"batch_size": 8, "clean_batch_size": 8}


class Ready(NamedTuple):
    """A setting that is compiled and ready to be timed.

    Attributes:
      turn: takes ``steps`` steps and returns their seconds.
      steps: training steps a turn; those of all replicas count.
      about: fields of the row.
    """

    turn: Callable[[], float]
    steps: int
    about: dict[str, Any]


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
    """
    run_data, model, optimizer = check(config)
    state, key = loop.initial_state(config, model, optimizer, run_data)
    engine = make_engine(config, num_steps=per_call)
    images = stack.enter_context(loop.open_images(config, engine, run_data, key, 0))
    if config.stream:
        run_data = without_train_images(run_data)
    state, *others = engine.put((state, run_data, key))
    step = make_step(config, model, optimizer, axis_name=engine.axis_name)
    first = next(images)
    images = itertools.chain([first], images)
    about = {field: config[field] for field in ("dataset", "dtype", "replicas", "stream")}
    about |= {"batch": config.batch_size, "clean_batch": config.clean_batch_size}
    if peak() and config.replicas == 1:  # of one step: XLA counts a loop's body once
        analysis: Any = jax.jit(step).lower(state, *others).cost_analysis()
        about |= {"flops": (analysis or {}).get("flops"), "peak": peak()}
    started = time.perf_counter()
    streamed = () if first is None else (first,)
    compiled = engine.compile(make_chunk(step, per_call), state, *others, *streamed)
    about |= {"compile_seconds": time.perf_counter() - started, "steps_per_call": per_call}

    def run(count):
        nonlocal state
        collected = []
        for _ in range(count // per_call):
            streamed = next(images)
            state, metrics = compiled(state, *others, *(() if streamed is None else (streamed,)))
            collected.append(metrics)
        engine.get(collected)  # waits for the steps

    def turn():
        run(lead)
        started = time.perf_counter()
        run(steps)
        return time.perf_counter() - started

    return Ready(turn, steps * config.replicas, about)


def prepare_run(stack, config):
    """A whole run, its compilation not counted, as often as a turn comes."""
    del stack

    def turn():
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            result = train_and_evaluate(config, folder)
            return time.perf_counter() - started - result["compile_seconds"]

    about = {"dataset": config.dataset, "dtype": config.dtype, "batch": config.batch_size}
    about |= {"clean_batch": config.clean_batch_size, "checkpoint_every": config.checkpoint_every}
    return Ready(turn, config.steps, about)


def comparisons(*, gpu, smoke):
    """``{(what is compared, model): {setting: make}}``; ratios are to the first setting.

    ``make(stack)`` returns a ``Ready``.
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
        found["replicas", model] = {
            str(r): call(model, most, most, replicas=r)
            for r in ((1, 2) if smoke else (1, 2, 5, 10))
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


def measure(name, model, makers, *, seconds, least=LEAST):
    """Rows of one comparison, one a setting.

    Args:
      name: what is compared.
      model: the model's name.
      makers: as ``comparisons`` returns them.
      seconds: time to spend, about.
      least: rounds, however little time there is.

    Returns:
      Dicts; those of settings that did not run have ``error`` and no figures.
    """
    end = time.perf_counter() + seconds
    rows: dict = {}
    times: dict = {}
    with contextlib.ExitStack() as stack:
        ready: dict = {}
        for setting, make in makers.items():
            rows[setting] = {"comparison": name, "model": model, "setting": setting, "error": None}
            try:
                made = make(stack)
                rows[setting] |= made.about
                made.turn()  # warm
            except Exception as error:
                rows[setting]["error"] = one_line(error)
            else:
                ready[setting], times[setting] = made, []
        for count in itertools.count():
            if not ready or (count >= least and time.perf_counter() > end):
                break
            for setting, made in list(ready.items()):
                try:
                    times[setting].append(made.turn() / made.steps)
                except Exception as error:
                    rows[setting]["error"] = one_line(error)
                    del ready[setting], times[setting]
    return summarize(rows, times)


def peak():
    """The device's peak in flop/s; None where ``PEAKS`` does not know it."""
    kind = jax.devices()[0].device_kind
    return next((flops for name, flops in PEAKS.items() if name in kind), None)


def one_line(error):
    """The kind of an error and its first line."""
    text = str(error).strip() or "no message"
    return f"{type(error).__name__}: {text.splitlines()[0]}"[:300]
