"""Flax NNX: batch normalisation and dropout in the losses, and ``nnx.Optimizer``.

Every loss function builds its own copy of the network, ``nnx.merge(..., copy=True)``: one step
traces a loss several times, and a network from outside would be changed inside a trace. What the
copy changes, the running statistics and the dropout's count, comes back as aux.
"""

import functools

import jax
import jax.numpy as jnp
import noisy_blobs
import numpy as np
import optax
import problems
import pytest
from flax import nnx

from l2rw_jax import reweight, reweighted_value_and_grad

STEPS = 50
DATA = noisy_blobs.blobs()


class Network(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(2, 16, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(16, noisy_blobs.CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


@nnx.jit
def create_network():
    return Network(nnx.Rngs(0))


def losses_of(graphdef, rest):
    """The losses as functions of the parameters, with the network's other state as aux."""

    def losses(params, batch):
        model = nnx.merge(graphdef, params, rest, copy=True)
        losses = noisy_blobs.cross_entropy(model(batch["x"]), batch["y"])
        return losses, nnx.state(model, nnx.Not(nnx.Param))

    return losses, lambda params, clean: losses(params, clean)[0].mean()


@functools.cache
def train_functionally():
    model = create_network()
    model.train()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    tx = optax.adam(0.01)
    opt_state = tx.init(params)

    @jax.jit
    def step(params, rest, opt_state, batch, clean):
        value_and_grad = reweighted_value_and_grad(*losses_of(graphdef, rest), has_aux=True)
        (_, aux), grads = value_and_grad(params, batch, clean)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), aux.aux, opt_state, aux.weights

    on_wrong = []  # the weight that the wrong labels get, of 1 in all
    for batch, is_wrong in noisy_blobs.batches(DATA, STEPS):
        params, rest, opt_state, weights = step(params, rest, opt_state, batch, DATA.clean)
        on_wrong.append(np.asarray(weights) @ is_wrong)
    nnx.update(model, params, rest)
    return model, on_wrong, weights


def train_with_an_nnx_optimizer():
    model = create_network()
    model.train()
    tx = optax.chain(reweight(), optax.adam(0.01))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, batch, clean):
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        losses, clean_loss = losses_of(graphdef, rest)
        _, rest = losses(params, batch)  # the new statistics; reweight has no aux
        optimizer.update(
            model,
            None,  # reweight computes the gradients
            per_example_loss_fn=lambda params: losses(params, batch)[0],
            clean_loss_fn=lambda params: clean_loss(params, clean),
        )
        nnx.update(model, rest)

    for batch, _ in noisy_blobs.batches(DATA, STEPS):
        step(model, optimizer, batch, DATA.clean)
    return model, optimizer.opt_state[0].info


def test_a_functional_loop_finds_the_wrong_labels():
    model, on_wrong, _ = train_functionally()
    assert np.mean(on_wrong) < 0.05
    model.eval()  # the running statistics, and no dropout
    logits = nnx.jit(lambda model, x: model(x))(model, DATA.test["x"])
    assert noisy_blobs.accuracy(logits, DATA.test["y"]) > 0.95
    assert model.dropout.rngs.count[...] == STEPS  # a mask every step; the clean pass's is not kept


def test_an_nnx_optimizer_trains_as_the_functional_loop():
    got, info = train_with_an_nnx_optimizer()
    want, _, weights = train_functionally()
    states = (nnx.to_pure_dict(nnx.state(m, (nnx.Param, nnx.BatchStat))) for m in (got, want))
    problems.assert_close(*states, 1e-3)
    assert info.num_active[...] == (np.asarray(weights) > 0).sum()


def hand_written(params, batch):
    """The losses of the network without dropout, in training mode."""
    x = batch["x"] @ params["hidden"]["kernel"]
    x = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5) * params["norm"]["scale"]
    x = jax.nn.relu(x + params["norm"]["bias"])
    logits = x @ params["head"]["kernel"] + params["head"]["bias"]
    return noisy_blobs.cross_entropy(logits, batch["y"])


def test_weights_and_gradient_equal_those_of_the_network_written_out():
    model = create_network()
    model.train()
    model.dropout.rate = 0.0
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    (batch, _), *_ = noisy_blobs.batches(DATA, 1)

    @jax.jit
    def both(params):
        value_and_grad = reweighted_value_and_grad(*losses_of(graphdef, rest), has_aux=True)
        (_, aux), grads = value_and_grad(params, batch, DATA.clean)
        by_hand = noisy_blobs.by_hand(hand_written, nnx.to_pure_dict(params), batch, DATA.clean)
        return (aux.weights, nnx.to_pure_dict(grads)), by_hand

    problems.assert_close(*both(params), 1e-4)


def test_moments_among_the_parameters_are_refused():
    """As parameters they would only decay, and the network would fail in evaluation."""
    model = create_network()
    _, everything = nnx.split(model)
    (batch, _), *_ = noisy_blobs.batches(DATA, 1)
    fn = reweighted_value_and_grad(
        hand_written, lambda params, clean: hand_written(params, clean).mean()
    )
    with pytest.raises(TypeError, match=r"params\['norm'\].*: got BatchStat; .*nnx.split\(model"):
        fn(nnx.filter_state(everything, nnx.Any(nnx.Param, nnx.BatchStat)), batch, DATA.clean)
