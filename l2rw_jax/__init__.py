"""Learning to Reweight Examples for Robust Deep Learning (Ren et al., ICML 2018), in JAX.

The method needs ``jax`` and ``optax`` alone: ``reweight`` for an Optax chain,
``reweighted_value_and_grad`` for a training loop, and the weightings that both take. Models, data
and the trainer of the experiments are subpackages that are imported on their own.
"""

from l2rw_jax._types import LossFn, ValueAndGrad
from l2rw_jax.chain import chain
from l2rw_jax.gradients import reweighted_value_and_grad
from l2rw_jax.scores import example_scores
from l2rw_jax.transform import ReweightInfo, ReweightState, reweight
from l2rw_jax.weightings import ReweightAux, Weighting, by_loss, evidence, l2rw, learned
from l2rw_jax.weights import example_weights

__version__ = "0.2.0"

__all__ = [
    "LossFn",
    "ReweightAux",
    "ReweightInfo",
    "ReweightState",
    "ValueAndGrad",
    "Weighting",
    "by_loss",
    "chain",
    "evidence",
    "example_scores",
    "example_weights",
    "l2rw",
    "learned",
    "reweight",
    "reweighted_value_and_grad",
]
