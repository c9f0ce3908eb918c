"""How programs time what is to be compared: prepared one by one, then in turn, round by round.

A busy moment of the machine then meets all of them. Each round has a random order: one framework's
threads wait actively for a while after its step, and slow down the next.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from l2rw_jax._messages import reason

LEAST = 5  # rounds that quartiles need


class Ready(NamedTuple):
    """What is compiled and ready to be timed.

    Attributes:
      turn: takes ``steps`` steps, or several times as many, and returns the seconds of ``steps``.
      about: fields of the row.
      steps: training steps a turn.
      measure_memory: returns more fields of the row; called after the timing, which it would
        disturb. None where there is no way to measure.
    """

    turn: Callable[[], float]
    about: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    steps: int = 1
    measure_memory: Callable[[], dict[str, Any]] | None = None


def measure(makers, *, seconds, least=LEAST, most=None, reserve=0.0):
    """Prepares what is to be compared, and lets it take turns.

    Args:
      makers: ``{name: make}``; ``make()`` returns a ``Ready``.
      seconds: time to spend, about. Nothing more is prepared once the least rounds of what is
        prepared would not fit into it; those rounds are timed in any case.
      least: rounds, however little time there is.
      most: rounds, however much; None: no limit.
      reserve: share of the time to keep for memory.

    Returns:
      ``(rows, times)`` by name: dicts with the fields of ``Ready.about``, quartiles of the
      milliseconds a step, ``rounds``, and ``error``, which is None but where something did not
      run; and of what ran, the seconds a step of each round.
    """
    started = time.perf_counter()
    end = started + (1 - reserve) * seconds
    rows: dict = {}
    ready: dict = {}
    times: dict = {}
    one_round = 0.0
    order = np.random.default_rng(0)
    for name, make in makers.items():
        rows[name] = {"error": None}
        if ready and time.perf_counter() + least * one_round > end:
            rows[name]["error"] = "not run: out of time (--minutes)"
            continue
        try:
            made = make()
            rows[name] |= made.about
            before = time.perf_counter()
            made.turn()  # warm
        except Exception as error:
            rows[name]["error"] = one_line(error)
        else:
            one_round += time.perf_counter() - before
            ready[name], times[name] = made, []
    for count in itertools.count() if most is None else range(most):
        if not ready or (count >= least and time.perf_counter() > end):
            break
        for name in order.permutation(list(ready)).tolist():
            try:
                times[name].append(ready[name].turn() / ready[name].steps)
            except Exception as error:
                rows[name]["error"] = one_line(error)
                del ready[name], times[name]
    for name, values in times.items():
        quartiles = np.percentile(1e3 * np.array(values), [25, 50, 75]).tolist()
        rows[name] |= dict(zip(("q1_ms", "median_ms", "q3_ms"), quartiles, strict=True))
        rows[name]["rounds"] = len(values)
    for name, made in ready.items():
        if made.measure_memory:
            in_time = time.perf_counter() - started < seconds
            rows[name] |= _measure_memory(made.measure_memory, in_time)
    return rows, times


def _measure_memory(measure_memory, in_time):
    """The memory's fields; where it was not measured they say why."""
    if not in_time:
        return {"memory_kind": "not measured: out of time (--minutes)"}
    try:
        return measure_memory()
    except Exception as error:
        return {"memory_kind": one_line(error)}


def one_line(error):
    """The kind of an error and its first line."""
    text = reason(error) if str(error).strip() else "no message"
    return f"{type(error).__name__}: {text}"[:300]
