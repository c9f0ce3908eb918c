"""Training a model by one of the methods, from a config to a folder of results."""

from l2rw_jax.training.config import ConfigError, default_config, validate
from l2rw_jax.training.loop import check, train_and_evaluate

__all__ = ["ConfigError", "check", "default_config", "train_and_evaluate", "validate"]
