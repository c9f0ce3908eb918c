"""SIGTERM and SIGINT as a request to stop, which the loop obeys between two chunks."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):  # noqa: N818 - not an error
    """The run was asked to stop. Its state is saved; it continues when it is started again."""


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yields ``asked() -> bool``: whether a signal came, in this process or another of the run.

    A second signal acts as it would have without this. Outside the main thread Python allows no
    handlers, and ``asked`` is always False there.
    """
    came: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        came.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    if threading.current_thread() is threading.main_thread():
        before = {each: signal.signal(each, handle) for each in SIGNALS}

    def asked() -> bool:
        if jax.process_count() == 1:
            return bool(came)
        # The processes must stop after the same chunk, or the others would wait for this one.
        return bool(np.any(multihost_utils.process_allgather(np.array(bool(came)))))

    try:
        yield asked
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
