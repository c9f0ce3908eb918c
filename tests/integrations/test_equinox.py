"""Equinox: the arrays of a model are the parameters, and the rest of it is closed over."""

import jax
import noisy_blobs
import numpy as np
import optax
import problems
import pytest

from l2rw_jax import reweight, reweighted_value_and_grad

eqx = pytest.importorskip("equinox")

STEPS = 50
DATA = noisy_blobs.blobs()


def create_model():
    return eqx.nn.MLP(2, noisy_blobs.CLASSES, width_size=16, depth=1, key=jax.random.key(0))


def losses_of(static):
    """The losses as functions of the arrays alone."""

    def losses(params, batch):
        model = eqx.combine(params, static)
        return noisy_blobs.cross_entropy(jax.vmap(model)(batch["x"]), batch["y"])

    return losses, lambda params, clean: losses(params, clean).mean()


def test_a_loop_finds_the_wrong_labels():
    params, static = eqx.partition(create_model(), eqx.is_inexact_array)
    losses, clean_loss = losses_of(static)
    tx = optax.chain(reweight(), optax.adam(0.02))
    opt_state = tx.init(params)

    @jax.jit
    def step(params, opt_state, batch, clean):
        updates, opt_state = tx.update(
            None,  # reweight computes the gradients
            opt_state,
            params,
            per_example_loss_fn=lambda params: losses(params, batch),
            clean_loss_fn=lambda params: clean_loss(params, clean),
        )
        return eqx.apply_updates(params, updates), opt_state

    on_right = []  # whether there are no more weights above zero than right labels
    for batch, is_wrong in noisy_blobs.batches(DATA, STEPS):
        params, opt_state = step(params, opt_state, batch, DATA.clean)
        on_right.append(opt_state[0].info.num_active <= np.sum(~is_wrong))

    assert all(on_right[-10:])
    model = eqx.combine(params, static)
    logits = eqx.filter_jit(eqx.filter_vmap(model))(DATA.test["x"])
    assert noisy_blobs.accuracy(logits, DATA.test["y"]) > 0.95


def hand_written(params, batch):
    """The losses of the network as a function of its arrays."""
    hidden, head = params.layers
    x = jax.nn.relu(batch["x"] @ hidden.weight.T + hidden.bias)
    return noisy_blobs.cross_entropy(x @ head.weight.T + head.bias, batch["y"])


def test_weights_and_gradient_equal_those_of_the_network_written_out():
    params, static = eqx.partition(create_model(), eqx.is_inexact_array)
    (batch, _), *_ = noisy_blobs.batches(DATA, 1)

    @jax.jit
    def both(params):
        value_and_grad = reweighted_value_and_grad(*losses_of(static))
        (_, aux), grads = value_and_grad(params, batch, DATA.clean)
        return (aux.weights, grads), noisy_blobs.by_hand(hand_written, params, batch, DATA.clean)

    problems.assert_close(*both(params), 1e-4)


def test_a_whole_model_is_refused():
    model = create_model()
    message = r"params\.activation: got .*eqx\.partition\(model, eqx\.is_inexact_array\)"
    with pytest.raises(TypeError, match=message):
        reweight().init(model)
    value_and_grad = reweighted_value_and_grad(
        lambda model, batch: noisy_blobs.cross_entropy(jax.vmap(model)(batch["x"]), batch["y"]),
        lambda model, clean: jax.vmap(model)(clean["x"]).mean(),
    )
    with pytest.raises(TypeError, match=message):
        value_and_grad(model, DATA.train, DATA.clean)
