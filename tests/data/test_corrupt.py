import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2rw_jax.data import background_flip, long_tail_subset, majority_subset, uniform_flip

seeds = st.integers(0, 2**32 - 1)
ratios = st.floats(0, 1, exclude_max=True)


@st.composite
def labelled(draw):
    num_classes = draw(st.integers(2, 12))
    labels = draw(st.lists(st.integers(0, num_classes - 1), max_size=60))
    return np.array(labels, np.int64), num_classes


@given(labelled(), ratios, seeds)
def test_uniform_flip_changes_exactly_the_share_it_marks(data, ratio, seed):
    labels, num_classes = data
    before = labels.copy()
    noisy, corrupted = uniform_flip(labels, ratio, num_classes=num_classes, seed=seed)
    assert noisy.dtype == np.int32 and corrupted.dtype == bool
    assert corrupted.sum() == round(ratio * len(labels))
    np.testing.assert_array_equal(corrupted, noisy != labels)
    assert np.all((noisy >= 0) & (noisy < num_classes))
    np.testing.assert_array_equal(labels, before)


def test_uniform_flip_hits_every_other_class_alike():
    labels = np.repeat(np.arange(10), 10_000)
    noisy, corrupted = uniform_flip(labels, 0.4, num_classes=10, seed=0)
    table = np.zeros((10, 10))
    np.add.at(table, (labels[corrupted], noisy[corrupted]), 1)
    assert np.all(np.diag(table) == 0)
    observed = table[~np.eye(10, dtype=bool)]
    expected = 40_000 / 90
    # Chi-square with 89 degrees of freedom: 0.999 quantile.
    assert np.sum((observed - expected) ** 2 / expected) < 135.98


@given(labelled(), ratios, seeds, st.data())
def test_background_flip_moves_only_others_and_only_to_background(data, ratio, seed, choice):
    labels, num_classes = data
    background = choice.draw(st.integers(0, num_classes - 1))
    noisy, corrupted = background_flip(
        labels, ratio, background=background, num_classes=num_classes, seed=seed
    )
    assert corrupted.sum() == round(ratio * np.sum(labels != background))
    np.testing.assert_array_equal(corrupted, noisy != labels)
    assert np.all(noisy[corrupted] == background)
    assert noisy.dtype == np.int32


LABELS = np.repeat(np.arange(5), 200)


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: uniform_flip(LABELS, 0.3, num_classes=5, seed=seed)[0],
        lambda seed: background_flip(LABELS, 0.3, background=2, num_classes=5, seed=seed)[0],
        lambda seed: majority_subset(LABELS, 0.5, majority=2, total=100, seed=seed),
        lambda seed: long_tail_subset(LABELS, 0.1, num_classes=5, seed=seed),
    ],
)
def test_the_seed_alone_decides(draw):
    np.testing.assert_array_equal(draw(3), draw(3))
    assert not np.array_equal(draw(3), draw(4))


@given(st.floats(0, 0.66), st.integers(1, 300), seeds)
def test_majority_subset_counts(share, total, seed):
    indices = majority_subset(LABELS, share, majority=1, total=total, seed=seed)
    assert indices.dtype == np.int64 and len(indices) == total
    assert np.all(np.diff(indices) > 0)
    counts = np.bincount(LABELS[indices], minlength=5)
    assert counts[1] == round(share * total)
    assert np.ptp(np.delete(counts, 1)) <= 1


def test_majority_subset_of_two_classes_of_mnist():
    labels = np.array([4, 9] * 5000)
    indices = majority_subset(labels, 0.995, majority=9, total=5000, seed=0)
    assert np.bincount(labels[indices], minlength=10)[[4, 9]].tolist() == [25, 4975]


@pytest.mark.parametrize(
    ("ratio", "counts"), [(1.0, [200] * 5), (0.0625, [200, 100, 50, 25, 12]), (1e-4, None)]
)
def test_long_tail_counts(ratio, counts):
    indices = long_tail_subset(LABELS, ratio, num_classes=5, seed=0)
    assert np.all(np.diff(indices) > 0)
    assert np.bincount(LABELS[indices]).tolist() == (counts or [200, 20, 2, 1, 1])


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan")])
def test_ratio_outside_range(ratio):
    allowed = r"give a number in \[0, 1\)$"
    with pytest.raises(ValueError, match=f"^ratio is {ratio}: {allowed}"):
        uniform_flip(LABELS, ratio, num_classes=5, seed=0)
    with pytest.raises(ValueError, match=f"^ratio is {ratio}: {allowed}"):
        background_flip(LABELS, ratio, background=0, num_classes=5, seed=0)
    with pytest.raises(ValueError, match=f"^share is {ratio}: {allowed}"):
        majority_subset(LABELS, ratio, majority=0, total=10, seed=0)


@pytest.mark.parametrize("ratio", [0.0, 1.1, float("nan")])
def test_long_tail_ratio_outside_range(ratio):
    with pytest.raises(ValueError, match=rf"^ratio is {ratio}: give a number in \(0, 1\]$"):
        long_tail_subset(LABELS, ratio, num_classes=5, seed=0)


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        ([0], 1, "^num_classes is 1: give an integer of at least 2$"),
        ([0, 5], 5, r"^labels span 0\.\.5: give classes 0\.\.4, or raise num_classes$"),
        ([-1, 3], 5, r"^labels span -1\.\.3: give classes 0\.\.4, or raise num_classes$"),
    ],
)
def test_bad_labels(labels, num_classes, message):
    with pytest.raises(ValueError, match=message):
        uniform_flip(np.array(labels), 0.5, num_classes=num_classes, seed=0)


def test_background_is_a_class():
    with pytest.raises(ValueError, match=r"^background is 5: give an integer in 0\.\.4$"):
        background_flip(LABELS, 0.5, background=5, num_classes=5, seed=0)


def test_subset_errors():
    with pytest.raises(
        ValueError, match=r"^total is 500: the majority=2 has 200 examples but 250 are needed"
    ):
        majority_subset(LABELS, 0.5, majority=2, total=500, seed=0)
    with pytest.raises(
        ValueError, match=r"^total is 100: the majority=7 has 0 examples but 50 are needed"
    ):
        majority_subset(LABELS, 0.5, majority=7, total=100, seed=0)
    with pytest.raises(ValueError, match=r"^labels hold no class but majority=3"):
        majority_subset(np.full(9, 3), 0.5, majority=3, total=4, seed=0)
    with pytest.raises(ValueError, match=r"^total is 0: give an integer of at least 1$"):
        majority_subset(LABELS, 0.5, majority=2, total=0, seed=0)
    with pytest.raises(ValueError, match=r"^class 5 has 0 examples but 1 are needed"):
        long_tail_subset(LABELS, 0.5, num_classes=6, seed=0)
