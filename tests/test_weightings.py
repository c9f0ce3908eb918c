"""The weightings: learned ones against their definition, evidence against its formula, by_loss."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P
from scipy import stats

from l2rw_jax import by_loss, evidence, example_scores, l2rw, learned, reweight
from l2rw_jax import reweighted_value_and_grad as value_and_grad

pytestmark = pytest.mark.usefixtures("strict")

ONE_HIDDEN = {
    "w": jnp.linspace(-1, 1, 5, dtype="float32"),
    "b": jnp.linspace(0.5, -0.5, 5, dtype="float32"),
    "v": jnp.linspace(0.3, -0.7, 5, dtype="float32"),
}


def meta_weight_net(phi, losses, batch):
    """A network of the loss, as Meta-Weight-Net has it."""
    del batch
    hidden = jnp.tanh(losses[:, None] * phi["w"][None] + phi["b"][None])
    return jax.nn.sigmoid(hidden @ phi["v"]) / len(losses)


def by_label(phi, losses, batch):
    """A logit for each label."""
    return jax.nn.sigmoid(phi[batch["y"]]) / len(losses)


def definition(problem, weight_fn, lookahead, state, phi):
    """The clean loss after one update by weights of ``phi``, as Shu et al. write it."""
    losses = jax.lax.stop_gradient(problem.losses(problem.params, problem.batch))

    def weighted(params):
        weights = weight_fn(phi, losses, problem.batch)
        return jnp.sum(weights * problem.losses(params, problem.batch))

    grads = jax.grad(weighted)(problem.params)
    updates, _ = lookahead.update(grads, state, problem.params)
    return problem.clean_loss(optax.apply_updates(problem.params, updates), problem.clean)


def double(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, "float64"), tree)


CASES = [(meta_weight_net, ONE_HIDDEN), (by_label, np.linspace(-1, 1, 4))]
LOOKAHEADS = {
    "sgd": optax.sgd(0.3),
    "momentum": optax.sgd(0.3, momentum=0.9),
    "adam": optax.adam(0.03),
    "clip": optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.3)),
}


@pytest.mark.parametrize("lookahead", LOOKAHEADS.values(), ids=LOOKAHEADS)
@pytest.mark.parametrize(("weight_fn", "phi"), CASES, ids=["network", "labels"])
def test_both_gradients_are_those_of_the_definition(weight_fn, phi, lookahead):
    problem, phi = problems.mlp(), double(phi)
    state = lookahead.init(problem.params)
    if jax.tree.leaves(state):  # warm
        grads = jax.grad(lambda p: problem.losses(p, problem.batch).sum())(problem.params)
        _, state = lookahead.update(grads, state, problem.params)
    weighting = learned(weight_fn, lookahead=lookahead)
    fn = jax.jit(value_and_grad(problem.losses, problem.clean_loss, weighting=weighting))
    (loss, aux), (grads, phi_grads) = fn(
        (problem.params, phi), problem.batch, problem.clean, lookahead_state=state
    )
    want = lambda phi: definition(problem, weight_fn, lookahead, state, phi)  # noqa: E731
    chex.assert_trees_all_close(phi_grads, jax.grad(want)(phi), rtol=1e-9, atol=1e-14)
    # And by finite differences, in a random direction: reverse mode over reverse could err alike.
    direction = jax.tree.map(lambda x: jnp.sin(1 + jnp.arange(x.size)).reshape(x.shape), phi)
    ahead, behind = (
        want(jax.tree.map(lambda p, d, s=s: p + s * d, phi, direction)) for s in (1e-5, -1e-5)
    )
    got = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), phi_grads, direction)))
    np.testing.assert_allclose(got, (ahead - behind) / 2e-5, rtol=1e-6)

    weights = weight_fn(phi, aux.losses, problem.batch)
    np.testing.assert_allclose(aux.weights, weights, rtol=1e-12)
    np.testing.assert_allclose(aux.clean_loss, want(phi), rtol=1e-12)
    weighted = lambda p: jnp.sum(weights * problem.losses(p, problem.batch))  # noqa: E731
    np.testing.assert_allclose(loss, weighted(problem.params), rtol=1e-12)
    chex.assert_trees_all_close(grads, jax.grad(weighted)(problem.params), rtol=1e-10, atol=1e-14)


def test_at_weight_zero_the_scores_are_those_of_the_paper():
    """A weight for each example, all zero, is where the paper takes its derivative."""
    problem, lookahead = problems.mlp(), optax.sgd(0.3)
    weighting = learned(lambda phi, losses, batch: phi, lookahead=lookahead)
    fn = value_and_grad(problem.losses, problem.clean_loss, weighting=weighting)
    (_, aux), (_, phi_grads) = fn((problem.params, jnp.zeros(6)), problem.batch, problem.clean)
    want = example_scores(
        lambda p: problem.losses(p, problem.batch),
        lambda p: problem.clean_loss(p, problem.clean),
        problem.params,
        lookahead=lookahead,
    )
    np.testing.assert_allclose(aux.scores, want, rtol=1e-12)
    np.testing.assert_allclose(phi_grads, -want, rtol=1e-12)


def test_a_mask_is_the_derivative_by_the_parameters_that_move():
    problem, lookahead, phi = problems.mlp(), optax.sgd(0.3), jnp.linspace(-1, 1, 4)
    weighting = learned(by_label, lookahead=lookahead, mask=(False, True))
    fn = value_and_grad(problem.losses, problem.clean_loss, weighting=weighting)
    _, (grads, phi_grads) = fn((problem.params, phi), problem.batch, problem.clean)
    first = problem.params[0]
    head = problem._replace(
        losses=lambda p, batch: problem.losses((first, p), batch),
        clean_loss=lambda p, clean: problem.clean_loss((first, p), clean),
        params=problem.params[1],
    )
    want = jax.grad(lambda phi: definition(head, by_label, lookahead, lookahead.init(first), phi))(
        phi
    )
    np.testing.assert_allclose(phi_grads, want, rtol=1e-10)
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(grads))  # all train


@pytest.mark.parametrize("kind", ["shard_map", "pmap"])
def test_devices_that_share_a_batch_are_one_device(kind):
    problem, lookahead, phi = problems.mlp(b=8, m=4), optax.sgd(0.3), jnp.linspace(-1, 1, 4)

    def weight_fn(phi, losses, batch):
        return jax.nn.sigmoid(phi[batch["y"]]) / 8

    arguments = ((problem.params, phi), problem.batch, problem.clean)
    whole, divided = (
        value_and_grad(
            problem.losses,
            problem.clean_loss,
            weighting=learned(weight_fn, lookahead=lookahead),
            axis_name=axis_name,
        )
        for axis_name in (None, "data")
    )
    (loss, _), gradients = whole(*arguments)
    devices = jax.devices()[:4]
    if kind == "pmap":
        cut = lambda tree: jax.tree.map(lambda x: x.reshape(4, -1, *x.shape[1:]), tree)  # noqa: E731
        fn = jax.pmap(divided, axis_name="data", in_axes=(None, 0, 0), devices=devices)
        (got, _), got_gradients = fn(arguments[0], cut(problem.batch), cut(problem.clean))
        got, got_gradients = jax.tree.map(lambda x: x[0], (got, got_gradients))
    else:
        mesh = jax.sharding.Mesh(np.array(devices), ("data",))
        fn = jax.shard_map(
            lambda *args: (lambda out: (out[0][0], out[1]))(divided(*args)),
            mesh=mesh,
            in_specs=(P(), P("data"), P("data")),
            out_specs=P(),
        )
        got, got_gradients = jax.jit(fn)(*arguments)
    np.testing.assert_allclose(got, loss, rtol=1e-12)
    chex.assert_trees_all_close(got_gradients, gradients, rtol=1e-10, atol=1e-15)


def test_it_costs_eight_passes():
    """Clean gradient 3, losses 1, their tangent 2, weighted gradient 2; a plain step has 3."""
    with jax.enable_x64(False):
        width, b = 256, 256
        params = [jnp.ones((width, width), "float32") for _ in range(6)]

        def losses(params, x):
            for kernel in params:
                x = jnp.tanh(x @ kernel)
            return x.mean(-1)

        weighting = learned(
            lambda phi, losses, batch: jax.nn.sigmoid(phi * losses) / b, lookahead=optax.sgd(0.1)
        )
        fn = value_and_grad(losses, losses, weighting=weighting)
        x = jnp.ones((b, width), "float32")
        plain = jax.jit(jax.grad(lambda p: losses(p, x).mean()))

        def flops(jitted, *args):
            return jitted.lower(*args).compile().cost_analysis()["flops"]

        ratio = flops(jax.jit(fn), (params, jnp.float32(0)), x, x) / flops(plain, params)
    # The first layer's input gradient is nobody's: of 18 products a plain step has 17.
    assert ratio == pytest.approx((8 * 6 - 3) / 17, rel=0.02)


@pytest.mark.parametrize(
    ("weight_fn", "error", "match"),
    [
        (lambda phi, w, b: w.sum(), ValueError, r"weight_fn's result: got shape \(\)"),
        (
            lambda phi, w, b: w[:2],
            ValueError,
            r"got shape \(2,\); takes \(6,\)",
        ),
        (lambda phi, w, b: w > 0, TypeError, r"weight_fn's result: got dtype bool"),
        (lambda phi, w, b: None, TypeError, r"weight_fn's result: got"),
    ],
)
def test_a_wrong_weight_fn_is_refused(weight_fn, error, match):
    problem = problems.mlp()
    weighting = learned(weight_fn, lookahead=optax.sgd(0.1))
    fn = value_and_grad(problem.losses, problem.clean_loss, weighting=weighting)
    with pytest.raises(error, match=match):
        fn((problem.params, jnp.zeros(2)), problem.batch, problem.clean)


def test_learned_asks_for_what_it_needs():
    problem = problems.mlp()
    with pytest.raises(TypeError, match="lookahead"):
        learned(by_label)
    with pytest.raises(TypeError, match="lookahead: got None; takes an optax"):
        learned(by_label, lookahead=None)
    with pytest.raises(TypeError, match="weight_fn: got int; takes a function"):
        learned(3, lookahead=optax.sgd(0.1))
    fn = value_and_grad(
        problem.losses, problem.clean_loss, weighting=learned(by_label, lookahead=optax.sgd(0.1))
    )
    with pytest.raises(
        TypeError, match=r"params: got list; learned\(\) takes a tuple \(params, phi\)"
    ):
        fn(list(problem.params), problem.batch, problem.clean)


def test_learned_in_a_chain_trains_network_and_weighting():
    """One step of SGD on both, as the definition's gradients have it."""
    problem, lookahead = problems.mlp(), optax.sgd(0.3, momentum=0.9)
    phi = jnp.linspace(-1, 1, 4)
    tx = optax.chain(reweight(learned(by_label, lookahead=lookahead)), optax.sgd(0.5))
    params = (problem.params, phi)
    state = tx.init(params)
    updates, state = tx.update(
        None,
        state,
        params,
        batch=problem.batch,
        per_example_loss_fn=lambda p: problem.losses(p, problem.batch),
        clean_loss_fn=lambda p: problem.clean_loss(p, problem.clean),
    )
    first = lookahead.init(problem.params)
    want = jax.grad(lambda phi: definition(problem, by_label, lookahead, first, phi))(phi)
    np.testing.assert_allclose(updates[1], -0.5 * want, rtol=1e-9)
    followed = state[0].lookahead_state[0].trace
    chex.assert_trees_all_close(followed, jax.tree.map(lambda u: -2 * u, updates[0]), rtol=1e-12)


