"""What all programs share: the flags --config and --workdir, and one-line errors."""

import ast
import math
import os
import re
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import tuple_parser

from experiments import processes
from l2rw_jax.training import ConfigError, RunError, Stopped, default_config
from l2rw_jax.training.checkpoint import leave_out_tracebacks
from l2rw_jax.training.config import check_name
from l2rw_jax.training.workdir import flatten


class _ConfigFile(flags.ArgumentParser):
    """Reads a config file; an error in it names its line."""

    def parse(self, path):
        name, colon, variant = path.partition(":")
        if not os.path.isfile(name):
            shipped = ", ".join(sorted(map(str, Path("configs").glob("*.py")))) or "no configs/"
            raise flags.Error(f"--config: no file {name!r}; this folder has {shipped}")
        try:
            get_config = runpy.run_path(name).get("get_config")
            config = get_config and get_config(*[variant] if colon else [])
        except ConfigError as error:
            raise flags.Error(str(error)) from error
        except (Exception, SystemExit) as error:  # whatever a user's file may raise
            raise flags.Error(f"--config: {name}{_reason(error, name)}") from error
        remedy = "takes get_config(): start from default_config(), change its fields, return it"
        if not isinstance(config, ConfigDict):
            got = f"get_config returns {config!r}" if get_config else "no get_config"
            raise flags.Error(f"--config: {name}: {got}; {remedy}")
        for field in _fields() - flatten(config.to_dict()).keys():
            raise flags.Error(f"--config: {name}: no field {field}; {remedy}")
        return config.lock()


class _Integers(tuple_parser.TupleParser):
    """Reads the fields that are tuples, all of them of integers."""

    def parse(self, argument):
        if isinstance(argument, tuple):  # the default
            return argument
        try:
            value = ast.literal_eval(argument)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        value = (value,) if type(value) is int else value
        if not isinstance(value, tuple | list) or any(type(item) is not int for item in value):
            raise ValueError("takes integers, as in 10,20 or (10,20), or () for none")
        return tuple(value)


_PARSERS: dict[type, tuple[flags.ArgumentParser, str]] = {  # as ml_collections has them
    bool: (flags.BooleanParser(), "true or false"),
    int: (flags.IntegerParser(), "an integer"),
    float: (flags.FloatParser(), "a finite number"),
    str: (flags.ArgumentParser(), "a text"),
    tuple: (_Integers(), "integers in brackets, as in (10,20)"),
}
config_flags.register_flag_parser_for_type(tuple, _Integers())

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "File with get_config(variant), such as configs/digits.py or configs/digits.py:smoke; any "
    "field can be overridden, as in --config.seed=1.",
)
flags.FLAGS["config"].parser = _ConfigFile()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for what is written.")
_PATHS = ("workdir", "output")  # flags, here or of a program

# Exit statuses: a wrong command; a run that cannot continue; one that was asked to stop and
# continues when started again (sysexits.h's EX_TEMPFAIL); Ctrl-C, as in shells.
STATUS: dict[type[BaseException], int] = {
    ConfigError: 2,
    RunError: 1,
    Stopped: 75,
    KeyboardInterrupt: 130,
}


def run(main, *, required=("config", "workdir")):
    """Runs ``main()`` with the flags parsed; an early end is one line and an exit status."""
    logging.set_verbosity(logging.WARNING)  # hides JAX's remarks on accelerators that are not there
    # For good: some writes of a checkpoint fail after the run has, or while the process ends.
    leave_out_tracebacks()
    sys.unraisablehook = _without_late_answers(sys.unraisablehook)
    app.run(
        lambda argv: one_line(start, main),
        flags_parser=lambda argv: one_line(parse, argv, required),
    )


def one_line(function, *args):
    """Calls ``function``; an error of ``STATUS`` becomes a line on stderr and its exit status."""
    try:
        return function(*args)
    except tuple(STATUS) as error:
        text = " ".join(str(error).split())
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        if not isinstance(error, Stopped):
            text = f"error: {text or 'interrupted'}"
        print(text, file=sys.stderr, flush=True)
        status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
    sys.exit(status)  # out here: the error would keep alive every frame that it passed


