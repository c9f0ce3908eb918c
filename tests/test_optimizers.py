"""The table of docs/reference/optimizers.md is what happens, and has all of Optax."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import l2rw_jax
from experiments.benchmark import optimizers
from l2rw_jax import l2rw, reweight, reweighted_value_and_grad

TEXT = optimizers.PAGE.read_text()
ROWS = {
    name: optimizers.Row(name, *answers)
    for name, *answers in re.findall(r"^\| `([\w.]*\w)` \| (.*) \| (.*) \| (.*) \|$", TEXT, re.M)
}
# In `make test`, those after which something is amiss, and some of the others.
QUICK = {n for n, r in ROWS.items() if r.after != "yes"}
QUICK |= {"adam", "apply_if_finite", "contrib.muon", "lion", "MultiSteps", "partition", "sgd"}


def test_the_table_has_every_optimizer_and_wrapper_of_optax():
    assert list(ROWS) == list(optimizers.functions())
    assert len(ROWS) > 60


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ROWS]
)
def test_a_row_is_what_happens(name):
    assert optimizers.row(name) == ROWS[name]


def losses(params):
    return optimizers.problem().losses(params)


def clean_loss(params):
    return optimizers.problem().clean_loss(params)


FNS = {"per_example_loss_fn": losses, "clean_loss_fn": clean_loss}
PARAMS = optimizers.problem().params


def test_chain_is_optax_s_where_nothing_needs_the_loss():
    members = reweight(l2rw(optax.sgd(0.1, momentum=0.9))), optax.clip(0.1), optax.adam(0.1)
    results = []
    for chain in (l2rw_jax.chain, optax.chain):
        tx = chain(*members)
        state = tx.init(PARAMS)
        results.append(tx.update(None, state, PARAMS, **FNS))
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_chain_passes_the_weighted_loss_and_what_each_takes():
    seen = []

    def update(updates, state, params=None, *, value, mine=None):
        seen.append((value, mine))
        return updates, state

    def update_all(updates, state, params=None, **extra_args):
        seen.append(extra_args)
        return updates, state

    def init(params):
        return optax.EmptyState()

    tx = l2rw_jax.chain(
        reweight(),
        optax.GradientTransformationExtraArgs(init, update),
        optax.GradientTransformationExtraArgs(init, update_all),
        optax.sgd(0.1),
    )
    _, state = tx.update(None, tx.init(PARAMS), PARAMS, mine=3, other=4, **FNS)
    fn = reweighted_value_and_grad(lambda p, _: losses(p), lambda p, _: clean_loss(p))
    (loss, _), _ = fn(PARAMS, None, None)
    np.testing.assert_allclose(seen[0][0], loss, rtol=1e-6)
    assert seen[0][1] == 3
    assert seen[1] == {"value": seen[0][0], "mine": 3, "other": 4}
    tx.update(None, state, PARAMS, value=jnp.ones(()), **FNS)
    assert seen[2] == (1, None)  # the caller's own


def test_chain_takes_reweight_first():
    for members in ((optax.sgd(0.1), reweight()), (optax.chain(reweight()), optax.sgd(0.1))):
        tx = l2rw_jax.chain(*members)
        with pytest.raises(TypeError, match="reweighting: its state is tuple; takes what reweight"):
            tx.update(PARAMS, tx.init(PARAMS), PARAMS, **FNS)


def test_a_parameter_that_never_had_a_gradient_is_refused_in_a_warm_adam():
    """A dead unit makes every score NaN; eps_root does not."""

    def scores(lookahead):
        state = lookahead.init(PARAMS)
        for _ in range(3):
            grads = jax.grad(clean_loss)(PARAMS)
            grads["w"] = grads["w"].at[0, 0].set(0.0)  # a dead unit
            _, state = lookahead.update(grads, state, PARAMS)
        fn = reweighted_value_and_grad(
            lambda p, _: losses(p), lambda p, _: clean_loss(p), weighting=l2rw(lookahead)
        )
        return fn(PARAMS, None, None, lookahead_state=state)[0][1].scores

    with pytest.raises(ValueError, match="is not finite"):
        scores(optax.adam(0.05))
    assert np.all(np.isfinite(scores(optax.adam(0.05, eps_root=1e-8))))