# Evidence.


def evidence_reference(problem, parts, chosen=lambda grads: grads):
    """The formula in NumPy, from every example's own gradient by ``jax.jacobian``."""

    def flat(losses_fn, batch):
        rows = jax.jacobian(lambda p: losses_fn(p, batch))(problem.params)
        return np.concatenate([x.reshape(len(x), -1) for x in jax.tree.leaves(chosen(rows))], 1)

    grads, clean_grads = (flat(problem.losses, b) for b in (problem.batch, problem.clean))
    turn = np.arange(len(clean_grads)) % parts
    votes = grads @ np.stack([clean_grads[turn == g].mean(0) for g in range(parts)]).T
    scores = votes.mean(1) / (votes.std(1, ddof=1) / parts**0.5)
    losses, clean = (problem.losses(problem.params, b) for b in (problem.batch, problem.clean))
    level = clean.mean()
    excess = max(losses.mean() - level, 0)
    raw = stats.norm.cdf(scores + 2)
    raw = raw / (1 + 1.5 * np.maximum(losses - level, 0) * excess / level**2)
    return raw / raw.sum(), scores


@pytest.mark.parametrize(("m", "parts"), [(4, 2), (7, 3), (4, 4), (5, 10)])
def test_evidence_is_its_formula(m, parts):
    problem = problems.mlp(b=6, m=m)
    easy = [problem.losses(problem.params, problem.clean | {"y": jnp.full(m, k)}) for k in range(4)]
    problem = problem._replace(clean=problem.clean | {"y": jnp.argmin(jnp.stack(easy), 0)})
    for mask, chosen in ((None, lambda g: g), ((False, True), lambda g: g[1])):
        fn = value_and_grad(problem.losses, problem.losses, weighting=evidence(mask, parts=parts))
        (loss, aux), grads = jax.jit(fn)(problem.params, problem.batch, problem.clean)
        weights, scores = evidence_reference(problem, min(parts, m), chosen)
        np.testing.assert_allclose(aux.scores, scores, rtol=1e-9)
        np.testing.assert_allclose(aux.weights, weights, rtol=1e-9)
        assert np.ptp(weights) > 0.05  # else the formula would not show
        want, want_grads = jax.value_and_grad(
            lambda p, w=weights: jnp.vdot(w, problem.losses(p, problem.batch))
        )(problem.params)
        problems.assert_close((loss, grads), (want, want_grads), 1e-9)
        clean = problem.losses(problem.params, problem.clean).mean()
        np.testing.assert_allclose(aux.clean_loss, clean, rtol=1e-12)


