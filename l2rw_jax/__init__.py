"""Learning to Reweight Examples for Robust Deep Learning (Ren et al., ICML 2018), in JAX.

The method is four functions on ``jax`` and ``optax`` alone: ``example_scores``,
``example_weights``, ``reweighted_value_and_grad`` and ``reweight``. Models, data and the trainer of
the experiments are subpackages that are imported on their own.
"""

from l2rw_jax.chain import chain
from l2rw_jax.gradients import ReweightAux, reweighted_value_and_grad
from l2rw_jax.learned import learned_value_and_grad
from l2rw_jax.scores import example_scores
from l2rw_jax.transform import ReweightInfo, ReweightState, reweight
from l2rw_jax.weights import example_weights

__version__ = "0.2.0"

__all__ = [
    "ReweightAux",
    "ReweightInfo",
    "ReweightState",
    "chain",
    "example_scores",
    "example_weights",
    "learned_value_and_grad",
    "reweight",
    "reweighted_value_and_grad",
]
