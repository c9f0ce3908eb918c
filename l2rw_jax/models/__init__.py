"""Networks of the paper and of its code, as pure functions."""

from l2rw_jax import _extras

_extras.require("train", "flax")

from l2rw_jax.models.create import Model, create_model

__all__ = ["Model", "create_model"]