def test_evidence_leaves_a_broken_row_out_and_does_not_change_the_others():
    problem = problems.mlp(b=6, m=4)
    rest = jax.tree.map(lambda x: x[1:], problem.batch)
    broken = problem.batch | {"x": problem.batch["x"].at[0, 0].set(jnp.nan)}
    fn = value_and_grad(problem.losses, problem.losses, weighting=evidence(parts=4))
    (loss, aux), _ = fn(problem.params, broken, problem.clean)
    (want, want_aux), _ = fn(problem.params, rest, problem.clean)
    assert aux.weights[0] == 0 and np.isnan(aux.scores[0])
    np.testing.assert_allclose(aux.weights[1:], want_aux.weights, rtol=1e-12)
    np.testing.assert_allclose(loss, want, rtol=1e-12)


def test_evidence_wants_the_clean_losses_of_at_least_two_examples():
    problem = problems.mlp()
    fn = value_and_grad(problem.losses, problem.clean_loss, weighting=evidence())
    with pytest.raises(
        ValueError, match=r"clean_loss_fn's result: got shape \(\), a mean; evidence"
    ):
        fn(problem.params, problem.batch, problem.clean)
    fn = value_and_grad(problem.losses, problem.losses, weighting=evidence())
    with pytest.raises(ValueError, match="got 1 clean example; evidence takes at least 2"):
        fn(problem.params, problem.batch, jax.tree.map(lambda x: x[:1], problem.clean))
    for parts in (1, 0, 2.0, True, None):
        with pytest.raises(ValueError, match="parts: got"):
            evidence(parts=parts)


