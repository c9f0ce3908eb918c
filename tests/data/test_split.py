import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2rw_jax.data import split

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 25))


@given(st.integers(0, 50), st.integers(0, 49), st.booleans(), st.integers(0, 2**32 - 1))
def test_parts_are_disjoint_complete_and_balanced(clean_size, val_size, balanced, seed):
    parts = split(
        LABELS,
        clean_size=clean_size,
        val_size=val_size,
        num_classes=4,
        balanced=balanced,
        seed=seed,
    )
    assert (len(parts.clean), len(parts.val)) == (clean_size, val_size)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(100))
    for part in parts:
        assert part.dtype == np.int64
        np.testing.assert_array_equal(part, np.sort(part))
    if balanced:
        assert np.ptp(np.bincount(LABELS[parts.clean], minlength=4)) <= 1


def draw(seed, **changes):
    sizes = {"clean_size": 10, "val_size": 20, "num_classes": 4}
    return split(LABELS, **(sizes | changes), seed=seed)


@pytest.mark.parametrize("balanced", [True, False])
def test_the_seed_alone_decides(balanced):
    for first, again, other in zip(
        draw(0, balanced=balanced),
        draw(0, balanced=balanced),
        draw(1, balanced=balanced),
        strict=True,
    ):
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


def test_the_remainder_goes_to_random_classes():
    extra = {
        tuple(np.flatnonzero(np.bincount(LABELS[draw(seed).clean]) == 3)) for seed in range(60)
    }
    assert len(extra) == 6  # every pair out of four classes


def test_an_unbalanced_draw_is_not_balanced():
    counts = [np.ptp(np.bincount(LABELS[draw(s, balanced=False).clean])) for s in range(20)]
    assert max(counts) > 1


def test_errors():
    with pytest.raises(ValueError, match=r"^clean_size 60 and val_size 40 leave none of 100 exam"):
        draw(0, clean_size=60, val_size=40)
    with pytest.raises(ValueError, match=r"^val_size is -1: give an integer of at least 0$"):
        draw(0, val_size=-1)
    with pytest.raises(ValueError, match=r"^clean_size is -4: give an integer of at least 0$"):
        draw(0, clean_size=-4)
    with pytest.raises(ValueError, match=r"^class 1 has 2 examples but 5 are needed"):
        split(np.array([0] * 30 + [1] * 2), clean_size=10, val_size=0, num_classes=2, seed=0)
    with pytest.raises(ValueError, match=r"^labels span 0\.\.3: give classes 0\.\.2"):
        draw(0, num_classes=3)
