"""What each method is: its weights, and the gradient they make."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from l2rw_jax import evidence, losses, reweighted_value_and_grad
from l2rw_jax.methods import METHODS, StepInfo, get_method, inverse_loss, output_layer

LABELS = [2, 2, 2, 2, 1, 2, 0, 0]  # the majority is the last class, as in the paper's section 4.1
LABEL_COUNTS, TRUE_COUNTS = [20.0, 10.0, 70.0], [30.0, 40.0, 30.0]


def _info(seed=0):
    """What a step knows beside its examples."""
    counts = jnp.array(LABEL_COUNTS), jnp.array(TRUE_COUNTS)
    return StepInfo(jax.random.key(seed), jnp.array(0.3), *counts)


def _losses(params, batch):
    """Cross-entropy of a linear model, with something to pass through."""
    logits = batch["image"] @ params["output"]
    return losses.cross_entropy(logits, batch["label"]), {"mean": logits.mean()}


def _clean_losses(params, clean):
    return _losses(params, clean)[0]


def _clean_loss(params, clean):
    return _clean_losses(params, clean).mean()


@pytest.fixture
def problem():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        batch = {"image": jnp.asarray(rng.normal(size=(8, 4))), "label": jnp.array(LABELS)}
        clean = {"image": jnp.asarray(rng.normal(size=(6, 4))), "label": jnp.arange(6) % 3}
        yield {"output": jnp.asarray(rng.normal(size=(4, 3)))}, batch, clean


def _params(name, params):
    """``params``, with those of a learned weighting in a pair."""
    init = METHODS[name].init_weighting
    return (params, init(jax.random.key(1), 3)) if init else params


def _apply(name, problem, seed=0, clean_losses=_clean_losses, **options):
    params, batch, clean = problem
    fn = reweighted_value_and_grad(
        _losses,
        clean_losses,
        weighting=METHODS[name].weighting(_info(seed)),
        has_aux=True,
        **options,
    )
    params = _params(name, params) if isinstance(params, dict) else params
    return fn(params, batch, clean)


def _weights(name, problem):
    return _apply(name, problem)[0][1].weights


@pytest.mark.parametrize(
    "name", ["baseline", "resample", "reed_soft", "reed_hard", "s_model", "gce", "label_smoothing"]
)
def test_equal_weights_are_the_mean_loss(name, problem):
    params, batch, _ = problem
    (loss, aux), grads = _apply(name, problem)
    expected, expected_grads = jax.value_and_grad(lambda p: _losses(p, batch)[0].mean())(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-14)
    chex.assert_trees_all_close(grads, expected_grads, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(aux.weights, np.full(8, 1 / 8))


def test_random_weights_are_a_rectified_gaussian_that_changes_with_the_key(problem):
    weights = _weights("random", problem)
    gaussian = np.maximum(jax.random.normal(jax.random.key(0), (8,), jnp.float64), 0)
    np.testing.assert_allclose(weights, gaussian / gaussian.sum(), rtol=1e-14)
    assert not np.array_equal(weights, _apply("random", problem, seed=1)[0][1].weights)


def test_l2rw_weights_are_the_rectified_products_with_the_clean_gradient(problem):
    params, batch, clean = problem
    clean_grad = jax.grad(_clean_loss)(params, clean)["output"].ravel()
    per_example = jax.jacobian(lambda p: _losses(p, batch)[0])(params)["output"].reshape(8, -1)
    rectified = np.maximum(per_example @ clean_grad, 0)
    np.testing.assert_allclose(_weights("l2rw", problem), rectified / rectified.sum(), rtol=1e-12)


def test_evidence_asks_the_output_layer_alone(problem):
    params, batch, clean = problem
    params = {"hidden": jnp.eye(4), **params}

    def losses(params, batch):
        hidden = batch | {"image": jnp.tanh(batch["image"] @ params["hidden"])}
        return _losses(params, hidden)[0]

    weighting = METHODS["evidence"].weighting(_info())
    fn = reweighted_value_and_grad(losses, losses, weighting=weighting)
    (_, aux), grads = fn(params, batch, clean)
    head = evidence({"hidden": False, "output": True})
    (_, want), _ = reweighted_value_and_grad(losses, losses, weighting=head)(params, batch, clean)
    np.testing.assert_array_equal(aux.weights, want.weights)
    assert np.ptp(aux.weights) > 0.01 and jnp.any(grads["hidden"] != 0)
    assert output_layer(params) == {"hidden": False, "output": True}


def test_only_l2rw_and_evidence_weight_by_the_clean_loss(problem):
    def with_l2(params, clean):
        return _clean_losses(params, clean) + 5 * jnp.sum(jnp.square(params["output"]))

    for name in METHODS:
        (_, aux), _ = _apply(name, problem, clean_losses=with_l2)
        same = np.allclose(aux.weights, _weights(name, problem))
        assert same == (name not in ("l2rw", "evidence")), name


def test_proportion_gives_every_class_its_inverse_frequency(problem):
    want = 100 / 3 * np.array([1 / 20, 1 / 10, 1 / 70])[LABELS] / 8
    np.testing.assert_allclose(_weights("proportion", problem), want, rtol=1e-14)


def test_weighted_gives_every_label_its_true_over_its_noisy_frequency(problem):
    want = np.array([30 / 20, 40 / 10, 30 / 70])[LABELS]
    np.testing.assert_allclose(_weights("weighted", problem), want / 8, rtol=1e-14)


def test_inverse_loss_gives_weights_by_one_over_the_loss_and_a_constant(problem):
    params, batch, _ = problem
    raw = 1 / (np.asarray(_losses(params, batch)[0]) + 0.3)
    np.testing.assert_allclose(_weights("inverse_loss", problem), raw / raw.sum(), rtol=1e-14)


def test_inverse_loss_leaves_out_a_loss_that_is_not_finite():
    weights = inverse_loss(jnp.array([0.7, jnp.inf, 0.2, jnp.nan]), {})
    np.testing.assert_allclose(weights, [1 / 3, 0, 2 / 3, 0], rtol=1e-6)


def test_meta_weight_net_is_a_network_of_the_loss(problem):
    params, batch, _ = problem
    phi = _params("mwnet", params)[1]
    assert {x.shape for x in jax.tree.leaves(phi)} == {(1, 100), (100,), (100, 1), (1,)}
    for layer, bound in (("hidden", 1.0), ("output", 0.1)):
        low, high = phi[layer]["kernel"].min(), phi[layer]["kernel"].max()
        assert -bound < low < -0.9 * bound and 0.9 * bound < high < bound
    values = np.asarray(_losses(params, batch)[0])
    hidden = np.maximum(np.outer(values, phi["hidden"]["kernel"]) + phi["hidden"]["bias"], 0)
    logits = hidden @ phi["output"]["kernel"] + phi["output"]["bias"]
    want = 1 / (1 + np.exp(-logits[:, 0])) / 8
    np.testing.assert_allclose(_weights("mwnet", problem), want, rtol=1e-12)


def test_groups_are_a_weight_for_each_label(problem):
    params, batch, clean = problem
    (_, aux), _ = _apply("groups", ((params, jnp.array([-1.0, 0.0, 2.0])), batch, clean))
    want = 1 / (1 + np.exp(-np.array([-1.0, 0.0, 2.0])[LABELS])) / 8
    np.testing.assert_allclose(aux.weights, want, rtol=1e-13)


@pytest.mark.parametrize("name", ["mwnet", "groups"])
def test_a_learned_weighting_follows_the_clean_loss_after_a_step_of_sgd(name, problem):
    """By finite differences in a random direction."""
    params, batch, clean = problem
    phi = _params(name, params)[1]
    _, grads = _apply(name, problem)
    direction = jax.tree.map(lambda x: jnp.sin(1 + jnp.arange(x.size)).reshape(x.shape), phi)

    def clean_loss_after(step):
        moved = jax.tree.map(lambda p, d: p + step * d, phi, direction)
        _, grads = _apply(name, ((params, moved), batch, clean))
        return _clean_loss({"output": params["output"] - 0.3 * grads[0]["output"]}, clean)

    got = optax.tree.vdot(grads[1], direction)
    assert abs(got) > 1e-4
    np.testing.assert_allclose(
        got, (clean_loss_after(1e-5) - clean_loss_after(-1e-5)) / 2e-5, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "shares"), [("proportion", [1 / 3] * 3), ("weighted", [0.3, 0.4, 0.3])]
)
def test_in_the_mean_over_batches_every_class_has_the_share_it_should(name, shares, problem):
    params, batch, clean = problem
    labels = np.repeat(np.arange(3), np.array(LABEL_COUNTS, int))  # all 100: what batches are of
    batch |= {"image": jnp.ones((100, 4)), "label": jnp.asarray(labels)}
    weights = _weights(name, (params, batch, clean))
    np.testing.assert_allclose(np.bincount(labels, weights), shares, rtol=1e-14)
    # Of a batch of the majority alone no more is made because nothing else is there.
    few = {"image": jnp.ones((8, 4)), "label": jnp.full(8, 2)}
    alone = _weights(name, (params, batch | few, clean))
    np.testing.assert_allclose(alone.sum(), shares[2] / 0.7, rtol=1e-14)


def test_hard_mining_keeps_the_minority_and_as_many_of_the_hardest_majority(problem):
    params, batch, _ = problem
    hardness = np.asarray(_losses(params, batch)[0])
    majority = np.flatnonzero(np.array(LABELS) == 2)
    minority = np.flatnonzero(np.array(LABELS) != 2)
    kept = [*minority, *majority[np.argsort(-hardness[majority])][: len(minority)]]
    assert len(kept) == 6 < 8  # three of five majority examples
    want = np.zeros(8)
    want[kept] = 1 / len(kept)
    np.testing.assert_allclose(_weights("hard_mining", problem), want, rtol=1e-14)


@pytest.mark.parametrize(
    ("labels", "kept"),
    [([2] * 8, 1), ([0] * 8, 8), ([2, 0, 0, 0, 0, 1, 1, 1], 8)],
    ids=["majority alone: the hardest", "minority alone: all", "less majority than minority: all"],
)
def test_hard_mining_of_a_batch_that_is_not_like_the_set(labels, kept, problem):
    params, batch, clean = problem
    batch |= {"label": jnp.array(labels)}
    weights = _weights("hard_mining", (params, batch, clean))
    hardest = np.argsort(-_losses(params, batch)[0])[:kept]
    np.testing.assert_allclose(weights[hardest], 1 / kept, rtol=1e-14)
    assert np.count_nonzero(weights) == kept


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_is_of_the_weighted_sum_and_most_methods_weights_sum_to_one(name, problem):
    params, batch, _ = problem
    (_, aux), grads = _apply(name, problem)
    grads = grads[0] if METHODS[name].init_weighting else grads
    if name not in ("proportion", "weighted", "mwnet", "groups"):
        np.testing.assert_allclose(aux.weights.sum(), 1, rtol=1e-14)
    want = jax.grad(lambda p: jnp.dot(aux.weights, _losses(p, batch)[0]))(params)
    np.testing.assert_allclose(grads["output"], want["output"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_returns_the_same_structure_and_passes_aux_through(name, problem):
    (loss, aux), grads = _apply(name, problem)
    assert loss.shape == () and aux.clean_loss.shape == ()
    assert aux.weights.shape == aux.scores.shape == aux.losses.shape == (8,)
    chex.assert_trees_all_equal_shapes(grads, _params(name, problem[0]))
    assert aux.aux["mean"].shape == ()


@pytest.mark.parametrize("kind", ["vmap", "shard_map"])
@pytest.mark.parametrize("name", METHODS)
def test_over_a_mapped_axis_everything_is_as_on_one_device(name, kind, problem):
    params, batch, clean = problem
    params = _params(name, params)

    def half(params, batch, clean):
        (loss, aux), grads = _apply(name, (params, batch, clean), axis_name="half")
        return (loss, grads), aux.weights

    if kind == "vmap":
        halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), (batch, clean))
        mapped = jax.vmap(half, (None, 0, 0), (None, 0), axis_name="half")
        (loss, grads), weights = mapped(params, *halves)
    else:
        mesh = Mesh(np.array(jax.devices()[:2]), ("half",))
        specs = (P(), P("half"), P("half"))
        mapped = jax.shard_map(half, mesh=mesh, in_specs=specs, out_specs=(P(), P("half")))
        (loss, grads), weights = jax.jit(mapped)(params, batch, clean)
    (want_loss, want_aux), want_grads = _apply(name, problem)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-13)
    np.testing.assert_allclose(weights.ravel(), want_aux.weights, rtol=1e-12)
    chex.assert_trees_all_close(grads, want_grads, rtol=1e-12, atol=1e-15)


def test_what_the_methods_change_beside_the_weights():
    logits, labels = jnp.array([[2.0, 0.0, 1.0]]), jnp.array([1])
    log_p = np.asarray(jax.nn.log_softmax(logits[0]))
    want = {
        "reed_soft": -(0.95 * log_p[1] + 0.05 * (np.exp(log_p) * log_p).sum()),
        "reed_hard": -(0.8 * log_p[1] + 0.2 * log_p[0]),
        "gce": (1 - np.exp(log_p[1]) ** 0.7) / 0.7,
        "label_smoothing": -(0.9 * log_p[1] + 0.1 * log_p.mean()),
    }
    for name, method in METHODS.items():
        np.testing.assert_allclose(
            method.loss(logits, labels)[0], want.get(name, -log_p[1]), rtol=1e-6
        )
        assert method.balanced == (name == "resample")
        assert method.on_clean == (name == "clean_only")
        assert method.transition == {"s_model": "identity", "s_model_conf": "confusion"}.get(
            name, ""
        )


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"method: got 'l2rv'.*did you mean 'l2rw'\?"):
        get_method("l2rv")
