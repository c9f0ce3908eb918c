"""Each loss against its formula, written out in NumPy at float64."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from l2rw_jax.losses import (
    cross_entropy,
    expected,
    generalized_cross_entropy,
    margin,
    reed,
    s_model_logits,
    smoothed_cross_entropy,
    transition_logits,
)

LABELS = np.array([0, 3, 1, 3, 2])


@pytest.fixture
def logits(strict):
    return jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)) * 3)


def test_cross_entropy_is_minus_the_label_s_log_probability(logits):
    want = -special.log_softmax(np.asarray(logits), axis=1)[np.arange(5), LABELS]
    np.testing.assert_allclose(cross_entropy(logits, LABELS), want, rtol=1e-13)


def test_margin_is_to_the_largest_other_logit(logits):
    for labels, sign in ((logits.argmax(1), 1), (logits.argmin(1), -1)):
        pairs = zip(np.asarray(logits), np.asarray(labels), strict=True)
        want = [z[y] - np.delete(z, y).max() for z, y in pairs]
        assert (np.sign(want) == sign).all()
        np.testing.assert_allclose(margin(logits, labels), want, rtol=1e-13)


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
def test_smoothing_mixes_the_label_with_every_class(logits, smoothing):
    log_p = special.log_softmax(np.asarray(logits), axis=1)
    want = -(1 - smoothing) * log_p[np.arange(5), LABELS] - smoothing * log_p.mean(1)
    got = smoothed_cross_entropy(logits, LABELS, smoothing=smoothing)
    np.testing.assert_allclose(got, want, rtol=1e-13)


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_generalized_cross_entropy_is_its_formula_and_its_gradient_cross_entropy_s_times_p(
    logits, q
):
    p = special.softmax(np.asarray(logits), axis=1)[np.arange(5), LABELS]
    np.testing.assert_allclose(
        generalized_cross_entropy(logits, LABELS, q=q), (1 - p**q) / q, rtol=1e-12
    )
    got, plain = (
        jax.grad(lambda z, loss=loss: loss(z).sum())(logits)
        for loss in (
            lambda z: generalized_cross_entropy(z, LABELS, q=q),
            lambda z: cross_entropy(z, LABELS),
        )
    )
    np.testing.assert_allclose(got, (p**q)[:, None] * plain, rtol=1e-11, atol=1e-15)


def test_generalized_cross_entropy_tends_to_cross_entropy(logits):
    want = cross_entropy(logits, LABELS)
    np.testing.assert_array_equal(generalized_cross_entropy(logits, LABELS, q=0), want)
    got = generalized_cross_entropy(logits, LABELS, q=1e-9)
    np.testing.assert_allclose(got, want, rtol=1e-7)


@pytest.mark.parametrize("hard", [False, True])
def test_reed_is_the_label_s_share_of_the_cross_entropy_and_the_prediction_s_of_its_own(
    logits, hard
):
    p = special.softmax(np.asarray(logits), axis=1)
    own = -np.log(p.max(1)) if hard else -(p * np.log(p)).sum(1)
    want = 0.7 * -np.log(p[np.arange(5), LABELS]) + 0.3 * own
    np.testing.assert_allclose(reed(logits, LABELS, beta=0.7, hard=hard), want, rtol=1e-13)


@pytest.mark.parametrize("hard", [False, True])
def test_reed_of_beta_1_is_cross_entropy(logits, hard):
    loss = functools.partial(reed, labels=LABELS, beta=1.0, hard=hard)
    np.testing.assert_allclose(loss(logits), cross_entropy(logits, LABELS), rtol=1e-13)
    grads, want = (
        jax.grad(lambda z, loss=loss: loss(z).sum())(logits)
        for loss in (loss, lambda z: cross_entropy(z, LABELS))
    )
    np.testing.assert_allclose(grads, want, rtol=1e-12, atol=1e-15)


def test_the_gradient_flows_through_the_soft_target_and_not_through_the_hard(logits):
    p = special.softmax(np.asarray(logits), axis=1)
    to_label = p - np.eye(4)[LABELS]
    entropy = -(p * np.log(p)).sum(1, keepdims=True)
    of_entropy = -p * (np.log(p) + entropy)
    to_argmax = p - np.eye(4)[p.argmax(1)]
    for hard, own in ((False, of_entropy), (True, to_argmax)):
        got = jax.grad(lambda z, hard=hard: reed(z, LABELS, beta=0.8, hard=hard).sum())(logits)
        np.testing.assert_allclose(got, 0.8 * to_label + 0.2 * own, rtol=1e-12, atol=1e-14)


def test_s_model_sums_over_the_true_label(logits):
    matrix = np.array([[0.7, 0.1, 0.1, 0.1], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0.2, 0, 0, 0.8]])
    got = s_model_logits(logits, transition_logits(matrix, eps=0.0))
    want = np.log(special.softmax(np.asarray(logits), axis=1) @ matrix)
    np.testing.assert_allclose(got, want, rtol=1e-6)  # the transition is float32
    np.testing.assert_allclose(jnp.exp(got).sum(1), 1, rtol=1e-6)


def test_an_s_model_that_changes_no_label_is_cross_entropy_and_so_is_its_gradient(logits):
    identity = jnp.log(jnp.eye(4))  # minus infinity beside the diagonal
    for loss in (
        lambda z: cross_entropy(s_model_logits(z, identity), LABELS).sum(),
        lambda z: cross_entropy(s_model_logits(z, 1e3 * jnp.eye(4)), LABELS).sum(),
    ):
        want = jax.value_and_grad(lambda z: cross_entropy(z, LABELS).sum())(logits)
        for a, b in zip(jax.value_and_grad(loss)(logits), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_s_model_of_huge_logits_is_finite(logits):
    loss, grads = jax.value_and_grad(
        lambda z, t: cross_entropy(s_model_logits(z, t), LABELS).sum(), argnums=(0, 1)
    )(1e4 * logits, 1e3 * jnp.eye(4))
    assert np.isfinite(loss) and all(np.isfinite(g).all() for g in grads)


def test_the_transition_learns_the_noise_that_made_the_labels(strict):
    flip = np.array([[0.6, 0.4, 0.0], [0.0, 0.9, 0.1], [0.3, 0.0, 0.7]])
    logits = jnp.asarray(40 * np.eye(3))  # a model that knows the true label

    @jax.jit
    def descend(transition):
        def loss(transition):  # the cross-entropy against the noise itself
            return -jnp.sum(jnp.asarray(flip) * s_model_logits(logits, transition))

        return transition - jax.grad(loss)(transition)

    transition = transition_logits(np.eye(3)).astype(jnp.float64)
    for _ in range(2000):
        transition = descend(transition)
    np.testing.assert_allclose(jax.nn.softmax(transition, axis=1), flip, atol=2e-3)


def test_the_initial_transition_is_the_matrix_with_a_share_of_the_uniform_one():
    matrix = np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    got = special.softmax(np.asarray(transition_logits(matrix, eps=0.03)), axis=1)
    np.testing.assert_allclose(got, 0.97 * matrix + 0.01, rtol=1e-6)


K4 = jnp.zeros((5, 4))
LOSSES = {
    "cross_entropy": cross_entropy,
    "reed_soft": functools.partial(reed, beta=0.95, hard=False),
    "reed_hard": functools.partial(reed, beta=0.8, hard=True),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("to_jax", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("label", [4, -1, 127])
def test_a_known_label_that_is_no_class_is_refused(loss, to_jax, label):
    labels = to_jax(np.array([0, 3, 1, label, 2], np.int8))
    message = rf"^labels: got {label}; takes classes in \[0, 4\), as logits have\."
    with pytest.raises(ValueError, match=message):
        loss(K4, labels)
    with pytest.raises(ValueError, match=message):  # known under jit too, being of its outside
        jax.jit(lambda z: loss(z, labels))(K4)
    assert jax.jit(loss)(K4, labels).shape == (5,)


def test_a_label_that_jax_would_wrap_around_is_refused():
    with pytest.raises(ValueError, match=r"^labels: got 4294967296; takes classes in \[0, 4\)"):
        cross_entropy(K4, np.array([0, 2**32, 0, 0, 0]))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (K4, LABELS[:3], "labels: got int64 of shape (3,); takes an integer array of shape (5,)."),
        (K4, LABELS * 1.0, "labels: got float64 of shape (5,); takes an integer array of "),
        (K4, LABELS > 1, "labels: got bool of shape (5,); takes an integer array of shape (5,)."),
        (K4, np.eye(5, 4, dtype=int), "labels: got int64 of shape (5, 4); takes an integer array "),
        (K4, LABELS.tolist(), "labels: got list; takes an integer array of shape (5,)."),
        (K4, None, "labels: got NoneType; takes an integer array of shape (5,)."),
        (K4[0], LABELS, "logits: got float32 of shape (4,); takes a floating array [b, k] with k "),
        (K4[:, :1], LABELS, "logits: got float32 of shape (5, 1); takes a floating array [b, k] "),
        (K4.astype(int), LABELS, "logits: got int32 of shape (5, 4); takes a floating array [b, "),
        ([[0.0]], LABELS, "logits: got list; takes a floating array [b, k] with k at least 2."),
    ],
)
def test_other_shapes_and_dtypes_are_refused_at_trace_time(loss, logits, labels, message):
    with pytest.raises(ValueError) as error:
        loss(logits, labels)
    assert str(error.value).startswith(message)
    if hasattr(logits, "shape") and hasattr(labels, "shape"):
        traced = message.replace("int64", "int32").replace("float64", "float32")
        with pytest.raises(ValueError) as error:
            jax.eval_shape(loss, logits, labels)
        assert str(error.value).startswith(traced)


def test_the_checks_leave_nothing_in_the_compiled_program():
    jaxpr = jax.make_jaxpr(cross_entropy)(K4, LABELS)
    want = jax.make_jaxpr(optax.softmax_cross_entropy_with_integer_labels)(K4, LABELS)
    assert str(jaxpr) == str(want)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), "0.5", None, np.array([0.5])])
def test_shares_are_in_their_range(share):
    message = rf"got {re.escape(repr(share))}; takes a number in \[0, 1\]\.$"
    with pytest.raises(ValueError, match=f"^beta: {message}"):
        reed(K4, LABELS, beta=share, hard=False)
    with pytest.raises(ValueError, match=f"^eps: {message}"):
        transition_logits(np.eye(4), eps=share)


def test_a_traced_share_is_taken():
    got = jax.jit(lambda beta: reed(K4, LABELS, beta=beta, hard=True))(0.8)
    np.testing.assert_allclose(got, np.log(4), rtol=1e-6)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(2) * 2, r"^matrix: got a row \[2\.0, 0\.0\]; takes probabilities that sum to 1\.$"),
        (np.array([[1, 0], [1.5, -0.5]]), r"^matrix: got a row \[1\.5, -0\.5\]; takes prob"),
        (np.full((2, 2), np.nan), r"^matrix: got a row \[nan, nan\]; takes prob"),
        (np.ones((2, 3)), r"^matrix: got shape \(2, 3\); takes \(K, K\) with K at least 2\.$"),
        (np.ones((1, 1)), r"^matrix: got shape \(1, 1\); takes \(K, K\) with K at least 2\.$"),
    ],
)
def test_a_transition_is_made_of_probabilities(matrix, message):
    with pytest.raises(ValueError, match=message):
        transition_logits(matrix)


def test_a_transition_is_of_the_logits_classes():
    message = (
        r"^transition: got float32 of shape \(3, 3\); takes a floating array of shape \(4, 4\)"
    )
    with pytest.raises(ValueError, match=message):
        s_model_logits(K4, jnp.eye(3))


def test_the_expected_loss_is_the_mean_over_the_labels():
    logits = jax.random.normal(jax.random.key(0), (5, 3))
    targets = jax.nn.softmax(jax.random.normal(jax.random.key(1), (5, 3)))
    targets = targets.at[0].set(jnp.array([0.0, 1.0, 0.0]))
    gce = functools.partial(generalized_cross_entropy, q=0.7)
    for loss in (cross_entropy, gce):
        each = jnp.stack([loss(logits, jnp.full(5, k)) for k in range(3)], 1)
        got = expected(loss, logits, targets)
        np.testing.assert_allclose(got, (targets * each).sum(1), rtol=1e-5)
    with pytest.raises(ValueError, match="targets"):
        expected(cross_entropy, logits, targets[:, :2])
