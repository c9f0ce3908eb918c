"""What the benchmark times: the same for both frameworks."""

from typing import NamedTuple

import numpy as np


class Setting(NamedTuple):
    """What is timed: a network, its batches, and how it is trained."""

    model: str
    image_shape: tuple[int, int, int]
    num_classes: int
    batch: int
    clean_batch: int
    precision: str = "float32"
    dropout: float = 0.0
    rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 2e-4


LENET = Setting("lenet", (28, 28, 1), 2, 100, 10, rate=1e-3)
RESNET = Setting("resnet-32", (32, 32, 3), 10, 100, 10)
MLP = Setting("mlp-256-256", (28, 28, 1), 10, 100, 10)
VIT = Setting("vit-192-6", (32, 32, 3), 10, 50, 5, rate=0.01)
PRECISIONS = {"cpu": ("float32", "bfloat16"), "gpu": ("float32", "tf32", "bfloat16")}
WIDE = {"cpu": "wrn-10-2", "gpu": "wrn-28-10"}


def settings(device, precisions, *, smoke=False):
    """The settings to run on ``cpu`` or ``gpu``."""
    wide = RESNET._replace(model=WIDE[device], dropout=0.3)
    # The quickest first: what they leave of their time goes to the others.
    chosen = [MLP, LENET, wide, RESNET, VIT]
    chosen += [each._replace(clean_batch=each.batch) for each in chosen]
    if smoke:
        chosen = [MLP._replace(model="mlp-8", image_shape=(4, 4, 1), batch=4, clean_batch=2)]
    return [setting._replace(precision=name) for name in precisions for setting in chosen]


def examples(setting):
    """Images and labels, clean images and labels, drawn at random: values do not matter here."""
    rng = np.random.default_rng(0)
    arrays: list = []
    for n in (setting.batch, setting.clean_batch):
        arrays.append(rng.normal(size=(n, *setting.image_shape)).astype(np.float32))
        arrays.append(rng.integers(0, setting.num_classes, n).astype(np.int32))
    return arrays


# How long a model's rows take, compared with others'; most of it is compiling.
_TIMES = {"mlp": 2.0, "lenet": 2.8, "wrn": 8.5, "resnet": 11.5, "vit": 9.0}


def relative_time(setting):
    """How long a setting's rows take, compared with others'.

    >>> relative_time(RESNET._replace(clean_batch=100)) / relative_time(RESNET)
    0.45
    """
    whole = _TIMES.get(setting.model.partition("-")[0], 1.0)
    return whole * (0.45 if setting.clean_batch == setting.batch else 1.0)  # fewer rows
