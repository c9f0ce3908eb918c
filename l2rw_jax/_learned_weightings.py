"""Weightings that are learned with the network: Meta-Weight-Net's, and a weight for each group.

A weighting is ``(phi, losses, batch) -> [b]`` in (0, 1), its first parameters phi come from
``(key, num_classes)``; ``learned`` makes a method of it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from l2rw_jax._types import AxisName, LossFn
from l2rw_jax._weightings import BatchValueAndGrad, MakeValueAndGrad, batch_size
from l2rw_jax.gradients import ReweightAux
from l2rw_jax.learned import WeightFn, learned_value_and_grad


def init_mwnet(key: jax.Array, num_classes: int) -> Any:
    """The first parameters of Meta-Weight-Net's network, 1-100-1, drawn as in its authors' code."""
    del num_classes
    keys = jax.random.split(key, 4)

    def uniform(key: jax.Array, shape: tuple[int, ...], inputs: int) -> jax.Array:
        return jax.random.uniform(key, shape, minval=-(inputs**-0.5), maxval=inputs**-0.5)

    return {
        "hidden": {"kernel": uniform(keys[0], (1, 100), 1), "bias": uniform(keys[1], (100,), 1)},
        "output": {"kernel": uniform(keys[2], (100, 1), 100), "bias": uniform(keys[3], (1,), 100)},
    }


def mwnet(phi: Any, losses: jax.Array, batch: Any) -> jax.Array:
    r"""Meta-Weight-Net (Shu et al., NeurIPS 2019): a network of the loss.

    .. math:: b \, w_i = \sigma(V^\top \max(U \ell_i + c, 0) + d)
    """
    del batch
    hidden, output = phi["hidden"], phi["output"]
    activations = jax.nn.relu(losses[:, None] @ hidden["kernel"] + hidden["bias"][None])
    return jax.nn.sigmoid(activations @ output["kernel"] + output["bias"][None])[:, 0]


def init_groups(key: jax.Array, num_classes: int) -> jax.Array:
    """A logit of zero for each class: all weights begin at one half."""
    del key
    return jnp.zeros(num_classes)


def groups(phi: Any, losses: jax.Array, batch: Any) -> jax.Array:
    r"""A weight for each group, :math:`b \, w_i = \sigma(\varphi_{g_i})`; by default, of labels."""
    del losses
    return jax.nn.sigmoid(phi[batch.get("group", batch["label"])])


def learned(weight_fn: WeightFn) -> MakeValueAndGrad:
    """The method whose weights are ``(phi, losses, batch) -> [b]`` in (0, 1), over b.

    Its phi lowers the clean loss after a step of SGD, at the learning rate of the moment.
    """

    def make(
        per_example_loss_fn: LossFn,
        clean_loss_fn: LossFn,
        *,
        rng: jax.Array,
        axis_name: AxisName = None,
    ) -> BatchValueAndGrad:
        del rng

        def mean_weight_fn(phi: Any, losses: jax.Array, batch: Any) -> jax.Array:
            return weight_fn(phi, losses, batch) / batch_size(losses, axis_name)

        def value_and_grad(
            params: Any, batch: Any, clean_batch: Any
        ) -> tuple[tuple[jax.Array, ReweightAux], optax.Updates]:
            network = {name: value for name, value in params.items() if name != "weighting"}
            fn = learned_value_and_grad(
                per_example_loss_fn,
                clean_loss_fn,
                mean_weight_fn,
                inner=optax.sgd(batch["learning_rate"]),
                has_aux=True,
                axis_name=axis_name,
            )
            value, (grads, phi_grads) = fn(network, params["weighting"], batch, clean_batch)
            return value, grads | {"weighting": phi_grads}

        return value_and_grad

    return make
