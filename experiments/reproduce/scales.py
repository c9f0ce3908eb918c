"""The paper's protocols in numbers, and reduced ones, as data."""

from typing import Any, NamedTuple


class Scale(NamedTuple):
    """A protocol's size.

    Attributes:
      seeds: how many.
      fields: config fields over the config file's, whose defaults are the paper's protocol.
      short: those of the shorter schedule besides, "+ ES".
      finetune_steps: steps on the clean set, "+ FT".
      variant: of the config file.
      together: whether the seeds train side by side as one program, if they fit.
      seconds: measured seconds of a step, l2rw's and the others'; None: unknown.
      gigabytes: measured peak memory of a process; None: unknown.
      configs: the config files that its data can stand in for; none named: all.
      columns: what a column is called where other data stand in, by the paper's label.
    """

    seeds: int
    fields: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    short: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    finetune_steps: int = 0
    variant: str = ""
    together: bool = False
    seconds: dict[str, float] | None = None
    gigabytes: float | None = None
    configs: tuple[str, ...] = ()
    columns: dict[str, str] = {}  # noqa: RUF012 - a NamedTuple's default, never written to


_SMOKE = {"model": "mlp-16", "steps": 8, "log_every": 2, "eval_every": 4}
_CPU = {  # the schedules are the paper's divided by 80, FT by 100
    "model": "resnet-8",
    "batch_size": 50,
    "clean_batch_size": 50,
    "steps": 1000,
    "boundaries": (500, 750),
    "val_size": 500,
    "log_every": 50,
    "eval_every": 250,
}
_CPU_SHORT = {"steps": 750, "boundaries": (500, 625)}
_MNIST = {  # the schedules are the paper's divided by 8: long enough to memorise wrong labels
    "dataset": "mnist",
    "low": 0.0,
    "pad": 0,
    "flip": False,
    "model": "mlp-256-256",
    "dropout": 0.0,
    "learning_rate": 0.01,  # without batch normalisation the paper's 0.1 is too much
    "steps": 10_000,
    "boundaries": (5000, 7500),
    "log_every": 125,
    "eval_every": 1250,
}
_LENET = {  # small enough for a CPU, whose convolutions are slow
    "dataset": "mnist",
    "low": 0.0,
    "pad": 0,
    "flip": False,
    "model": "lenet",
    "dropout": 0.0,
    "batch_size": 50,
    "clean_size": 100,
    "clean_batch_size": 50,
    "learning_rate": 0.01,
    "weight_decay": 1e-3,
    "clip_norm": 5.0,
    "steps": 1500,
    "boundaries": (750, 1125),
    "val_size": 0,
    "log_every": 50,
    "eval_every": 500,
}
_MNIST_SHORT = {"steps": 7500, "boundaries": (5000, 6250)}
_MNIST_MEASURED: dict[str, Any] = {
    "seconds": {"l2rw": 0.0041, "other": 0.002},
    "gigabytes": 0.9,
    "columns": {"CIFAR-10": "MNIST for CIFAR-10"},
}

SCALES = {
    "paper": {
        "imbalance": Scale(
            10, {"log_every": 500, "eval_every": 500}, variant="paper", together=True
        ),
        "uniform": Scale(5, finetune_steps=5000, together=True),
        "background": Scale(
            5,
            short={"steps": 60_000, "boundaries": (40_000, 50_000)},
            finetune_steps=5000,
            together=True,
        ),
    },
    "cpu": {
        "imbalance": Scale(
            5,
            {"steps": 500, "learning_rate": 5e-3, "log_every": 50, "eval_every": 250},
            seconds={"l2rw": 0.15, "other": 0.09},
            gigabytes=0.8,
        ),
        "uniform": Scale(
            3,
            _CPU | _CPU_SHORT | {"model": "wrn-10-1", "dropout": 0.0, "clean_size": 200},
            finetune_steps=50,
        ),
        "background": Scale(
            3,
            _CPU,
            short=_CPU_SHORT,
            finetune_steps=50,
            seconds={"l2rw": 0.3, "other": 0.14},
            gigabytes=1.5,
        ),
        "human": Scale(5, {"dataset": "npz:runs/human.npz"}, together=True),
        "lenet": Scale(3, _LENET),
    },
    "mnist": {
        "uniform": Scale(
            5,
            _MNIST | _MNIST_SHORT,
            finetune_steps=625,
            configs=("cifar10_uniform",),
            **_MNIST_MEASURED,
        ),
        "background": Scale(
            5,
            _MNIST,
            short=_MNIST_SHORT,
            finetune_steps=625,
            configs=("cifar10_background",),
            **_MNIST_MEASURED,
        ),
    },
    "smoke": {
        "imbalance": Scale(2, _SMOKE, variant="smoke", together=True),
        "uniform": Scale(2, _SMOKE | {"dropout": 0.0}, finetune_steps=2, variant="smoke"),
        "background": Scale(2, _SMOKE, short={"steps": 4}, finetune_steps=2, variant="smoke"),
        "human": Scale(2, _SMOKE | {"clean_size": 50}, variant="smoke"),
        "lenet": Scale(2, _SMOKE | {"dropout": 0.0}, variant="smoke"),
    },
}
