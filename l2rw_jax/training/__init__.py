"""Training a model by one of the methods, from a config to a folder of results."""

from l2rw_jax import _extras

_extras.require("train", *_extras.TRAIN)

from l2rw_jax.training.config import default_config, validate
from l2rw_jax.training.errors import ConfigError, Ended, RunError
from l2rw_jax.training.interrupt import Stopped
from l2rw_jax.training.loop import train_and_evaluate
from l2rw_jax.training.resolve import resolve
from l2rw_jax.training.seeds import train_seeds

__all__ = [
    "ConfigError",
    "Ended",
    "RunError",
    "Stopped",
    "default_config",
    "resolve",
    "train_and_evaluate",
    "train_seeds",
    "validate",
]
