"""What the programs share: the config flag, and one line instead of a traceback for a mistake."""

import re
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from l2rw_jax.training import ConfigError, default_config
from l2rw_jax.training.config import check_name
from l2rw_jax.training.workdir import flatten

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "File with get_config(variant), such as configs/digits.py or configs/digits.py:smoke; any "
    "field can be overridden, as in --config.seed=1.",
)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for what is written.")


def run(main):
    """Runs ``main()`` with the flags parsed; a ``ConfigError`` is one line and exit status 2."""
    logging.set_verbosity(logging.WARNING)  # not which accelerators JAX did not find
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(lambda argv: _one_line(main), flags_parser=lambda argv: _one_line(_parse, argv))


def _one_line(function, *args):
    try:
        return function(*args)
    except ConfigError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


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
