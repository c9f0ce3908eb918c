"""What there is to run on an accelerator, in order: one process for each piece."""

from pathlib import Path
from typing import NamedTuple

# The most minutes for a model's benchmark in one precision: estimates, mostly for compiling.
MODELS = {"resnet-32": 15.0, "wrn-28-10": 30.0, "vit-192-6": 15.0}
PRECISIONS = ("float32", "tf32", "bfloat16")
METHODS = ("l2rw", "baseline", "random", "evidence")
TESTS = (
    *("weights", "scores", "gradients", "transform", "lookahead_mask", "micro_batches", "modes"),
    *("learned", "evidence", "losses"),
)
# Their devices share a batch, and there may be one device alone.
ONE_DEVICE = "not share_a_batch and not shard_map and not pmap and not mesh"


class Piece(NamedTuple):
    """One process.

    Attributes:
      part: what ``--parts`` calls it.
      name: its own name, and the start of the names of the files it writes.
      command: what follows ``python -m``.
      minutes: the most that it may take in one call of the program.
      bounded: whether it takes ``--minutes`` and ends by itself; others are stopped.
      resumes: whether it saves its state and goes on in the next call; others start anew.
      environment: variables of its own.
    """

    part: str
    name: str
    command: tuple[str, ...]
    minutes: float
    bounded: bool = False
    resumes: bool = False
    environment: dict[str, str] = {}  # noqa: RUF012 - a NamedTuple's default, never written to


def pieces(output: Path, *, smoke: bool) -> list[Piece]:
    """All pieces, those of the smoke size or those of the accelerator.

    Args:
      output: the folder of what they write; checkpoints are in ``runs`` there.
      smoke: whether to take tiny sizes, which a CPU does in minutes.
    """

    def out(name: str) -> str:
        return f"--output={output / name}"

    runs = f"--workdir={output / 'runs'}"
    files = [f"tests/test_{name}.py" for name in (TESTS[:1] if smoke else TESTS)]
    tests = ("pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", ONE_DEVICE, *files)
    exact = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}  # the tests' tolerances are float32's
    exact |= {} if smoke else {"JAX_PLATFORMS": "cuda,cpu"}
    found = [Piece("tests", "tests", tests, 20, environment=exact)]

    size = ("--smoke",) if smoke else ()
    for model, minutes in {"tiny": 4.0}.items() if smoke else MODELS.items():
        for precision in ("float32", "bfloat16") if smoke else PRECISIONS:
            name = f"benchmark-{model}-{precision}"
            own = ("--smoke", "--repeats=3") if smoke else (f"--models={model}",)
            command = ("experiments.benchmark", f"--precisions={precision}", *own, out(name))
            found.append(Piece("benchmark", name, command, minutes, bounded=True))

    command = ("experiments.scaling.throughput", *size, out("throughput"))
    found.append(Piece("throughput", "throughput", command, 20, bounded=True))

    variant, seeds = (":smoke", 2) if smoke else ("", 5)
    table2 = (
        *(f"--config=configs/cifar10_background.py{variant}", f"--seeds={seeds}"),
        *(f"--workdir={output / 'runs' / 'table2'}", "--config.keep_checkpoints=1"),
    )
    for method in METHODS:
        name = f"table2-{method}"
        command = ("experiments.sweep", *table2, f"--methods={method}", out(name))
        found.append(Piece("table2", name, command, 60, resumes=True))

    scale = f"--scale={'smoke' if smoke else 'paper'}"
    for target, minutes in (("figure3", 60), ("table1", 24 * 60)):
        command = ("experiments.reproduce", f"--target={target}", scale, runs, out(target))
        found.append(Piece(target, target, command, minutes, resumes=True))
    return found
