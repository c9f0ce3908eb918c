"""Scores three ways: forward mode, Algorithm 1, and central differences of the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

from l2rw_jax import example_scores, l2rw, reweighted_value_and_grad

pytestmark = pytest.mark.usefixtures("strict")


def central_differences(loss, b, step, over):
    """Scores by the definition: minus the derivative of the look-ahead loss at epsilon zero.

    The step is small beside sqrt(eps_root) = 0.01, the scale on which cold Adam bends.
    """
    steps = step * jnp.eye(b)
    return -(over(loss, steps) - over(loss, -steps)) / (2 * step)


@pytest.fixture(scope="module")
def smooth():
    with jax.enable_x64(True):
        problem = problems.mlp()
        return problem, problems.lookahead_states(problem)


@pytest.mark.parametrize("name", problems.LOOKAHEADS)
def test_forward_reverse_and_finite_differences_agree(name, smooth):
    problem, lookahead, state = smooth[0], problems.LOOKAHEADS[name], smooth[1][name]

    @jax.jit
    def three_ways():
        forward, reverse = (
            example_scores(
                lambda p: problem.losses(p, problem.batch),
                lambda p: problem.clean_loss(p, problem.clean),
                problem.params,
                lookahead=lookahead,
                lookahead_state=state,
                mode=mode,
            )
            for mode in ("forward", "reverse")
        )
        loss = problems.clean_loss_ahead(problem, lookahead, state)
        return forward, reverse, central_differences(loss, 6, 1e-6, lambda f, x: jax.vmap(f)(x))

    forward, reverse, differences = three_ways()
    assert forward.dtype == jnp.float64
    assert np.min(np.abs(forward)) > 1e-6  # or the comparisons below would say nothing
    problems.assert_close(forward, reverse, 1e-9)
    problems.assert_close(forward, differences, 1e-6)


# One of each kind; all of them are tried on the smaller problem above.
ON_A_NET = ("none", "adamw", "clip, decay, momentum")


def chosen(index):
    """One optimizer that is any of them: with `index` traced, one compilation serves them all."""

    def branch(name, lookahead):
        if lookahead is None:
            return lambda grads, states, params: jax.tree.map(jnp.negative, grads)
        return lambda grads, states, params: lookahead.update(grads, states[name], params)[0]

    branches = [branch(name, problems.LOOKAHEADS[name]) for name in ON_A_NET]

    def update(grads, states, params=None):
        return jax.lax.switch(index, branches, grads, states, params), states

    return optax.GradientTransformation(lambda params: None, update)


@pytest.mark.slow  # test_create_model.py and test_axis_name.py have batch normalisation too
def test_on_a_residual_net_with_batch_norm_and_dropout():
    with jax.numpy_rank_promotion("allow"):
        problem = problems.residual(dropout=0.3)
        states = problems.lookahead_states(problem)
        # Forward and reverse come from the function that trainers use, model state and all.
        forward, reverse = (
            jax.jit(
                lambda index, mode=mode: reweighted_value_and_grad(
                    problem.losses,
                    problem.clean_loss,
                    weighting=l2rw(chosen(index), mode=mode),
                    has_aux=True,
                )(problem.params, problem.batch, problem.clean, lookahead_state=states)
            )
            for mode in ("forward", "reverse")
        )

        @jax.jit
        def differences(index):
            loss = problems.clean_loss_ahead(problem, chosen(index), states)
            # A step short enough not to switch a ReLU. No vmap: it makes slow convolutions.
            return central_differences(loss, 4, 1e-8, jax.lax.map)

        @jax.jit
        def alone():
            """What vmapped gradients of single examples would give for plain SGD."""
            direction = jax.grad(problem.clean_loss)(problem.params, problem.clean)

            def one(x, y):
                single = {"x": x[None], "y": y[None]}
                losses = lambda p: problem.losses(p, single)[0][0]  # noqa: E731
                return jax.jvp(losses, (problem.params,), (direction,))[1]

            return jax.lax.map(lambda xy: one(*xy), (problem.batch["x"], problem.batch["y"]))

        for index, name in enumerate(ON_A_NET):
            got = forward(index)
            aux = got[0][1]
            assert np.min(np.abs(aux.scores)) > 1e-6, name
            problems.assert_close(got, reverse(index), 1e-9)
            if index == 0:  # an error of both modes would lie in the losses
                problems.assert_close(aux.scores, differences(index), 1e-5)
        _, model_state = problem.losses(problem.params, problem.batch)
        problems.assert_close(aux.aux, model_state, 1e-12)
        # The test can tell: single examples, normalised by themselves, have other scores.
        scores = forward(0)[0][1].scores
        assert np.max(np.abs(alone() - scores)) > 0.1 * np.max(np.abs(scores))


def scores(problem, **options):
    return example_scores(
        lambda p: problem.losses(p, problem.batch),
        lambda p: problem.clean_loss(p, problem.clean),
        problem.params,
        **options,
    )


def test_a_state_without_arrays_may_be_left_out():
    problem = problems.mlp()
    problems.assert_close(scores(problem, lookahead=optax.sgd(0.5)), 0.5 * scores(problem), 1e-12)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_losses_with_the_sign_flipped_flip_the_scores(mode):
    problem = problems.mlp()
    flipped = problem._replace(losses=lambda *args: -problem.losses(*args))
    np.testing.assert_array_equal(scores(flipped, mode=mode), -scores(problem, mode=mode))


def test_an_example_like_the_only_clean_one_speaks_for_itself():
    problem = problems.mlp(m=1)
    problem = problem._replace(batch=problem.clean)
    squares = jax.tree.map(
        lambda g: jnp.sum(g**2), jax.grad(problem.clean_loss)(problem.params, problem.clean)
    )
    want = sum(jax.tree.leaves(squares))
    assert want > 0
    np.testing.assert_allclose(scores(problem), [want], rtol=1e-12)


def test_duplicates_in_the_clean_batch_change_nothing():
    problem = problems.mlp()
    twice = problem._replace(clean=jax.tree.map(lambda x: jnp.concatenate([x, x]), problem.clean))
    problems.assert_close(scores(twice), scores(problem), 1e-12)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"params": None}, ValueError, "params: got None; takes the pytree of parameters"),
        (
            {"lookahead": 0.1},
            TypeError,
            "lookahead: got float; takes an optax.Grad",
        ),
        (
            {"lookahead": optax.linear_schedule(0.1, 0.2, 3)},
            TypeError,
            "lookahead: got function; takes an optax.GradientTransformation",
        ),
        (
            {"lookahead": optax.sgd(0.1, 0.9)},
            ValueError,
            "lookahead_state: got None, but this look",
        ),
        ({"mode": "backward"}, ValueError, "mode: got 'backward'; takes one of 'forward', 'rev"),
        ({"loss": lambda w: w.sum()}, ValueError, r"per_example_loss_fn's result: got shape \(\)"),
        ({"loss": lambda w: (w, 1)}, TypeError, "result: got tuple; takes one .* has_aux=True"),
        ({"loss": lambda w: jnp.int32(w)}, TypeError, "result: got dtype int32; takes a floating"),
        (
            {"clean": lambda w: w[None]},
            ValueError,
            r"clean_loss_fn's result: got shape \(1, 2\), fl",
        ),
        (
            {"clean": lambda w: (w.sum(), 1)},
            ValueError,
            "clean_loss_fn's result: got <class 'tuple'>",
        ),
        ({"clean": lambda w: jnp.int32(w.sum())}, ValueError, r"got shape \(\), int32; takes fl"),
    ],
)
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_errors(changes, error, match, mode):
    given = {"loss": lambda w: w, "clean": lambda w: w.sum(), "params": jnp.ones(2), "mode": mode}
    given |= changes
    with pytest.raises(error, match=match):
        example_scores(given.pop("loss"), given.pop("clean"), given.pop("params"), **given)
