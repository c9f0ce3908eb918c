import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from l2rw_jax import example_scores, example_weights, l2rw, reweighted_value_and_grad

MODES = ("forward", "reverse")
both_modes = pytest.mark.parametrize("mode", MODES)
strict = pytest.mark.usefixtures("strict")


def squares(w, batch):
    """Losses of a linear model, independent of each other."""
    return (batch["x"] @ w - batch["y"]) ** 2


def mean_squares(w, batch):
    return squares(w, batch).mean()


def linear(b=8, m=4, seed=0):
    rng = np.random.default_rng(seed)

    def examples(n):
        return {"x": jnp.asarray(rng.normal(size=(n, 3))), "y": jnp.asarray(rng.normal(size=n))}

    return jnp.asarray(rng.normal(size=3)), examples(b), examples(m)


@strict
@both_modes
@pytest.mark.parametrize("name", ["none", "momentum"])
def test_equals_its_parts(mode, name):
    """Scores, weights, then jax.value_and_grad of the sum with the weights held constant."""
    problem, lookahead = problems.mlp(), problems.LOOKAHEADS[name]
    state = problems.lookahead_states(problem)[name]
    losses, clean_loss, params, batch, clean = problem
    fn = reweighted_value_and_grad(
        losses,
        clean_loss,
        weighting=l2rw(lookahead, mode=mode),
    )
    (loss, aux), grads = fn(params, batch, clean, lookahead_state=state)

    scores = example_scores(
        lambda p: losses(p, batch),
        lambda p: clean_loss(p, clean),
        params,
        lookahead=lookahead,
        lookahead_state=state,
        mode=mode,
    )
    weights = example_weights(scores)
    assert 0 < np.sum(weights > 0) < 6  # some examples count and some do not
    want = jax.value_and_grad(lambda p: jnp.vdot(weights, losses(p, batch)))(params)
    problems.assert_close((loss, grads), want, 1e-12)
    problems.assert_close((aux.scores, aux.weights), (scores, weights), 1e-12)
    problems.assert_close(aux.losses, losses(params, batch), 1e-12)
    clean_loss = problems.clean_loss_ahead(problem, lookahead, state)(jnp.zeros(6))
    problems.assert_close(aux.clean_loss, clean_loss, 1e-12)
    assert aux.aux is None

    jitted = jax.jit(fn)(params, batch, clean, lookahead_state=state)
    problems.assert_close(jitted, ((loss, aux), grads), 1e-12)


@strict
@both_modes
def test_aux_passes_through(mode):
    w, batch, clean = linear()
    fn = reweighted_value_and_grad(
        lambda w, batch: (squares(w, batch), {"text": batch["y"], "w": 2 * w}),
        mean_squares,
        has_aux=True,
        weighting=l2rw(mode=mode),
    )
    (_, aux), grads = fn(w, batch, clean)
    problems.assert_close(aux.aux, {"text": batch["y"], "w": 2 * w}, 1e-15)
    (_, plain), want = reweighted_value_and_grad(squares, mean_squares, weighting=l2rw(mode=mode))(
        w, batch, clean
    )
    problems.assert_equal((aux._replace(aux=None), grads), (plain, want))


