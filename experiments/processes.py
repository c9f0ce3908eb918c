"""One run of several processes: the flags that name the others, joining, and the end."""

import contextlib
import os
import re
import signal
import socket
import sys
import threading

import jax
from absl import flags

from l2rw_jax._messages import reason
from l2rw_jax.training import ConfigError

DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes, found by JAX: Slurm, TPU pods, GKE."
)
_CLUSTER = ("coordinator", "num_processes", "process_id")
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0 of several.")
flags.DEFINE_integer("num_processes", None, "How many processes run.", lower_bound=1)
flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)

PATIENCE = 45  # seconds that processes wait for each other at the start
_GOES_ON = "the same command, in all processes, goes on from the last checkpoint"
_LOST = f"error: this process was killed, or another of the run is gone: see its log; {_GOES_ON}\n"


@contextlib.contextmanager
def joined():
    """Joins the processes that the flags name (none by default), and leaves them at the end.

    Raises:
      ConfigError: the flags do not go together, or there is no such cluster.
    """
    cluster = {name: flags.FLAGS[name].value for name in _CLUSTER}
    given = [name for name in _CLUSTER if cluster[name] is not None]
    if not given and not DISTRIBUTED.value:
        yield
        return
    if given:
        check_cluster(**cluster)
    with _last_line() as end:
        _initialize(end, *cluster.values())
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            told = f"another process is gone, or a device failed ({reason(error)})"
            end(f"error: {told}; {_GOES_ON}", 1)
        finally:  # waits for the others; at exit, a failure would go unnoticed
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                jax.distributed.shutdown()


def check_cluster(coordinator, num_processes, process_id):
    """Raises unless the three flags are all given and go together."""
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    for missing in (name for name, value in given.items() if value is None):
        beside = next(name for name, value in given.items() if value is not None)
        raise ConfigError(
            f"--{missing}: missing beside --{beside}; takes all of "
            + ", ".join(f"--{name}" for name in given)
            + ", or --distributed alone"
        )
    address = re.fullmatch(r"[^\s/]+:(\d{1,5})", coordinator)
    if not address or not 0 < int(address[1]) < 2**16:
        raise ConfigError(
            f"--coordinator: got {coordinator!r}; takes HOST:PORT of process 0, the port in "
            "1..65535, as in localhost:1234"
        )
    if process_id >= num_processes:
        raise ConfigError(
            f"--process_id: got {process_id}; takes 0..{num_processes - 1} of --num_processes="
            f"{num_processes}"
        )
    if process_id == 0:  # or JAX would end in a segmentation fault
        try:
            socket.create_server(("", int(address[1]))).close()
        except OSError as error:
            raise ConfigError(
                f"--coordinator: port {address[1]} cannot be had here "
                f"({os.strerror(error.errno or 0)}); take another"
            ) from None


def _initialize(end, coordinator, num_processes, process_id):
    """``jax.distributed.initialize``, without its abort if the others do not come.

    A process that vanishes later ends the others within a minute: JAX aborts those that still wait.
    """
    nobody = (
        f"error: --coordinator={coordinator}: not all processes have come in {PATIENCE} s; start "
        "all of them at about the same time"
    )
    timer = threading.Timer(PATIENCE, end, [nobody, 2])
    timer.start()
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=30,
            shutdown_timeout_seconds=30,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"--distributed: no cluster that JAX knows, or its coordinator cannot be reached "
            f"({reason(error)}); give --coordinator=HOST:PORT, --num_processes and "
            "--process_id"
        ) from error
    finally:
        timer.cancel()


@contextlib.contextmanager
def _last_line():
    """Yields ``end(line, status)``; if JAX's runtime aborts the process, says so in a last line.

    A child, forked before JAX has threads, waits on a pipe for a word that does not come if this
    process is aborted or killed.
    """
    hears, tells = os.pipe()
    if not os.fork():
        for number in (signal.SIGINT, signal.SIGTERM):  # which may be sent to all of a job
            signal.signal(number, signal.SIG_IGN)
        os.close(tells)
        if not os.read(hears, 1):
            os.write(2, _LOST.encode())
        os._exit(0)
    os.close(hears)

    def end(line, status):
        print(line, file=sys.stderr, flush=True)
        os.write(tells, b".")
        os._exit(status)  # a usual end would wait for the others

    try:
        yield end
    finally:
        os.write(tells, b".")
        os.close(tells)
