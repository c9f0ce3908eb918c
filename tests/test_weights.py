import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2rw_jax import example_weights


def floats(low, high):
    return st.floats(low, high, width=32, allow_subnormal=False)


def arrays(elements):
    return st.lists(elements, min_size=1, max_size=7).map(lambda x: np.array(x, np.float32))


# A small range beside the large one, so that ties occur.
scores_st = arrays(floats(-(2.0**100), 2.0**100) | st.integers(-3, 3).map(float))


@given(scores_st)
def test_weights_sum_to_one_or_are_all_zero(scores):
    weights = np.asarray(example_weights(scores))
    assert np.all(weights >= 0)
    if np.any(scores > 0):
        np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
    else:
        np.testing.assert_array_equal(weights, 0)


@given(scores_st)
def test_weights_keep_the_order_of_the_scores(scores):
    weights = np.asarray(example_weights(scores))
    ahead = scores[:, None] > scores[None, :]
    tie = scores[:, None] == scores[None, :]
    assert np.all((weights[:, None] >= weights[None, :])[ahead])
    assert np.all((weights[:, None] == weights[None, :])[tie])
    np.testing.assert_array_equal(weights[scores <= 0], 0)


@given(arrays(floats(-(2.0**20), -(2.0**-20)) | floats(2.0**-20, 2.0**20)), st.integers(-60, 60))
def test_a_power_of_two_in_the_scores_cancels_exactly(scores, power):
    scaled = scores * np.float32(2.0**power)
    np.testing.assert_array_equal(example_weights(scaled), example_weights(scores))


@given(
    scores_st,
    st.sampled_from([np.nan, np.inf, -np.inf]),
    st.integers(0, 7),
    st.sampled_from([0.0, 0.5]),
)
def test_a_nonfinite_score_has_weight_zero_and_the_others_do_not_notice(bad_less, bad, at, least):
    at = min(at, len(bad_less))
    weights = np.asarray(example_weights(np.insert(bad_less, at, bad), min_weight=least))
    assert weights[at] == 0
    # Not exactly: a sum of another length may be added up in another order.
    want = example_weights(bad_less, min_weight=least)
    np.testing.assert_allclose(np.delete(weights, at), want, rtol=1e-6)


@given(scores_st, floats(0, 2.0**20))
def test_closed_form(scores, least):
    rectified = np.maximum(scores.astype(np.float64), least)
    want = rectified / (rectified.sum() or 1)
    # The sum of the squares' order does not matter; weights under float32's range become zero.
    np.testing.assert_allclose(example_weights(scores, min_weight=least), want, 1e-6, 1e-37)


@pytest.mark.parametrize("magnitude", [1e-30, 1e-10, 1.0, 1e10, 1e30])
def test_weights_do_not_depend_on_the_magnitude(magnitude):
    scores = magnitude * np.array([1, -5, 3], np.float32)
    np.testing.assert_allclose(example_weights(scores), [0.25, 0, 0.75], rtol=1e-6)


def test_a_tiny_score_beside_a_huge_one():
    np.testing.assert_array_equal(example_weights(np.array([1e-30, 1e30, -1e30], "f4")), [0, 1, 0])


@pytest.mark.parametrize(
    ("scores", "least", "want"),
    [
        ([7.0], 0.0, [1.0]),
        ([0.0], 0.0, [0.0]),
        ([-7.0], 0.0, [0.0]),
        ([0.0, -0.0, -1.0], 0.0, [0.0, 0.0, 0.0]),
        ([2.0, 2.0, -1.0], 0.0, [0.5, 0.5, 0.0]),
        ([-1.0, -2.0], 0.5, [0.5, 0.5]),  # all of equally little use: uniform, not zero
        ([3.0, -1.0], 1.0, [0.75, 0.25]),
        ([np.nan, -1.0], 1.0, [0.0, 1.0]),
        ([np.nan, np.inf], 1.0, [0.0, 0.0]),
    ],
)
def test_small_batches(scores, least, want):
    np.testing.assert_array_equal(example_weights(jnp.array(scores), min_weight=least), want)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_the_scores_dtype_is_kept(dtype):
    with jax.enable_x64(dtype == "float64"):
        weights = jax.jit(example_weights)(jnp.array([1, -1, 3], dtype))
        assert weights.dtype == dtype
        np.testing.assert_array_equal(weights, [0.25, 0, 0.75])


def test_min_weight_may_be_traced():
    weights = jax.jit(lambda least: example_weights(jnp.array([3.0, -1.0]), min_weight=least))(1.0)
    np.testing.assert_array_equal(weights, [0.75, 0.25])


@pytest.mark.parametrize(
    ("scores", "least", "error", "match"),
    [
        (np.float32(1), 0, ValueError, r"scores: got shape \(\); takes shape \[b\]"),
        (np.ones((3, 1)), 0, ValueError, r"scores: got shape \(3, 1\); takes shape \[b\]"),
        (np.ones(3, int), 0, TypeError, r"scores: got dtype int\d+; takes a floating dtype"),
        (np.ones(3), -0.1, ValueError, r"min_weight: got -0.1; takes a number .* at least 0"),
        (np.ones(3), np.nan, ValueError, r"min_weight: got nan; takes a number .* at least 0"),
    ],
)
def test_errors(scores, least, error, match):
    with pytest.raises(error, match=match):
        example_weights(scores, min_weight=least)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (np.full(10, 5e37, np.float32), np.full(10, 0.1)),
        (np.full(100, 1000, np.float16), np.full(100, 0.01)),
    ],
)
def test_the_sum_of_huge_scores_does_not_overflow(scores, expected):
    np.testing.assert_allclose(example_weights(scores), expected, rtol=2e-3, atol=1e-30)


def test_min_weight_leaves_the_scores_dtype():
    scores = jnp.array([-1.0, 2.0], jnp.bfloat16)
    assert example_weights(scores, min_weight=np.float32(0.1)).dtype == jnp.bfloat16
