"""The trainer's compiled call by itself: all that the programs here use of its inside."""

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from l2rw_jax.training import check
from l2rw_jax.training.loop import initial_state, open_images
from l2rw_jax.training.parallel import make_engine
from l2rw_jax.training.prepare import without_train_images
from l2rw_jax.training.step import make_chunk, make_step


class Call(NamedTuple):
    """A compiled call and what it works on.

    Attributes:
      run: makes so many calls, waits for them, and returns the last one's metrics on the host.
      text: the compiled program's.
      flops: XLA's count of one step, which is traced for it.
      parameter_bytes: of all parameters.
      compile_seconds: how long compiling took.
    """

    run: Callable[[int], dict[str, Any]]
    text: Callable[[], str]
    flops: Callable[[], float | None]
    parameter_bytes: int
    compile_seconds: float


def compile_call(stack, config, per_call):
    """Compiles the trainer's call.

    Args:
      stack: an ``ExitStack`` that ends what was started.
      config: a config.
      per_call: steps in a call.

    Returns:
      The ``Call``.
    """
    run_data, model, optimizer = check(config)
    state, key = initial_state(config, model, optimizer, run_data)
    parameter_bytes = sum(x.nbytes for x in jax.tree.leaves(state.params))
    engine = make_engine(config, num_steps=per_call)
    images = stack.enter_context(open_images(config, engine, run_data, key, 0))
    if config.stream:
        run_data = without_train_images(run_data)
    state, *others = engine.put((state, run_data, key))
    step = make_step(config, model, optimizer, axis_name=engine.axis_name)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    first = next(images)
    images = itertools.chain([first], images)
    started = time.perf_counter()
    streamed = () if first is None else (first,)
    compiled = engine.compile(make_chunk(step, per_call), state, *others, *streamed)
    compile_seconds = time.perf_counter() - started

    def run(calls):
        nonlocal state
        collected = []
        for _ in range(calls):
            streamed = next(images)
            state, metrics = compiled(state, *others, *(() if streamed is None else (streamed,)))
            collected.append(metrics)
        return engine.get(collected)[-1]

    def flops():
        analysis: Any = jax.jit(step).lower(shapes, *others).cost_analysis()
        return (analysis or {}).get("flops")

    return Call(run, compiled.as_text, flops, parameter_bytes, compile_seconds)
