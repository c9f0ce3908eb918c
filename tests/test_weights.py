import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
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
def test_the_weights_dtype_is_the_scores_but_at_least_float32(dtype):
    with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion("strict"):
        weights = jax.jit(example_weights)(jnp.array([1, -1, 3], dtype))
        assert weights.dtype == ("float64" if dtype == "float64" else "float32")
        np.testing.assert_array_equal(weights, [0.25, 0, 0.75])


def test_weights_of_bfloat16_scores_sum_to_one():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=512), jnp.bfloat16)
    weights = np.asarray(example_weights(scores), np.float64)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)  # rounded to bfloat16: 0.9991


def test_min_weight_may_be_traced():
    weights = jax.jit(lambda least: example_weights(jnp.array([3.0, -1.0]), min_weight=least))(1.0)
    np.testing.assert_array_equal(weights, [0.75, 0.25])


@pytest.mark.parametrize(
    ("scores", "least", "error", "match"),
    [
        (np.float32(1), 0, ValueError, r"scores: got shape \(\); takes shape \[b\]"),
        (np.ones((3, 1)), 0, ValueError, r"scores: got shape \(3, 1\); takes shape \[b\]"),
        (np.ones(0), 0, ValueError, r"scores: got shape \(0,\); takes .* at least one example"),
        (np.ones(3, int), 0, TypeError, r"scores: got dtype int\d+; takes a floating dtype"),
        (np.ones(3), -0.1, ValueError, r"min_weight: got -0.1; takes a number .* at least 0"),
        (np.ones(3), None, ValueError, r"min_weight: got None; takes a number .* at least 0"),
        (np.ones(3), "0.1", ValueError, r"min_weight: got '0.1'; takes a number .* at least 0"),
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


def test_min_weight_leaves_the_weights_dtype():
    scores = jnp.array([-1.0, 2.0], jnp.bfloat16)
    assert example_weights(scores, min_weight=np.float64(0.1)).dtype == jnp.float32


# Groups.


def grouped(scores, groups, least=0.0):
    """The definition in float64: each example gets the rectified sum of its group's scores."""
    finite = np.isfinite(scores)
    known = np.where(finite, scores, 0).astype(np.float64)
    sums = np.array([known[groups == group].sum() for group in groups])
    rectified = np.where(finite, np.maximum(sums, least), 0)
    return rectified / (rectified.sum() or 1)


@settings(max_examples=30)
@given(st.data(), st.sampled_from([1, 5, 8]))
def test_groups_against_the_definition(data, b):
    scores = data.draw(
        st.lists(floats(-(2.0**20), 2.0**20) | st.just(np.nan), min_size=b, max_size=b)
    )
    scores = np.array(scores, np.float32)
    ids = st.sampled_from([0, -3, 9_000_000_000, 9_000_000_000 + 2**32])  # equal in 32 bits
    groups = np.array(data.draw(st.lists(ids, min_size=b, max_size=b)))
    least = data.draw(st.sampled_from([0.0, 0.5]))
    with jax.enable_x64(True):
        got = example_weights(scores.astype(np.float64), groups=groups, min_weight=least)
    np.testing.assert_allclose(got, grouped(scores, groups, least), 1e-9, 1e-12)
    np.testing.assert_allclose(
        example_weights(scores, groups=groups, min_weight=least),
        grouped(scores, groups, least),
        rtol=1e-3,
        atol=1e-6,
    )


@settings(max_examples=20)
@given(scores_st)
def test_every_example_its_own_group_is_no_groups(scores):
    got = example_weights(scores, groups=np.arange(len(scores)))
    np.testing.assert_allclose(got, example_weights(scores), rtol=1e-6, atol=1e-30)


def test_one_group_for_all_is_all_or_nothing():
    zeros = np.zeros(3, int)
    np.testing.assert_allclose(example_weights(np.array([3.0, -1.0, 1.0]), groups=zeros), 1 / 3)
    np.testing.assert_array_equal(example_weights(np.array([-3.0, 1.0, 1.0]), groups=zeros), 0)


def test_groups_in_every_way_to_call_it():
    scores, groups = np.array([1.0, 2.0, -4.0, 3.0], "f4"), np.array([0, 0, 1, 1]) * 2**30
    want = [0.5, 0.5, 0, 0]
    np.testing.assert_array_equal(example_weights(scores, groups=groups), want)
    np.testing.assert_array_equal(jax.jit(example_weights)(scores, groups=groups), want)
    halves = jax.vmap(
        lambda s, g: example_weights(s, groups=g, axis_name="half"), axis_name="half"
    )(scores.reshape(2, 2).T, groups.reshape(2, 2).T)  # each half has one example of each group
    np.testing.assert_array_equal(halves.T.ravel(), want)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int64"])
def test_groups_of_a_narrow_dtype(dtype):
    groups = np.array([0, 0, 99, 99], dtype)
    got = example_weights(np.array([1, 2, 1, 3], "f4"), groups=groups)
    np.testing.assert_allclose(got, np.array([3, 3, 4, 4]) / 14, rtol=1e-6)


def test_huge_scores_of_a_group_do_not_overflow():
    scores = np.full(8, 5e37, np.float32)
    np.testing.assert_allclose(example_weights(scores, groups=np.zeros(8, int)), 1 / 8)


@pytest.mark.parametrize("top", [2.0**-120, 1e-30, 1.0, 8e37, 8.6e37, float(np.finfo("f4").max)])
def test_weights_up_to_the_largest_float(top):
    scores = np.array([top, top / 2, -top, 0], np.float32)
    for fn in (example_weights, jax.jit(example_weights)):
        np.testing.assert_allclose(fn(scores), [2 / 3, 1 / 3, 0, 0], rtol=1e-6)


def test_a_least_weight_that_cannot_be_refused_is_no_trap():
    """Under jit its value is not known."""
    scores = jnp.array([3.0, -1.0, 1.0])
    fn = jax.jit(lambda least: example_weights(scores, min_weight=least))
    for least in (-1.0, np.nan, 0.0):
        np.testing.assert_allclose(fn(least), [0.75, 0, 0.25], rtol=1e-6)
    np.testing.assert_allclose(fn(np.inf), [1 / 3] * 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("groups", "error", "match"),
    [
        ([0, 1], ValueError, r"groups: got shape \(2,\); takes \(3,\), the group of each"),
        ([0.0, 1, 1], TypeError, "groups: got dtype float.*; takes integers, .*np.unique"),
        (["a", "b", "b"], TypeError, "groups: got dtype <U1; takes integers, .*np.unique"),
        ([0, None, 1], TypeError, "groups: got dtype object; takes integers, .*np.unique"),
    ],
)
def test_groups_errors(groups, error, match):
    with pytest.raises(error, match=match):
        example_weights(jnp.ones(3), groups=groups)


def test_the_number_of_groups_is_not_needed_any_more():
    with pytest.warns(UserWarning, match="num_groups: not needed since version 0.3.0"):
        weights = example_weights(jnp.ones(2), groups=[0, 1], num_groups=10**9)
    np.testing.assert_allclose(weights, 0.5)
