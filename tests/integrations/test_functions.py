"""Plain functions, a dict of parameters: ``jax.jit``, donated buffers, ``jax.vmap`` over runs."""

import functools
import operator

import jax
import jax.numpy as jnp
import noisy_blobs
import numpy as np
import optax
import problems
import pytest

from l2rw_jax import reweighted_value_and_grad

STEPS = 50
DATA = noisy_blobs.blobs()
TX = optax.adam(0.02)


def init(key):
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (2, 16)),
        "bias": jnp.zeros(16),
        "head": 0.25 * jax.random.normal(second, (16, noisy_blobs.CLASSES)),
    }


def apply(params, x):
    return jax.nn.relu(x @ params["hidden"] + params["bias"]) @ params["head"]


def losses(params, batch):
    return noisy_blobs.cross_entropy(apply(params, batch["x"]), batch["y"])


def clean_loss(params, clean):
    return losses(params, clean).mean()


def step(params, opt_state, batch, clean):
    value_and_grad = reweighted_value_and_grad(losses, clean_loss)
    (_, aux), grads = value_and_grad(params, batch, clean)
    updates, opt_state = TX.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, aux.weights


def plain_step(params, opt_state, batch, clean):
    """The step of plain training, with every label believed."""
    grads = jax.grad(lambda params: losses(params, batch).mean())(params)
    updates, opt_state = TX.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, jnp.full(32, 1 / 32)


def train(step, params):
    """Trains for a few steps; gives the parameters and the weight that the wrong labels got."""
    opt_state = TX.init(params)
    on_wrong = []
    for batch, is_wrong in noisy_blobs.batches(DATA, STEPS):
        params, opt_state, weights = step(params, opt_state, batch, DATA.clean)
        on_wrong.append(np.asarray(weights) @ is_wrong)
    return params, np.mean(on_wrong)


@functools.cache
def trained(seed):
    return train(jax.jit(step), init(jax.random.key(seed)))


def test_reweighting_finds_the_wrong_labels_and_plain_training_believes_them():
    params, on_wrong = trained(0)
    plain_params, plain_on_wrong = train(jax.jit(plain_step), init(jax.random.key(0)))
    logits, plain_logits = apply(params, DATA.test["x"]), apply(plain_params, DATA.test["x"])
    assert on_wrong < 0.02
    assert plain_on_wrong == pytest.approx(0.4, abs=0.05)
    assert noisy_blobs.accuracy(logits, DATA.test["y"]) > 0.95
    assert noisy_blobs.accuracy(plain_logits, DATA.test["y"]) < 0.6


def test_donated_buffers_are_used_and_change_nothing():
    donating_step = jax.jit(step, donate_argnames=("params", "opt_state"))
    params = init(jax.random.key(0))
    opt_state = TX.init(params)
    for batch, _ in noisy_blobs.batches(DATA, STEPS):
        old = jax.tree.leaves((params, opt_state))
        params, opt_state, _ = donating_step(params, opt_state, batch, DATA.clean)
        assert all(x.is_deleted() for x in old)
    problems.assert_equal(params, trained(0)[0])


def test_many_seeds_train_in_one_program():
    """The batches are shared, the parameters are not."""
    seeds = range(3)
    params = jax.vmap(init)(jnp.stack([jax.random.key(seed) for seed in seeds]))
    opt_state = jax.vmap(TX.init)(params)
    many_steps = jax.jit(jax.vmap(step, in_axes=(0, 0, None, None)))
    for batch, _ in noisy_blobs.batches(DATA, STEPS):
        params, opt_state, _ = many_steps(params, opt_state, batch, DATA.clean)
    for seed in seeds:
        problems.assert_close(
            jax.tree.map(operator.itemgetter(seed), params), trained(seed)[0], 1e-3
        )
