"""What the programs also share: checks of flags, the list of runs, the head of a record.

Mistakes are ``ConfigError``s, which ``cli.run`` prints in one line.
"""

import hashlib
import json
import math
import shlex
import sys
import tempfile
import urllib.parse
from pathlib import Path

import jax
from absl import flags

from experiments import cli
from l2rw_jax._messages import nearest
from l2rw_jax.models import create_model
from l2rw_jax.training import ConfigError
from l2rw_jax.training import workdir as files
from l2rw_jax.training.config import with_method

# Flags that every program has, though not all use them.
SHARED = ("config", "workdir", "distributed", "coordinator", "num_processes", "process_id")


def run(main, takes=()):
    """``cli.run`` for a program that needs the ``SHARED`` flags in ``takes``, and no others."""

    def checked():
        for name in SHARED:
            if flags.FLAGS[name].present and name not in takes:
                raise ConfigError(f"--{name}: this program takes none; leave it out.")
        main()

    cli.run(checked, required=takes)


def choose(flag, got, allowed):
    """The names that a flag lists: some of ``allowed``, each once; all of them for None."""
    allowed = list(allowed)
    if got is None:
        return allowed
    for name in got:
        if name not in allowed:
            takes, near = ", ".join(map(repr, allowed)), nearest(name, allowed)
            raise ConfigError(f"{flag}: got {name!r}; takes {takes}; did you mean {near!r}?")
    return _once(flag, got)


def check_models(flag, names):
    """Refuses unknown models, an empty list, and a name that comes twice."""
    for name in _once(flag, names):
        try:
            create_model(name, num_classes=10, image_shape=(32, 32, 3))
        except ValueError as error:
            raise ConfigError(f"{flag}={name}: {error}") from error


def _once(flag, got):
    if not got or len(set(got)) < len(got):
        raise ConfigError(f"{flag}: got {','.join(got)!r}; takes one or more names, each once.")
    return got


def seconds(minutes):
    """The value of ``--minutes`` in seconds."""
    if not 0 < minutes < math.inf:
        raise ConfigError(f"--minutes: got {minutes:g}; takes a positive number, such as 15.")
    return 60 * minutes


def platform(device="auto"):
    """``cpu`` or ``gpu``, where JAX computes; ``device`` is one of them, or ``auto``."""
    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    found = jax.default_backend()
    if device == "gpu" and found != "gpu":
        raise ConfigError(f"--device: got gpu, and JAX finds a {found} alone; takes auto or cpu.")
    return "cpu" if found == "cpu" else "gpu"


def output_of(program, output, name, *figures):
    """The value of ``--output`` or its default, results/NAME-DEVICE; see ``prepare_output``."""
    if output is None:
        output = f"results/{name}-{jax.devices()[0].device_kind.lower().replace(' ', '-')}"
    prepare_output(program, output, *figures)
    return output


def prepare_output(program, output, *figures):
    """Creates the folder of ``--output``, the start of files' names, and tries to write there.

    Files of these names are replaced if OUTPUT.json is a record of the same program, and no others.

    Args:
      program: its name, as ``about`` takes it.
      output: the start of the names of OUTPUT.json and OUTPUT.md.
      figures: what is added to it in the names of its figures, such as "-growth.png".
    """
    folder, slash, name = output.rpartition("/")
    if not name:
        raise ConfigError(
            f"--output: got {output!r}; takes the start of the files' names, such as results/mine."
        )
    cli.create_folder(Path(folder + slash))
    try:
        tempfile.TemporaryFile(dir=folder or ".").close()
    except OSError as error:
        raise ConfigError(f"--output: {output}.json cannot be written: {error.strerror}.") from None
    for ending in (".json", ".md", *figures):
        path = Path(f"{output}{ending}")
        if path.is_symlink() or (path.exists() and not path.is_file()):
            kind = "folder" if path.is_dir() else "link or device"
            raise ConfigError(f"--output: {path} is a {kind}; takes another name.")
        if path.exists() and not _is_record(program, Path(f"{output}.json")):
            raise ConfigError(
                f"--output: {path} is not of experiments.{program}; takes another name, or move "
                "that file away."
            )


def _is_record(program, path):
    """Whether a file is the record of a program, as ``about`` begins it, wherever it was then."""
    try:
        python, _, module, *_ = shlex.split(json.loads(path.read_text())["command"])
        same = module.split(".")[-1] == program.split(".")[-1]
        return python == "python" and module.startswith("experiments.") and same
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def last_line(text, otherwise):
    r"""The last line of what a process has printed, cut; ``otherwise`` if it printed nothing.

    >>> last_line("Traceback: ...\nTypeError: no\n\n", "silence"), last_line(" ", "silence")
    ('TypeError: no', 'silence')
    """
    lines = text.strip().splitlines()
    return lines[-1].strip()[:200] if lines else otherwise


def about(program):
    """How a record was made: the command, the device, the versions."""
    command = shlex.join(["python", "-m", f"experiments.{program}", *sys.argv[1:]])
    return {"command": command, **files.environment()}


def differences(run, shared):
    """The fields of a run that ``shared`` does not say already, so that a file says each once.

    >>> differences({"seed": 1, "device": "cpu"}, {"device": "cpu"})
    {'seed': 1}
    """
    return {
        field: value
        for field, value in run.items()
        if field not in shared or shared[field] != value
    }


def expand(config, methods, seeds, field, values):
    """The config and the folder's name of every run."""
    runs = []
    for value in values:
        for method in methods:
            for seed in range(config.seed, config.seed + seeds):
                run = with_method(config, method)
                run.seed = seed
                folder = f"{method}/seed{seed}"
                if field:
                    run.update_from_flattened_dict({field: value})
                    folder = f"{folder_name(f'{field}={value}')}/{folder}"
                runs.append((run, folder))
    return runs


def folder_name(text):
    """A short folder name for any ``text``, different for different texts.

    >>> folder_name("noise.ratio=0.4"), folder_name("data_dir=../a")
    ('noise.ratio=0.4', 'data_dir=%2E%2E%2Fa')
    """
    name = urllib.parse.quote(text, safe="=,()+ ").replace("..", "%2E%2E")
    if len(name) > 100:
        name = f"{name[:80]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return name
