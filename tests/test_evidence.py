"""Evidence: the votes against gradients that autodiff takes, the weights against their formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from scipy import special, stats

from l2rw_jax.evidence import agreement, evidence_weights

pytestmark = pytest.mark.usefixtures("strict")

B, M, D, K = 8, 12, 5, 4


def _problem(seed=0):
    rng = np.random.default_rng(seed)
    logits, clean_logits = 2 * rng.normal(size=(B, K)), 2 * rng.normal(size=(M, K))
    features, clean_features = rng.normal(size=(B, D)), rng.normal(size=(M, D))
    labels, clean_labels = rng.integers(0, K, B), rng.integers(0, K, M)
    batch = (jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(features))
    return batch, (
        jnp.asarray(clean_logits),
        jnp.asarray(clean_labels),
        jnp.asarray(clean_features),
    )


def _residuals(logits, labels):
    return jax.nn.softmax(logits) - jax.nn.one_hot(labels, K, dtype=logits.dtype)


def test_votes_are_products_of_the_last_layer_s_gradients():
    """Of a real last layer, differentiated example by example."""
    (_, labels, features), (_, clean_labels, clean_features) = _problem()
    rng = np.random.default_rng(1)
    layer = {"w": jnp.asarray(rng.normal(size=(D, K))), "b": jnp.asarray(rng.normal(size=K))}

    def logits(layer, h):
        return h @ layer["w"] + layer["b"]

    def gradient(h, y):
        loss = lambda layer: -jax.nn.log_softmax(logits(layer, h))[y]  # noqa: E731
        return np.concatenate([np.ravel(g) for g in jax.tree.leaves(jax.grad(loss)(layer))])

    rows = np.stack([gradient(h, y) for h, y in zip(features, labels, strict=True)])
    clean_rows = np.stack(
        [gradient(h, y) for h, y in zip(clean_features, clean_labels, strict=True)]
    )
    votes = rows @ clean_rows.T
    mean, error = agreement(
        features,
        jax.vmap(lambda h, y: _residuals(logits(layer, h)[None], y[None])[0])(features, labels),
        clean_features,
        jax.vmap(lambda h, y: _residuals(logits(layer, h)[None], y[None])[0])(
            clean_features, clean_labels
        ),
    )
    np.testing.assert_allclose(mean, votes.mean(1), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(error, stats.sem(votes, axis=1), rtol=1e-12)


@pytest.mark.parametrize("better", [-3, 3])
def test_weights_are_their_formula(better):
    """With the batch's mean loss above the clean batch's, and below it."""
    batch, clean = _problem()
    batch = (batch[0] + better * jax.nn.one_hot(batch[1], K), *batch[1:])
    weights, scores = evidence_weights(*batch, *clean)
    mean, error = agreement(batch[2], _residuals(*batch[:2]), clean[2], _residuals(*clean[:2]))
    np.testing.assert_allclose(scores, mean / error, rtol=1e-12)
    log_p, clean_log_p = (
        special.log_softmax(np.asarray(each[0]), axis=1) for each in (batch, clean)
    )
    own, clean_loss = log_p[np.arange(B), batch[1]], -clean_log_p[np.arange(M), clean[1]].mean()
    excess = -own.mean() - clean_loss
    assert (excess < 0) == (better > 0)
    want = stats.norm.cdf(mean / error + 2)
    if excess > 0:
        want /= 1 + 1.5 * (log_p.max(1) - own) * excess / clean_loss**2
    np.testing.assert_allclose(weights, want / want.sum(), rtol=1e-10)


def test_without_evidence_the_weights_are_equal():
    """Votes that cancel, and losses like the clean ones."""
    logits = jnp.zeros((B, K)).at[:, 0].set(5.0)
    labels = jnp.zeros(B, int)
    clean_logits = jnp.tile(logits[:1], (2, 1))
    # Features that are opposite for the two clean examples, and the bias's vote off.
    features = jnp.zeros((B, D))
    clean_features = jnp.ones((2, D)) * jnp.array([[1.0], [-1.0]])
    clean_labels = jnp.array([0, 0])
    weights, _ = evidence_weights(
        logits, labels, features, clean_logits, clean_labels, clean_features
    )
    np.testing.assert_allclose(weights, 1 / B, rtol=1e-12)


def test_a_label_that_clean_examples_contradict_weighs_less():
    logits = jnp.zeros((2, K))
    features = jnp.ones((2, D))
    clean_logits, clean_features = jnp.zeros((10, K)), jnp.ones((10, D))
    clean_labels = jnp.array([0] * 9 + [1])
    weights, scores = evidence_weights(
        logits, jnp.array([0, 2]), features, clean_logits, clean_labels, clean_features
    )
    assert scores[0] > 5 and scores[1] < -5
    assert weights[0] > 0.99


def test_no_gradient_flows_through_the_weights():
    batch, clean = _problem()
    grads = jax.grad(lambda z: evidence_weights(z, *batch[1:], *clean)[0][0])(batch[0])
    np.testing.assert_array_equal(grads, 0)


def test_in_bfloat16_the_weights_are_float32():
    batch, clean = ((z.astype("bfloat16"), y, h.astype("bfloat16")) for z, y, h in _problem())
    weights, scores = evidence_weights(*batch, *clean)
    assert weights.dtype == scores.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)


@pytest.mark.parametrize("kind", ["shard_map", "pmap", "jit"])
def test_devices_that_share_a_batch_are_one_device(kind):
    batch, clean = _problem()
    want = evidence_weights(*batch, *clean)
    devices = jax.devices()[:4]
    if kind == "pmap":
        cut = lambda tree: [x.reshape(4, -1, *x.shape[1:]) for x in tree]  # noqa: E731
        fn = jax.pmap(
            lambda *args: evidence_weights(*args, axis_name="data"), "data", devices=devices
        )
        got = [x.reshape(-1) for x in fn(*cut(batch), *cut(clean))]
    elif kind == "jit":
        mesh = jax.sharding.Mesh(np.array(devices), ("data",))
        sharding = jax.sharding.NamedSharding(mesh, P("data"))
        got = jax.jit(evidence_weights)(*jax.device_put((*batch, *clean), sharding))
    else:
        mesh = jax.sharding.Mesh(np.array(devices), ("data",))
        fn = jax.shard_map(
            lambda *args: evidence_weights(*args, axis_name="data"),
            mesh=mesh,
            in_specs=P("data"),
            out_specs=P("data"),
        )
        got = jax.jit(fn)(*batch, *clean)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_model_that_is_always_right_gives_finite_weights():
    logits = 1e4 * jax.nn.one_hot(jnp.arange(4), K)
    features = jnp.ones((4, D))
    args = (logits, jnp.arange(4), features)
    weights, scores = evidence_weights(*args, *args)
    np.testing.assert_allclose(weights, 0.25)
    np.testing.assert_array_equal(scores, 0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({2: jnp.ones(B)}, r"features: got shape \(8,\); takes a row"),
        ({5: jnp.ones((M, D + 1))}, r"clean_features: got shape \(12, 6\); takes \(12, 5\)"),
        ({3: jnp.ones((M, K + 1))}, r"clean_logits: got shape \(12, 5\); takes \(m, 4\)"),
        ({3: jnp.ones((1, K)), 4: jnp.zeros(1, int), 5: jnp.ones((1, D))}, r"at least 2"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, match):
    arguments = dict(enumerate((*_problem()[0], *_problem()[1]))) | change
    with pytest.raises((ValueError, TypeError), match=match):
        evidence_weights(*arguments.values())
