"""From a label's quality to the probability that it is wrong, and the share of wrong labels."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from l2rw_jax.audit.calibrate import (
    check_first,
    confident_classes,
    probability_wrong,
    representative,
    shares,
)


def qualities(n=4000, noise=0.2, seed=0):
    """Qualities of which the probability of being wrong is known."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < noise
    # Two Gaussians of unit variance at -1 and 1: the log odds are linear in the logit.
    logit = rng.normal(np.where(wrong, -1, 1))
    exact = 1 / (1 + (1 - noise) / noise * np.exp(2 * logit))
    return 1 / (1 + np.exp(-logit)), wrong, exact


def test_the_probability_is_the_exact_one_where_platt_holds():
    quality, wrong, exact = qualities()
    np.testing.assert_allclose(probability_wrong(quality, quality, wrong), exact, atol=0.03)


def test_it_is_scikit_learns_logistic_regression():
    quality, wrong, _ = qualities(200)
    logit = np.log(quality / (1 - quality))[:, None]
    expected = LogisticRegression(tol=1e-8).fit(logit, wrong).predict_proba(logit)[:, 1]
    np.testing.assert_allclose(probability_wrong(quality, quality, wrong), expected, atol=1e-4)


def test_it_falls_with_the_quality_and_takes_zero_and_one():
    quality, wrong, _ = qualities(300)
    falls = probability_wrong(np.array([0, 0.2, 0.5, 0.9, 1]), quality, wrong)
    assert np.all(np.diff(falls) < 0) and np.isfinite(falls).all()


@pytest.mark.parametrize("value", [False, True])
def test_one_kind_alone_is_a_constant(value):
    quality = np.linspace(0, 1, 9)
    np.testing.assert_array_equal(probability_wrong(quality, quality, np.full(9, value)), value)


def test_a_quality_that_says_the_opposite_is_not_believed():
    quality, wrong, _ = qualities(500)
    np.testing.assert_array_equal(probability_wrong(quality, quality, ~wrong), (~wrong).mean())


def test_confident_classes_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8], [0.55, 0.45]])
    given = np.array([0, 0, 1, 1, 1])
    # Thresholds: (0.9 + 0.7) / 2 = 0.8 of class 0, (0.6 + 0.8 + 0.45) / 3 = 0.617 of class 1.
    own = probabilities[np.arange(5), given]
    order = np.argsort(-probabilities, 1)
    ordered = np.take_along_axis(probabilities, order, 1)
    confident = confident_classes(given, own, order, ordered, 2)
    np.testing.assert_array_equal(confident, [0, 0, 1, 1, 1])
    wrongly_given = np.array([1, 0, 1, 1, 1])  # the first row: 0.7 of class 0 is its threshold
    own = probabilities[np.arange(5), wrongly_given]
    confident = confident_classes(wrongly_given, own, order, ordered, 2)
    np.testing.assert_array_equal(confident, [0, 0, 1, 1, 1])


def test_the_intervals_cover_the_true_share():
    covered = []
    for seed in range(6):
        quality, wrong, _ = qualities(1000, noise=0.15, seed=seed)
        verified = np.zeros(1000, bool)
        verified[np.random.default_rng(seed).choice(1000, 120, replace=False)] = True
        wrong_share = np.where(
            verified, wrong, probability_wrong(quality, quality[verified], wrong[verified])
        )
        total, _ = shares(quality, np.zeros(1000, int), 1, wrong_share, verified)
        covered.append(total.low <= wrong.mean() <= total.high)
        assert total.low < total.estimate < total.high
    assert np.mean(covered) > 0.85


def test_without_verified_rows_there_is_no_interval():
    total, first, second = shares(
        np.zeros(4), np.array([0, 0, 0, 1]), 2, np.array([1, 0, 0.5, 0.25]), None
    )
    assert (total.estimate, first.estimate, second.estimate) == (0.4375, 0.5, 0.25)
    assert np.isnan([total.low, total.high, first.low, second.high]).all()


def test_a_random_sample_stands_for_all_rows_and_the_worst_do_not():
    quality, _, _ = qualities(1000)
    rank = np.argsort(np.argsort(quality))
    sample = np.zeros(1000, bool)
    sample[np.random.default_rng(1).choice(1000, 200, replace=False)] = True
    assert representative(quality, sample)
    assert not representative(quality, rank < 100)
    assert not representative(quality, sample | (rank < 100))
    nobody = np.zeros(1000, bool)
    assert representative(quality, nobody) and representative(quality, ~nobody)


def test_rows_to_check_first_are_drawn_evenly():
    scores = np.random.default_rng(0).random(2000)
    drawn = check_first(np.argsort(scores))
    tenth = np.argsort(np.argsort(scores))[drawn] // 200
    np.testing.assert_array_equal(np.bincount(tenth), 10)
    assert len(set(drawn)) == 100 and len(check_first(np.arange(2000), 50)) == 50
    np.testing.assert_array_equal(np.sort(check_first(np.arange(7))), range(7))


def test_labels_that_separate_perfectly_leave_some_doubt():
    """Of 100 verified rows, 1 % of all could still be otherwise than the fit says."""
    wrong = np.arange(1000) < 89
    quality = np.where(wrong, 0.01, 0.99)
    verified = np.arange(1000) % 10 == 0
    total, _ = shares(quality, np.zeros(1000, int), 1, wrong.astype(float), verified)
    assert total.estimate == pytest.approx(0.089)
    assert total.low < 0.089 < total.high and 0.002 < total.high - total.low < 0.1
