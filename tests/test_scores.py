"""Scores three ways: forward mode, Algorithm 1, and central differences of the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

from l2rw_jax import example_scores, reweighted_value_and_grad

pytestmark = pytest.mark.usefixtures("strict")

# Half the distance of the two evaluations. Cold Adam bends on the scale of sqrt(eps_root) = 0.01.
STEP = 1e-6


def central_differences(loss, b, over):
    """Scores by the definition: minus the derivative of the look-ahead loss at epsilon zero."""
    steps = STEP * jnp.eye(b)
    return -(over(loss, steps) - over(loss, -steps)) / (2 * STEP)


@pytest.mark.parametrize("name", problems.INNERS)
def test_forward_reverse_and_finite_differences_agree(name):
    problem, inner = problems.mlp(), problems.INNERS[name]
    state = problems.state_of(name, problem)

    @jax.jit
    def three_ways():
        forward, reverse = (
            example_scores(
                lambda p: problem.losses(p, problem.batch),
                lambda p: problem.clean_loss(p, problem.clean),
                problem.params,
                inner=inner,
                inner_state=state,
                mode=mode,
            )
            for mode in ("forward", "reverse")
        )
        loss = problems.lookahead(problem, inner, state)
        return forward, reverse, central_differences(loss, 6, lambda f, x: jax.vmap(f)(x))

    forward, reverse, differences = three_ways()
    assert forward.dtype == jnp.float64
    assert np.min(np.abs(forward)) > 1e-6  # or the comparisons below would say nothing
    problems.assert_close(forward, reverse, 1e-9)
    problems.assert_close(forward, differences, 1e-6)


def chosen(index):
    """One optimizer that is any of them: with `index` traced, one compilation serves them all."""
    inners = [optax.sgd(1.0) if x is None else x for x in problems.INNERS.values()]
    branches = [
        lambda grads, states, params, inner=inner, i=i: inner.update(grads, states[i], params)[0]
        for i, inner in enumerate(inners)
    ]

    def update(grads, states, params=None):
        return jax.lax.switch(index, branches, grads, states, params), states

    return optax.GradientTransformation(lambda params: None, update)


def test_on_a_residual_net_with_batch_norm_and_dropout():
    with jax.numpy_rank_promotion("allow"):
        problem = problems.residual(dropout=0.3)
        states = [problems.state_of(name, problem) for name in problems.INNERS]
        # Forward and reverse come from the function that trainers use, model state and all.
        forward, reverse = (
            jax.jit(
                lambda index, mode=mode: reweighted_value_and_grad(
                    problem.losses,
                    problem.clean_loss,
                    inner=chosen(index),
                    has_aux=True,
                    mode=mode,
                )(problem.params, problem.batch, problem.clean, inner_state=states)
            )
            for mode in ("forward", "reverse")
        )

        @jax.jit
        def differences(index):
            loss = problems.lookahead(problem, chosen(index), states)
            # Not vmap: a batch of kernels makes slow convolutions.
            return central_differences(loss, 4, jax.lax.map)

        @jax.jit
        def alone():
            """What vmapped gradients of single examples would give for plain SGD."""
            direction = jax.grad(problem.clean_loss)(problem.params, problem.clean)

            def one(x, y):
                single = {"x": x[None], "y": y[None]}
                losses = lambda p: problem.losses(p, single)[0][0]  # noqa: E731
                return jax.jvp(losses, (problem.params,), (direction,))[1]

            return jax.lax.map(lambda example: one(*example), (problem.batch["x"], problem.batch["y"]))

        for index, name in enumerate(problems.INNERS):
            (loss, aux), grads = got = forward(index)
            assert np.min(np.abs(aux.scores)) > 1e-6, name
            problems.assert_close(got, reverse(index), 1e-9)
            problems.assert_close(aux.scores, differences(index), 3e-6)
        _, model_state = problem.losses(problem.params, problem.batch)
        problems.assert_close(aux.aux, model_state, 1e-12)
        # The test can tell: single examples, normalised by themselves, have other scores.
        scores = forward(0)[0][1].scores
        assert np.max(np.abs(alone() - scores)) > 0.1 * np.max(np.abs(scores))