# Any nesting of float32 leaves of any rank.
leaves_st = st.lists(st.integers(1, 3), max_size=3).map(lambda shape: np.zeros(shape, np.float32))
trees_st = st.recursive(
    leaves_st,
    lambda trees: (
        st.dictionaries(st.sampled_from("abc"), trees, min_size=1, max_size=2)
        | st.tuples(trees, trees)
        | st.lists(trees, min_size=1, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=12)
@given(trees_st, st.integers(1, 5), st.integers(1, 4), st.sampled_from(MODES), st.booleans())
def test_any_pytree_and_any_batch_size_against_the_closed_form(tree, b, m, mode, nested):
    """Logistic regression: the gradient of example i is -y_i s(-y_i z_i) x_i."""
    flat, unflatten = ravel_pytree(tree)
    rng = np.random.default_rng(b + 10 * m + 100 * flat.size)
    theta = rng.normal(size=flat.size)
    x, clean_x = rng.normal(size=(b, flat.size)), rng.normal(size=(m, flat.size))
    y, clean_y = rng.choice([-1.0, 1.0], b), rng.choice([-1.0, 1.0], m)

    def losses(params, batch):
        x, y = jax.tree.leaves(batch)
        return jnp.logaddexp(0, -y * (x @ ravel_pytree(params)[0]))

    def pack(x, y):
        pair = (jnp.float32(x), jnp.float32(y))
        return {"inputs": [pair]} if nested else pair

    fn = reweighted_value_and_grad(
        losses, lambda *args: losses(*args).mean(), weighting=l2rw(mode=mode)
    )
    params = unflatten(jnp.float32(theta))
    (loss, aux), grads = fn(params, pack(x, y), pack(clean_x, clean_y))
    assert jax.tree.structure(grads) == jax.tree.structure(tree)
    jax.tree.map(lambda g, p: np.testing.assert_equal(g.shape, p.shape), grads, tree)

    def gradients(x, y):
        return -(y / (1 + np.exp(y * (x @ theta))))[:, None] * x

    scores = gradients(x, y) @ gradients(clean_x, clean_y).mean(0)
    rectified = np.maximum(scores, 0)
    weights = rectified / (rectified.sum() or 1)
    np.testing.assert_allclose(aux.scores, scores, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(aux.weights, weights, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        loss, weights @ np.logaddexp(0, -y * (x @ theta)), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        ravel_pytree(grads)[0], weights @ gradients(x, y), rtol=1e-3, atol=1e-4
    )


@both_modes
def test_identical_examples_give_the_plain_step(mode):
    """Eight times the same example: weights of exactly 1/8, the mean's gradient bit for bit."""
    problem = problems.mlp(b=1)
    batch = jax.tree.map(lambda x: jnp.repeat(x, 8, axis=0), problem.batch)
    fn = jax.jit(
        reweighted_value_and_grad(problem.losses, problem.clean_loss, weighting=l2rw(mode=mode))
    )
    (loss, aux), grads = fn(problem.params, batch, batch)
    np.testing.assert_array_equal(aux.weights, 1 / 8)
    want_loss, want = jax.jit(jax.value_and_grad(problem.clean_loss))(problem.params, batch)
    problems.assert_equal((loss, grads), (want_loss, want))
    tx = optax.sgd(0.1, momentum=0.9)
    state = tx.init(problem.params)
    problems.assert_equal(tx.update(grads, state), tx.update(want, state))


@pytest.mark.parametrize("power", [-8, -1, 3])
@both_modes
def test_the_rate_of_the_lookahead_cancels(power, mode):
    """Exactly for a power of two: this is why `lookahead=None` may do without one."""
    problem = problems.mlp()
    want, got = (
        reweighted_value_and_grad(
            problem.losses,
            problem.clean_loss,
            weighting=l2rw(lookahead, mode=mode),
        )(*problem[2:])
        for lookahead in (None, optax.sgd(2.0**power))
    )
    problems.assert_equal(got[0][1].scores, 2.0**power * want[0][1].scores)
    problems.assert_equal(
        (got[0][1].weights, got[0][0], got[1]), (want[0][1].weights, want[0][0], want[1])
    )


@strict
@both_modes
def test_min_weight_reaches_the_weights(mode):
    w, batch, clean = linear()
    fn = reweighted_value_and_grad(
        squares,
        mean_squares,
        weighting=l2rw(mode=mode, min_weight=0.5),
    )
    (_, aux), grads = fn(w, batch, clean)
    rectified = np.maximum(aux.scores, 0.5)
    assert 0 < np.sum(rectified == 0.5) < 8
    np.testing.assert_allclose(aux.weights, rectified / rectified.sum(), rtol=1e-12)
    want = 2 * (aux.weights * (batch["x"] @ w - batch["y"])) @ batch["x"]
    np.testing.assert_allclose(grads, want, rtol=1e-12)


@both_modes
def test_no_useful_example_gives_exactly_zero(mode):
    """Every label contradicts the clean one, so every step would raise the clean loss."""
    batch = {"x": jnp.eye(2), "y": jnp.array([-1.0, -1.0])}
    clean = {"x": jnp.eye(2), "y": jnp.array([1.0, 1.0])}
    fn = reweighted_value_and_grad(squares, mean_squares, weighting=l2rw(mode=mode))
    (loss, aux), grads = fn(jnp.zeros(2), batch, clean)
    assert np.all(aux.scores < 0)
    problems.assert_equal((loss, aux.weights, grads), (0.0, np.zeros(2), np.zeros(2)))


def without(batch, at):
    return jax.tree.map(lambda x: jnp.delete(x, at, axis=0), batch)


def nan_label():
    w, batch, clean = linear()
    return w, batch | {"y": batch["y"].at[2].set(jnp.nan)}, clean


@both_modes
def test_a_nan_takes_its_own_weight_only_but_reaches_the_gradient(mode):
    """What the docstring says: zero times NaN is NaN in the backward pass."""
    w, batch, clean = nan_label()
    fn = reweighted_value_and_grad(squares, mean_squares, weighting=l2rw(mode=mode))
    (loss, aux), grads = fn(w, batch, clean)
    (want_loss, want), _ = fn(w, without(batch, 2), clean)
    assert np.isnan(aux.scores[2]) and aux.weights[2] == 0
    np.testing.assert_allclose(np.delete(aux.weights, 2), want.weights, rtol=1e-6)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
    assert np.all(np.isnan(grads))


@both_modes
def test_a_nan_that_the_losses_mask_is_as_good_as_away(mode):
    def masked(w, batch):
        known = ~jnp.isnan(batch["y"])
        batch = batch | {"y": jnp.where(known, batch["y"], 0)}
        return jnp.where(known, squares(w, batch), 0)

    w, batch, clean = nan_label()
    (loss, aux), grads = reweighted_value_and_grad(masked, mean_squares, weighting=l2rw(mode=mode))(
        w, batch, clean
    )
    fn = reweighted_value_and_grad(squares, mean_squares, weighting=l2rw(mode=mode))
    (want_loss, want), want_grads = fn(w, without(batch, 2), clean)
    np.testing.assert_allclose(np.delete(aux.weights, 2), want.weights, rtol=1e-6)
    np.testing.assert_allclose((loss, *grads), (want_loss, *want_grads), rtol=1e-5)


@both_modes
def test_a_score_that_overflows_takes_its_own_weight_only(mode):
    w, batch, clean = linear()
    huge = batch | {"x": batch["x"].at[2].set(jnp.sign(w) * 1e30), "y": batch["y"].at[2].set(0)}
    fn = reweighted_value_and_grad(squares, mean_squares, weighting=l2rw(mode=mode))
    (loss, aux), grads = fn(w, huge, clean)
    (want_loss, want), want_grads = fn(w, without(batch, 2), clean)
    assert not np.isfinite(aux.scores[2]) and aux.losses[2] == np.inf
    np.testing.assert_allclose(np.delete(aux.weights, 2), want.weights, rtol=1e-6)
    np.testing.assert_allclose((loss, *grads), (want_loss, *want_grads), rtol=1e-5)


@strict
@both_modes
def test_losses_that_know_each_other(mode):
    """Centred predictions, as under batch normalisation: single examples would score zero."""
    w, batch, clean = linear()

    def centred(w, batch):
        z = batch["x"] @ w
        return (z - z.mean(keepdims=True) - batch["y"]) ** 2

    fn = reweighted_value_and_grad(
        centred, lambda *args: centred(*args).mean(), weighting=l2rw(mode=mode)
    )
    (_, aux), grads = fn(w, batch, clean)
    jacobian = jax.jacobian(centred)(w, batch)
    want = jacobian @ jax.jacobian(centred)(w, clean).mean(0)
    np.testing.assert_allclose(aux.scores, want, rtol=1e-12)
    np.testing.assert_allclose(grads, aux.weights @ jacobian, rtol=1e-12)
    alone = jax.vmap(
        jax.grad(lambda w, x: centred(w, jax.tree.map(lambda x: x[None], x))[0]), (None, 0)
    )(w, batch)
    np.testing.assert_array_equal(alone, 0)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"lookahead": 0.1},
            TypeError,
            "lookahead: got float; takes an optax.Grad",
        ),
        ({"mode": "both"}, ValueError, "mode: got 'both'; takes one of 'forward', 'reverse', 'fin"),
        ({"min_weight": -1}, ValueError, "min_weight: got -1; takes a number .* at least 0"),
    ],
)
def test_options_are_checked_before_the_first_call(options, error, match):
    with pytest.raises(error, match=match):
        reweighted_value_and_grad(squares, mean_squares, weighting=l2rw(**options))