def test_evidence_of_the_last_layer_costs_a_forward_pass_of_the_clean_batch():
    """At m = b/10 at most 1.15 times a plain step's operations."""
    with jax.enable_x64(False):
        width, b = 256, 320
        params = [jnp.ones((width, width), "float32") for _ in range(6)] + [jnp.ones((width, 10))]

        def losses(params, x):
            for kernel in params[:-1]:
                x = jnp.tanh(x @ kernel)
            return jax.nn.logsumexp(x @ params[-1], -1)

        fn = value_and_grad(
            losses, losses, weighting=evidence([False] * (len(params) - 1) + [True])
        )
        x = jnp.ones((b, width), "float32")
        plain = jax.jit(jax.grad(lambda p, x: losses(p, x).mean()))

        def flops(jitted, *args):
            return jitted.lower(*args).compile().cost_analysis()["flops"]

        ratio = flops(jax.jit(fn), params, x, x[: b // 10]) / flops(plain, params, x)
    assert 1.03 < ratio < 1.15


# Any scale of the losses.


@settings(max_examples=4)
@given(st.integers(-100, 100))
def test_the_losses_scale_cancels(exponent):
    problem, scale = problems.mlp(b=6, m=4), 2.0**exponent
    cast = lambda tree: jax.tree.map(  # noqa: E731
        lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, tree
    )
    params, batch, clean = map(cast, (problem.params, problem.batch, problem.clean))
    for weighting in (evidence(parts=4), *(l2rw(mode=m) for m in ("forward", "reverse"))):
        fn = value_and_grad(
            lambda p, b: scale * problem.losses(p, b),
            lambda p, b: scale * problem.losses(p, b),
            weighting=weighting,
        )
        plain = value_and_grad(problem.losses, problem.losses, weighting=weighting)
        (_, aux), _ = fn(params, batch, clean)
        (_, want), _ = plain(params, batch, clean)
        np.testing.assert_allclose(aux.weights, want.weights, rtol=2e-4, atol=1e-6)


def test_loss_scaling_in_float16_leaves_the_weights_as_they_are():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 96)
    x = jnp.asarray(rng.normal(size=(4, 16))[y] * 2 + rng.normal(size=(96, 16)), jnp.float16)
    y = jnp.asarray(np.where(np.arange(96) < 16, (y + 1) % 4, y))  # a quarter of the batch is wrong
    params = {"w": jnp.asarray(rng.normal(size=(16, 4)) * 0.05, jnp.float16)}
    batch, clean = (x[:64], y[:64]), (x[64:], y[64:])
    modes = ("forward", "reverse", "finite_difference")
    for weighting in (evidence(), *(l2rw(mode=mode) for mode in modes)):
        found = []
        for scale in (1.0, 32.0, 1024.0, 8192.0):

            def losses(p, b, scale=scale):
                logits = b[0] @ p["w"]
                return optax.softmax_cross_entropy_with_integer_labels(logits, b[1]) * scale

            (_, aux), _ = value_and_grad(losses, losses, weighting=weighting)(params, batch, clean)
            assert aux.losses.dtype == jnp.float16
            found.append(np.asarray(aux.weights))
        assert found[0][:16].mean() < 0.6 * found[0][16:].mean()
        for weights in found[1:]:
            np.testing.assert_allclose(weights, found[0], atol=1e-3)


# By the losses.


def test_by_loss_sees_the_whole_batch_on_every_device():
    problem = problems.mlp(b=8)
    rank = by_loss(lambda losses, batch: jnp.argsort(jnp.argsort(losses)) / (1.0 + batch["y"]))
    whole, divided = (
        value_and_grad(problem.losses, None, weighting=rank, axis_name=axis)
        for axis in (None, "data")
    )
    (loss, aux), grads = whole(problem.params, problem.batch, None)
    order = np.argsort(np.argsort(problem.losses(problem.params, problem.batch)))
    np.testing.assert_allclose(aux.weights, order / (1 + problem.batch["y"]), rtol=1e-14)
    assert np.isnan(aux.clean_loss)
    halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), problem.batch)
    (got, got_aux), got_grads = jax.vmap(divided, (None, 0, None), axis_name="data")(
        problem.params, halves, None
    )
    np.testing.assert_allclose(got_aux.weights.ravel(), aux.weights, rtol=1e-14)
    np.testing.assert_allclose(got[0], loss, rtol=1e-12)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[0], got_grads), grads, rtol=1e-12)


