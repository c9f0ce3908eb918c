"""Only some parameters move in the look-ahead: the same as losses of these parameters alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

from l2rw_jax import example_scores, l2rw, reweight, reweighted_value_and_grad

pytestmark = pytest.mark.usefixtures("strict")

MODES = ("forward", "reverse", "finite_difference")
# The parameters of problems.mlp are two layers of {"w", "b"}.
MASKS = {
    "head": (False, True),  # a prefix
    "kernels": ({"w": True, "b": False}, {"w": True, "b": False}),
    "one bias": lambda params: ({"w": False, "b": True}, False),
    "all": True,
}


@functools.cache
def problem():
    with jax.enable_x64(True):
        made = problems.mlp()
        return made, problems.lookahead_states(made)


def closure(mask, params):
    """The parameters under True as a list, and the function that puts them into the others."""
    mask = mask(params) if callable(mask) else mask
    flags = jax.tree.leaves(jax.tree.map(lambda m, p: jax.tree.map(lambda _: m, p), mask, params))
    leaves, structure = jax.tree.flatten(params)

    def merge(moving):
        moving = iter(moving)
        return structure.unflatten(
            [next(moving) if f else x for f, x in zip(flags, leaves, strict=True)]
        )

    return [x for f, x in zip(flags, leaves, strict=True) if f], merge


@pytest.mark.parametrize(
    ("mask", "mode", "jit"),
    [(mask, "forward", True) for mask in MASKS]
    + [("head", mode, True) for mode in MODES[1:]]
    + [("head", "forward", False), ("kernels", "forward", False)],
)
def test_equals_the_closure_form_exactly(mask, mode, jit):
    made, _ = problem()
    moving, merge = closure(MASKS[mask], made.params)

    def masked(params):
        return example_scores(
            lambda p: made.losses(p, made.batch),
            lambda p: made.clean_loss(p, made.clean),
            params,
            mode=mode,
            mask=MASKS[mask],
        )

    def alone(moving):
        return example_scores(
            lambda x: made.losses(merge(x), made.batch),
            lambda x: made.clean_loss(merge(x), made.clean),
            moving,
            mode=mode,
        )

    wrap = jax.jit if jit else lambda fn: fn
    got, want = wrap(masked)(made.params), wrap(alone)(moving)
    if jit:  # the compiler may add up in another order, as programs differ
        np.testing.assert_allclose(got, want, rtol=1e-12 if mode != "finite_difference" else 1e-6)
    else:
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("name", "mask"),
    [("momentum", "head"), ("adam, eps_root", "head"), ("clip, decay, momentum", "kernels")],
)
def test_forward_reverse_and_finite_differences_agree_with_a_lookahead_optimizer(name, mask):
    made, states = problem()
    lookahead, state = problems.LOOKAHEADS[name], states[name]
    moving, merge = closure(MASKS[mask], made.params)

    @jax.jit
    def scores():
        return {
            mode: example_scores(
                lambda p: made.losses(p, made.batch),
                lambda p: made.clean_loss(p, made.clean),
                made.params,
                lookahead=lookahead,
                lookahead_state=state,
                mode=mode,
                mask=MASKS[mask],
            )
            for mode in MODES
        }

    def loss_ahead(epsilon):
        """The definition: the gradient is taken by, and the update moves, those under True."""
        grads = jax.grad(lambda x: jnp.vdot(epsilon, made.losses(merge(x), made.batch)))(moving)
        zeros = closure(MASKS[mask], jax.tree.map(jnp.zeros_like, made.params))[1]
        updates, _ = lookahead.update(zeros(grads), state, made.params)
        moved = optax.apply_updates(moving, closure(MASKS[mask], updates)[0])
        return made.clean_loss(merge(moved), made.clean)

    steps = 1e-6 * jnp.eye(6)
    differences = -(jax.vmap(loss_ahead)(steps) - jax.vmap(loss_ahead)(-steps)) / 2e-6
    got = scores()
    assert np.min(np.abs(differences)) > 1e-6
    problems.assert_close(got["forward"], differences, 1e-6)
    problems.assert_close(got["reverse"], got["forward"], 1e-9)
    problems.assert_close(got["finite_difference"], got["forward"], 1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_is_that_of_all_parameters(mode):
    made, _ = problem()
    fn = reweighted_value_and_grad(
        made.losses,
        made.clean_loss,
        weighting=l2rw(mode=mode, mask=(False, True)),
    )
    (_, aux), grads = fn(*made[2:])
    want = jax.grad(lambda p: jnp.vdot(aux.weights, made.losses(p, made.batch)))(made.params)
    problems.assert_close(grads, want, 1e-12)


def test_frozen_parameters_that_are_left_out_change_who_is_active():
    """What the mask is for: without it, scores follow directions that never move."""
    made = problems.mlp(b=256, m=8)
    active = [
        reweighted_value_and_grad(made.losses, made.clean_loss, weighting=l2rw(mask=mask))(
            *made[2:]
        )[0][1].weights
        > 0
        for mask in (None, (False, True))
    ]
    assert np.sum(active[0] != active[1]) >= 8


def test_in_a_chain_with_frozen_parameters():
    """The frozen layer stays, and the updates are those of the head trained by itself."""
    made, _ = problem()
    labels = ("frozen", "trained")
    tx = optax.chain(
        reweight(
            l2rw(optax.sgd(0.1, momentum=0.9), mask=(False, True)),
        ),
        optax.partition({"frozen": optax.set_to_zero(), "trained": optax.adam(0.1)}, labels),
    )
    head_tx = optax.chain(reweight(l2rw(optax.sgd(0.1, momentum=0.9))), optax.adam(0.1))
    params, state = made.params, tx.init(made.params)
    head, head_state = params[1], head_tx.init(params[1])
    for _ in range(3):
        updates, state = tx.update(
            None,
            state,
            params,
            per_example_loss_fn=lambda p: made.losses(p, made.batch),
            clean_loss_fn=lambda p: made.clean_loss(p, made.clean),
        )
        params = optax.apply_updates(params, updates)
        updates, head_state = head_tx.update(
            None,
            head_state,
            head,
            per_example_loss_fn=lambda h: made.losses((made.params[0], h), made.batch),
            clean_loss_fn=lambda h: made.clean_loss((made.params[0], h), made.clean),
        )
        head = optax.apply_updates(head, updates)
    problems.assert_equal(params[0], made.params[0])
    problems.assert_close(params[1], head, 1e-12)


def test_a_lookahead_is_only_checked_where_it_moves():
    """Adam without eps_root on frozen parameters does no harm."""
    params = {"frozen": jnp.ones(2), "head": jnp.ones(2)}
    lookahead = optax.partition(
        {"adam": optax.adam(0.1), "sgd": optax.sgd(0.1)}, {"frozen": "adam", "head": "sgd"}
    )
    with pytest.raises(ValueError, match="is not finite"):
        reweight(l2rw(lookahead)).init(params)
    reweight(
        l2rw(lookahead, mask={"frozen": False, "head": True}),
    ).init(params)


@pytest.mark.parametrize(
    ("mask", "error", "match"),
    [
        ({"w": True}, ValueError, "mask: got PyTreeDef.*, which is no prefix of the par"),
        ((True, True, False), ValueError, "mask: got .*, which is no prefix"),
        ((False, False), ValueError, "mask: got no True, so nothing would move"),
        ((1.0, 0.0), TypeError, "mask: got leaves of float; takes Python bools"),
        ((jnp.array(True), False), TypeError, "mask: got leaves of .*; takes Python boo"),
    ],
)
def test_errors(mask, error, match):
    made, _ = problem()
    with pytest.raises(error, match=match):
        reweighted_value_and_grad(made.losses, made.clean_loss, weighting=l2rw(mask=mask))(
            *made[2:]
        )
