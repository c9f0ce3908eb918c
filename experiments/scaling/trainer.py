"""The trainer's compiled call by itself; the programs here use no other internals."""

import copy
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from l2rw_jax.training import resolve
from l2rw_jax.training.compile import open_images
from l2rw_jax.training.parallel import make_engine
from l2rw_jax.training.prepare import without_train_images
from l2rw_jax.training.step import make_chunk


class Call(NamedTuple):
    """A compiled call and what it works on.

    Attributes:
      run: makes that many calls, waits for them, and returns the last one's metrics on the host.
      text: the compiled program's.
      parameter_bytes: of all parameters.
      compile_seconds: how long compiling took.
    """

    run: Callable[[int], dict[str, Any]]
    text: Callable[[], str]
    parameter_bytes: int
    compile_seconds: float


def compile_call(stack, config, per_call):
    """Compiles the trainer's call.

    Args:
      stack: an ``ExitStack`` that ends what was started.
      config: a config, on one device or ``jit``.
      per_call: steps in a call, whatever the trainer would choose.

    Returns:
      The ``Call``.
    """
    config = copy.deepcopy(config)
    config.log_every = 1
    run = resolve(config)
    engine = make_engine(run.config, num_steps=per_call)
    chunk = make_chunk(run.chunk, per_call)
    run = run._replace(engine=engine, num_steps=per_call, chunk=chunk)
    images = stack.enter_context(open_images(run, 0))
    if config.stream:
        run = run._replace(data=without_train_images(run.data))
    shapes, state = engine.like(run.create), engine.init(run.create)
    others = engine.put((run.data._replace(test_images=None, test_labels=None), run.key))
    first = next(images)
    images = itertools.chain([first], images)
    started = time.perf_counter()
    streamed = () if first is None else (first,)
    compiled: Any = engine.compile(run.chunk, state, *others, *streamed)
    compile_seconds = time.perf_counter() - started

    def call(count):
        nonlocal state
        collected = []
        for _ in range(count):
            streamed = next(images)
            state, metrics = compiled(state, *others, *(() if streamed is None else (streamed,)))
            collected.append(metrics)
        return engine.get(collected)[-1]

    parameter_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes.params))
    return Call(call, compiled.as_text, parameter_bytes, compile_seconds)