def test_a_weight_that_is_negative_or_not_finite_counts_as_zero_and_is_told():
    problem = problems.mlp(b=5)
    given = jnp.array([jnp.nan, -600.0, jnp.inf, 0.5, 0.0])
    weighting = by_loss(lambda losses, batch: given)
    fn = value_and_grad(problem.losses, None, weighting=weighting)
    (loss, aux), grads = fn(problem.params, problem.batch, None)
    np.testing.assert_array_equal(aux.weights, [0, 0, 0, 0.5, 0])
    np.testing.assert_array_equal(np.isnan(aux.scores), [True, True, True, False, False])
    want = jax.value_and_grad(lambda p: 0.5 * problem.losses(p, problem.batch)[3])(problem.params)
    problems.assert_close((loss, grads), want, 1e-12)
    tx = reweight(weighting)
    _, state = tx.update(
        None,
        tx.init(problem.params),
        problem.params,
        per_example_loss_fn=lambda p: problem.losses(p, problem.batch),
    )
    assert state.info.num_nonfinite == 3 and state.info.num_active == 1


@pytest.mark.parametrize(
    "weighting",
    [
        l2rw(),
        l2rw(mode="reverse"),
        l2rw(optax.sgd(0.1, momentum=0.9), mode="finite_difference"),
        evidence(parts=3),
        by_loss(lambda losses, batch: 1 / (1 + losses)),
    ],
    ids=["forward", "reverse", "finite difference", "evidence", "by_loss"],
)
def test_the_loss_s_derivative_is_the_gradient(weighting):
    """The weights are constants to it, though they depend on the parameters."""
    problem = problems.mlp()
    state = weighting.init(problem.params)
    fn = value_and_grad(problem.losses, problem.losses, weighting=weighting)

    def loss(params):
        return fn(params, problem.batch, problem.clean, lookahead_state=state)[0][0]

    _, grads = fn(problem.params, problem.batch, problem.clean, lookahead_state=state)
    problems.assert_close(jax.jit(jax.grad(loss))(problem.params), grads, 1e-9)
    assert any(jnp.any(g != 0) for g in jax.tree.leaves(grads))


