"""Flax Linen: batch normalisation in the losses, its statistics as aux, and ``TrainState``."""

from typing import Any

import jax
import jax.numpy as jnp
import noisy_blobs
import numpy as np
import optax
import problems
import pytest
from flax import linen as nn
from flax.training.train_state import TrainState

from l2rw_jax import reweight, reweighted_value_and_grad

STEPS = 50
DATA = noisy_blobs.blobs()


class Network(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(16, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(noisy_blobs.CLASSES)(x)


class State(TrainState):
    batch_stats: Any


def create_state(tx):
    network = Network()
    init = jax.jit(lambda key: network.init(key, DATA.clean["x"], train=False))
    return State.create(apply_fn=network.apply, tx=tx, **init(jax.random.key(0)))


def losses_of(state):
    """The losses as functions of the parameters, with the new statistics as aux."""

    def losses(params, batch):
        logits, updated = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            batch["x"],
            train=True,
            mutable=["batch_stats"],
        )
        return noisy_blobs.cross_entropy(logits, batch["y"]), updated["batch_stats"]

    return losses, lambda params, clean: losses(params, clean)[0].mean()


def test_a_train_state_finds_the_wrong_labels():
    state = create_state(optax.adam(0.01))

    @jax.jit
    def step(state, batch, clean):
        value_and_grad = reweighted_value_and_grad(*losses_of(state), has_aux=True)
        (_, aux), grads = value_and_grad(state.params, batch, clean)
        return state.apply_gradients(grads=grads, batch_stats=aux.aux), aux.weights

    on_wrong = []  # the weight that the wrong labels get, of 1 in all
    for batch, is_wrong in noisy_blobs.batches(DATA, STEPS):
        state, weights = step(state, batch, DATA.clean)
        on_wrong.append(np.asarray(weights) @ is_wrong)

    assert np.mean(on_wrong) < 0.05
    hidden = DATA.train["x"] @ np.asarray(state.params["Dense_0"]["kernel"])
    running = state.batch_stats["BatchNorm_0"]["var"]  # 1 at first
    np.testing.assert_allclose(running, hidden.var(axis=0), rtol=0.3)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = jax.jit(Network().apply, static_argnames="train")(
        variables, DATA.test["x"], train=False
    )
    assert noisy_blobs.accuracy(logits, DATA.test["y"]) > 0.95


def hand_written(params, batch):
    """The losses of the network in training mode."""
    x = batch["x"] @ params["Dense_0"]["kernel"]
    x = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) * params["BatchNorm_0"]["scale"]
    x = jax.nn.relu(x + params["BatchNorm_0"]["bias"])
    logits = x @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
    return noisy_blobs.cross_entropy(logits, batch["y"])


def test_weights_and_gradient_equal_those_of_the_network_written_out():
    state = create_state(optax.sgd(0.1))
    (batch, _), *_ = noisy_blobs.batches(DATA, 1)

    @jax.jit
    def both(params):
        value_and_grad = reweighted_value_and_grad(*losses_of(state), has_aux=True)
        (_, aux), grads = value_and_grad(params, batch, DATA.clean)
        return (aux.weights, grads), noisy_blobs.by_hand(hand_written, params, batch, DATA.clean)

    problems.assert_close(*both(state.params), 1e-4)


def test_apply_gradients_does_not_hand_the_losses_on():
    state = create_state(optax.chain(reweight(), optax.adam(0.01)))
    with pytest.raises(TypeError, match=r"TrainState\.apply_gradients, needs reweighted_value"):
        state.apply_gradients(grads=state.params)