def parse(argv, required):
    """Parses the flags, those of the config among them.

    Raises:
      ConfigError: an argument is no flag, one of ``required`` is missing, or a value or the config
        file cannot be used.
    """
    flags.FLAGS.set_gnu_getopt()  # a stray argument is reported, and the flags after it are read
    try:
        arguments = flags.FLAGS.read_flags_from_files(argv[1:])
    except (flags.Error, ValueError) as error:  # not there, or no text
        raise ConfigError(f"--flagfile: {error}") from error
    _check_arguments(arguments)
    try:
        strays = flags.FLAGS([argv[0], *arguments])[1:]
    except (flags.Error, ValueError) as error:
        raise ConfigError(error) from error
    if strays:
        spelling = f"--{strays[0].lstrip('-–—')}" if "=" in strays[0] else "--FLAG=VALUE"
        raise ConfigError(f"got {strays[0]!r}, which is no flag; write {spelling}")
    for name in flags.FLAGS:
        value = flags.FLAGS[name].value
        empty = value == [] or (isinstance(value, str) and not value.strip())
        if empty and flags.FLAGS[name].present and not name.startswith("config."):
            raise ConfigError(f"--{name}: got nothing; give a value, or leave the flag out")
        if value is None and name in required:
            raise ConfigError(f"--{name}: missing; takes: {flags.FLAGS[name].help}")
        if value is not None and name in _PATHS:
            _check_path(f"--{name}", value)
    return [argv[0]]


def _check_arguments(arguments):
    """Raises for mistakes that absl and ml_collections accept or answer with a traceback."""
    fields = _fields()
    for argument in arguments:
        name = argument.lstrip("-").partition("=")[0]
        if name == "undefok":
            raise ConfigError("--undefok: would hide mistakes in the flags; leave it out")
        if argument.startswith("-") and (field := re.fullmatch(r"(?:no)?config\.(.*)", name)):
            check_name(f"--config.{field[1]}", field[1], fields)
    if sum(bool(re.match(r"--?config(=|$)", argument)) for argument in arguments) > 1:
        raise ConfigError("--config: given more than once; takes one file")


def _check_path(flag, path):
    if re.match(r"[a-zA-Z][\w+.-]*://", path):
        raise ConfigError(
            f"{flag}: got {path}; takes a path on this machine: mount the bucket (gcsfuse, s3fs) "
            "and give its folder"
        )
    for each in (os.path.dirname(path) or ".", path):
        try:
            os.stat(each)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"{flag}: {each} cannot be made: {reason}.") from None


def parse_value(argument, text, default):
    """The value of a field that has ``default``, as ``--config.FIELD=TEXT`` would set it.

    Raises:
      ConfigError: ``text`` is not of the field's type, or not finite; ``argument`` begins the line.
    """
    parser, takes = _PARSERS[type(default)]
    try:
        value: Any = parser.parse(text)
    except ValueError:
        raise ConfigError(f"{argument}: got {text!r}; takes {takes}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{argument}: got {text!r}; takes {takes}")
    return value


def start(main):
    """Joins the other processes if there are any, then runs ``main``."""
    with processes.joined():
        folder = compilation_cache()
        main()
        if folder:
            print(f"compiled programs are kept in {folder} for the next run", file=sys.stderr)


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
    """Creates a folder that a flag names, or raises an error that names the flag."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{flag}: {folder} cannot be made: {error.strerror}.") from None


def _without_late_answers(report):
    """A ``sys.unraisablehook`` that hides TensorStore's late errors of a save that has failed.

    Its threads report to an event loop that the first failure has closed, with a traceback each.
    """

    def hook(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    return hook


def _reason(error, name):
    """An exception in words, after the last line of the file ``name`` that led to it."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == name]
    text = str(error)
    if isinstance(error, SyntaxError):
        text = str(error.msg)
        lines += [error.lineno] if error.filename == name else []
    line = f", line {lines[-1]}" if lines else ""
    if found := re.search(r'Key "(.*?)" does not exist', text):  # the answer of a locked config
        try:
            check_name(f"config.{found[1]}", found[1], _fields())
        except ConfigError as mistake:
            return f"{line}: {mistake}"
    return f"{line}: {type(error).__name__}: {text}"


def _fields():
    """The dotted names of all fields of a config."""
    return flatten(default_config().to_dict()).keys()