def test_an_old_name_says_the_new_one():
    problem = problems.mlp()
    for options, match in (
        (
            {"inner": optax.sgd(0.1)},
            r"inner: moved in version 0.3.0; pass it as weighting=l2rw",
        ),
        ({"mode": "reverse"}, r"mode: .* weighting=l2rw\(mode=...\)"),
        ({"lookahead_mask": None}, r"lookahead_mask: .* weighting=l2rw\(mask=...\)"),
        ({"weights_fn": None}, r"weights_fn: .* weighting=by_loss\(weights_fn\)"),
    ):
        with pytest.raises(TypeError, match=match):
            value_and_grad(problem.losses, problem.losses, **options)
    for options in ({"inner": None}, {"mode": "forward"}, {"min_weight": 0.0}):
        with pytest.raises(
            TypeError, match=r": moved in version 0.3.0; pass it as reweight\(l2rw\("
        ):
            reweight(**options)
    for wrong in (l2rw, None, 3, "l2rw", optax.sgd(0.1)):
        with pytest.raises(TypeError, match=r"weighting: got .*takes l2rw\(\), evidence\(\)"):
            reweight(wrong)
    with pytest.raises(TypeError, match=r"clean_loss_fn: got None, which only by_loss\(\) takes"):
        value_and_grad(problem.losses, None)
