"""What the programs share: the config flag, and one line instead of a traceback for a mistake."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from l2rw_jax.training import ConfigError, RunError, Stopped, default_config
from l2rw_jax.training.config import check_name
from l2rw_jax.training.workdir import flatten

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "File with get_config(variant), such as configs/digits.py or configs/digits.py:smoke; any "
    "field can be overridden, as in --config.seed=1.",
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for what is written.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "One of several processes, found by JAX: Slurm, TPU pods, GKE."
)
_CLUSTER = ("coordinator", "num_processes", "process_id")
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0 of several.")
flags.DEFINE_integer("num_processes", None, "How many processes run.", lower_bound=1)
flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.", lower_bound=0)


# Exit statuses: a mistake in what was asked for; a run that cannot go on; one that was asked to
# stop and goes on when it is started again (sysexits.h's EX_TEMPFAIL).
STATUS = {ConfigError: 2, RunError: 1, Stopped: 75}


def run(main, *, required=("config", "workdir")):
    """Runs ``main()`` with the flags parsed; what ends it early is one line and an exit status."""
    logging.set_verbosity(logging.WARNING)  # not which accelerators JAX did not find
    sys.unraisablehook = _unraisable
    flags.mark_flags_as_required(list(required))
    app.run(lambda argv: _one_line(_start, main), flags_parser=lambda argv: _one_line(_parse, argv))


def _start(main):
    """Joins the other processes, then runs ``main``."""
    cluster = {name: flags.FLAGS[name].value for name in _CLUSTER}
    given = {name: value for name, value in cluster.items() if value is not None}
    if given and len(given) < len(cluster):
        missing = next(name for name in cluster if name not in given)
        raise ConfigError(
            f"--{missing}: missing beside --{next(iter(given))}; takes all of "
            + ", ".join(f"--{name}" for name in cluster)
            + ", or --distributed alone"
        )
    if given or DISTRIBUTED.value:
        join(*(cluster[name] for name in _CLUSTER))
    folder = compilation_cache()
    main()
    if folder:
        print(f"compiled programs are kept in {folder} for the next run", file=sys.stderr)


def join(coordinator=None, num_processes=None, process_id=None):
    """Joins the processes of a run; what is None JAX finds out on Slurm, TPU pods and GKE.

    A process that vanishes ends the others within a minute: JAX aborts those that still wait.
    """
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=30,
            shutdown_timeout_seconds=30,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--distributed: no cluster that JAX knows, or its coordinator cannot be reached "
            f"({reason}); give --coordinator=HOST:PORT, --num_processes and --process_id"
        ) from error


def compilation_cache():
    """Keeps XLA's compiled programs between runs; returns the folder, or "" where that is off.

    The folder is ``$JAX_COMPILATION_CACHE_DIR``, else l2rw_jax/xla in ``$XDG_CACHE_HOME`` or
    ~/.cache; ``JAX_ENABLE_COMPILATION_CACHE=false`` turns it off.
    """
    config: Any = jax.config
    if not config.jax_enable_compilation_cache:
        return ""
    if not config.jax_compilation_cache_dir:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        config.update("jax_compilation_cache_dir", str(cache / "l2rw_jax" / "xla"))
    return config.jax_compilation_cache_dir


def create_folder(folder, flag="--output"):
    """Creates a folder that a flag names; one that cannot be is a mistake of the flag's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{flag}: {folder} cannot be made: {error.strerror}.") from None


def _one_line(function, *args):
    try:
        return function(*args)
    except tuple(STATUS) as error:
        label = "stopped" if isinstance(error, Stopped) else "error"
        text = " ".join(str(error).split())
        print(text if label == "stopped" else f"error: {text}", file=sys.stderr, flush=True)
        sys.exit(STATUS[type(error)])


def _unraisable(unraisable, report=sys.unraisablehook):
    """Passes over TensorStore's late answers to a save that has failed, which is told in one line.

    Its threads answer an event loop of Orbax's that the first failure has closed: a traceback each.
    """
    if str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)


def _parse(argv):
    """Parses the flags; first checks those of the config, which would fail with a traceback."""
    known = flatten(default_config().to_dict())
    for i, argument in enumerate(argv):
        if match := re.fullmatch(r"--?config(?:=(.*))?", argument):
            _check_file(match[1] if match[1] is not None else "".join(argv[i + 1 : i + 2]))
        elif match := re.match(r"--?config\.([\w.]+)", argument):
            check_name(f"--config.{match[1]}", match[1], known)
    try:
        return flags.FLAGS(argv)
    except AttributeError as error:  # the config file has no such field of its own
        raise ConfigError(f"--config: no such field {error}") from error
    except flags.Error as error:
        mistake: BaseException = error
        while isinstance(mistake.__context__, ConfigError):  # raised by the config file itself
            mistake = mistake.__context__
        raise ConfigError(mistake) from error


def _check_file(value):
    name = value.partition(":")[0]
    if not Path(name).is_file():
        shipped = ", ".join(sorted(map(str, Path("configs").glob("*.py"))))
        raise ConfigError(f"--config: no file {name!r}; this folder has {shipped or 'no configs/'}")