@pytest.mark.parametrize(
    ("losses", "options", "error", "match"),
    [
        (mean_squares, {}, ValueError, r"per_example_loss_fn's result: got shape \(\); takes"),
        (lambda *a: squares(*a)[:, None], {}, ValueError, r"result: got shape \(8, 1\); takes"),
        (lambda *a: (squares(*a), 1), {}, TypeError, "got tuple; .* needs has_aux=True"),
        (lambda *a: jnp.ones(8, int), {}, TypeError, r"result: got dtype int\d+; takes a float"),
        (
            squares,
            {"lookahead": optax.sgd(0.1, 0.9)},
            ValueError,
            "lookahead_state: got None, but this",
        ),
    ],
)
@both_modes
def test_errors(losses, options, error, match, mode):
    w, batch, clean = linear()
    with pytest.raises(error, match=match):
        reweighted_value_and_grad(losses, mean_squares, weighting=l2rw(mode=mode, **options))(
            w, batch, clean
        )
    with pytest.raises(ValueError, match="params: got None; takes the pytree"):
        reweighted_value_and_grad(squares, mean_squares, weighting=l2rw(mode=mode))(
            None, batch, clean
        )


COLD = {"nan": optax.adam(0.1), "zero": optax.lion(0.1), "rate zero": optax.sgd(0.0, 0.9)}


@pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("name", COLD)
def test_a_lookahead_that_would_train_nothing_is_refused(name, wrap):
    w, batch, clean = linear()
    match = "lookahead: the derivative of its first update at gradient zero"
    fn = wrap(reweighted_value_and_grad(squares, mean_squares, weighting=l2rw(COLD[name])))
    with pytest.raises(ValueError, match=match):
        fn(w, batch, clean, lookahead_state=COLD[name].init(w))
    with pytest.raises(ValueError, match=match):
        example_scores(
            lambda w: squares(w, batch),
            lambda w: mean_squares(w, clean),
            w,
            lookahead=COLD[name],
            lookahead_state=COLD[name].init(w),
        )


def test_a_warm_adam_may_look_ahead_where_its_state_is_known():
    w, batch, clean = linear()
    adam = optax.adam(0.1)
    _, state = adam.update(jnp.ones(3), adam.init(w), w)
    fn = reweighted_value_and_grad(squares, mean_squares, weighting=l2rw(adam))
    assert np.any(fn(w, batch, clean, lookahead_state=state)[0][1].weights > 0)
    with pytest.raises(ValueError, match="is not finite"):  # a traced state may be a cold one
        jax.jit(fn)(w, batch, clean, lookahead_state=state)


@both_modes
def test_a_state_without_its_optimizer_an_empty_batch_and_losses_of_two_axes(mode):
    w, batch, clean = linear()
    fn = reweighted_value_and_grad(squares, mean_squares, weighting=l2rw(mode=mode))
    with pytest.raises(ValueError, match=r"lookahead_state: got tuple, but lookahead is None"):
        fn(w, batch, clean, lookahead_state=optax.sgd(0.1, 0.9).init(w))
    none = jax.tree.map(lambda x: x[:0], batch)
    with pytest.raises(ValueError, match=r"batch\['x'\]: got shape \(0, 3\); takes at least one"):
        fn(w, none, clean)
    with pytest.raises(ValueError, match=r"clean_batch\['x'\]: got shape \(0, 3\); takes at least"):
        fn(w, batch, none)
    tokens = reweighted_value_and_grad(lambda *a: squares(*a).reshape(4, 2), mean_squares)
    with pytest.raises(ValueError, match=r"got shape \(4, 2\); .* average .* or reshape\(-1\)"):
        tokens(w, batch, clean)


def test_a_model_that_is_not_only_parameters_is_refused_with_what_to_do():
    w, batch, clean = linear()
    model = {"weights": w, "activation": jnp.tanh, "key": jax.random.key(0)}
    fn = reweighted_value_and_grad(lambda p, b: squares(p["weights"], b), mean_squares)
    with pytest.raises(TypeError, match=r"params\['activation'\]: got .*; .*eqx.partition\(model"):
        fn(model, batch, clean)
    with pytest.raises(TypeError, match=r"params\['key'\]: got key.*nnx.split\(model"):
        fn({"weights": w, "key": jax.random.key(0)}, batch, clean)


def test_has_aux_asks_for_a_pair_and_params_for_floats():
    def losses(params, batch):
        return params["w"] * batch

    def clean(params, batch):
        return losses(params, batch).mean()

    batch = jnp.ones(2)
    with pytest.raises(TypeError, match=r"with has_aux=True takes a tuple \(losses, aux\)"):
        reweighted_value_and_grad(losses, clean, has_aux=True)({"w": 1.0}, batch, batch)
    with pytest.raises(TypeError, match=r"params\['w'\]: got int.*; takes floating arrays"):
        reweighted_value_and_grad(losses, clean)({"w": jnp.ones((), int)}, batch, batch)
