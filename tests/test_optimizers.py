"""Every row of docs/optimizers.md: what follows `reweight`, and what may look ahead."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from l2rw_jax import reweight, reweighted_value_and_grad

PAGE = (Path(__file__).parents[1] / "docs" / "optimizers.md").read_text()
ROWS = re.findall(r"^\| `(optax\..*)` \| (.*) \| (.*) \|$", PAGE, re.MULTILINE)
REASONS = {
    "no: NaN": "derivative of its first update .* is not finite",
    "no: zero": "derivative of its first update .* vanishes",
    "no: needs extra arguments": "its update takes more than gradients, state and parameters",
}

rng = np.random.default_rng(0)
X = rng.normal(size=(8, 4)).astype(np.float32)
Y = (X @ rng.normal(size=(4, 3)) + 0.3).astype(np.float32)
PARAMS = {"w": jnp.float32(0.5 * rng.normal(size=(4, 3))), "b": jnp.zeros((1, 3))}


def losses(params):
    return jnp.mean((X @ params["w"] + params["b"] - Y) ** 2, axis=1)


def clean_loss(params):
    return losses(params)[:4].mean()


def build(text):
    return eval(text, {"optax": optax})


def step(tx, params, state):
    updates, state = tx.update(
        None,
        state,
        params,
        per_example_loss_fn=losses,
        val_loss_fn=clean_loss,
        # For the few that ask for them, and to be passed over by the others.
        value=clean_loss(params),
        grad=jax.grad(clean_loss)(params),
        value_fn=clean_loss,
    )
    return optax.apply_updates(params, updates), state


@pytest.mark.parametrize(("text", "answer"), [row[:2] for row in ROWS])
def test_after_reweight(text, answer):
    tx = optax.chain(reweight(), build(text))
    params, state = PARAMS, tx.init(PARAMS)
    if answer == "no: its line search rejects the losses":
        with pytest.raises(TypeError, match="Unexpected keyword arguments"):
            step(tx, params, state)
        return
    assert answer in ("yes", "yes, given `value=`")
    jitted = jax.jit(lambda params, state: step(tx, params, state))
    for _ in range(20):
        params, state = jitted(params, state)
    assert clean_loss(params) < 0.95 * clean_loss(PARAMS)  # and so not NaN


@pytest.mark.parametrize(("text", "answer"), [row[::2] for row in ROWS])
def test_as_inner(text, answer):
    inner = build(text)
    if answer != "yes":
        with pytest.raises(ValueError, match=REASONS[answer]):
            reweight(inner).init(PARAMS)
        return
    state = reweight(inner).init(PARAMS)
    fn = reweighted_value_and_grad(lambda p, _: losses(p), lambda p, _: clean_loss(p), inner=inner)
    scores = jax.jit(fn)(PARAMS, None, None, inner_state=state.inner_state)[0][1].scores
    assert np.all(np.isfinite(scores)) and np.any(scores)


def test_the_table_has_every_optimizer_of_optax():
    names = """adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage
        lamb lars lbfgs lion nadam nadamw noisy_sgd novograd optimistic_adam_v2
        optimistic_gradient_descent polyak_sgd radam rmsprop rprop sgd sign_sgd signum sm3 yogi"""
    listed = {re.match(r"optax\.([\w.]+)\(", text)[1] for text, *_ in ROWS}
    assert listed == {*names.split(), "chain", "contrib.muon"}
    assert len({text for text, *_ in ROWS}) == len(ROWS)


def test_a_parameter_that_never_had_a_gradient_makes_warm_adam_nan():
    """The page's warning, and its remedy."""

    def scores(inner):
        state = inner.init(PARAMS)
        for _ in range(3):
            grads = jax.grad(clean_loss)(PARAMS)
            grads["w"] = grads["w"].at[0, 0].set(0.0)  # a dead unit
            _, state = inner.update(grads, state, PARAMS)
        fn = reweighted_value_and_grad(
            lambda p, _: losses(p), lambda p, _: clean_loss(p), inner=inner
        )
        return fn(PARAMS, None, None, inner_state=state)[0][1].scores

    assert np.all(np.isnan(scores(optax.adam(0.05))))
    assert np.all(np.isfinite(scores(optax.adam(0.05, eps_root=1e-8))))
