import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2rw_jax.data import (
    augment,
    sample,
    sample_balanced,
    sample_without_replacement,
    to_float,
)

IMAGES = np.random.default_rng(0).integers(1, 256, (64, 5, 7, 3), dtype=np.uint8)
KEY = jax.random.key(0)


def test_nothing_asked_nothing_done():
    np.testing.assert_array_equal(augment(KEY, IMAGES), IMAGES)


def offsets(images, out, pad):
    """Where in the zero-padded image each output lies."""
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = images.shape[1:3]
    found = []
    for source, result in zip(padded, out, strict=True):
        matches = [
            (y, x)
            for y in range(2 * pad + 1)
            for x in range(2 * pad + 1)
            if np.array_equal(source[y : y + height, x : x + width], result)
        ]
        assert len(matches) == 1
        found += matches
    return found


def test_every_output_is_a_crop_of_the_zero_padded_image():
    out = np.asarray(augment(KEY, IMAGES, pad=1))
    assert out.dtype == np.uint8
    assert len(set(offsets(IMAGES, out, 1))) == 9  # 64 draws of 9 offsets: all occur


def test_flips_mirror_about_half_left_to_right():
    images = np.tile(IMAGES, (16, 1, 1, 1))
    out = np.asarray(augment(KEY, images, flip=True))
    same = (out == images).all((1, 2, 3))
    mirrored = (out == images[:, :, ::-1]).all((1, 2, 3))
    assert np.all(same ^ mirrored)
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(images))


def test_crop_and_flip_are_independent():
    images = np.tile(IMAGES[:1], (512, 1, 1, 1))
    out = np.asarray(augment(KEY, images, pad=1, flip=True))
    assert len({image.tobytes() for image in out}) == 18  # 9 offsets, mirrored or not


def test_jit_and_vmap_give_the_same_bits():
    def run(key, images):
        return augment(key, images, pad=2, flip=True)

    keys = jax.random.split(KEY, 3)
    batches = jnp.stack([IMAGES, IMAGES[::-1], IMAGES])
    plain = [run(key, batch) for key, batch in zip(keys, batches, strict=True)]
    np.testing.assert_array_equal(jax.vmap(run)(keys, batches), plain)
    np.testing.assert_array_equal(jax.jit(run)(keys[0], batches[0]), plain[0])
    assert not np.array_equal(plain[0], plain[2])


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (-0.5, 0.5)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_to_float_end_points_and_between(low, high, dtype):
    levels = jnp.arange(256, dtype=jnp.uint8)
    out = jax.jit(lambda x: to_float(x, low=low, high=high, dtype=dtype))(levels)
    assert out.dtype == dtype
    assert (float(out[0]), float(out[255])) == (low, high)
    expected = np.linspace(low, high, 256)
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, atol=4 * jnp.finfo(dtype).eps)


def test_floats_are_features_and_stay_as_they_are():
    features = np.linspace(-3, 300, 12).reshape(3, 1, 1, 4)
    np.testing.assert_allclose(to_float(features, low=-1.0), features, rtol=1e-6)
    np.testing.assert_array_equal(augment(KEY, features.astype(np.float16)), features.astype("e"))


def test_sample_is_uniform_with_replacement():
    drawn = np.asarray(sample(KEY, 10, 10_000))
    assert drawn.dtype == np.int32
    # Chi-square with 9 degrees of freedom: 0.999 quantile.
    assert np.sum((np.bincount(drawn, minlength=10) - 1000) ** 2 / 1000) < 27.88


def test_sample_without_replacement_is_uniform_and_distinct():
    keys = jax.random.split(KEY, 3000)
    drawn = np.asarray(jax.vmap(lambda key: sample_without_replacement(key, 10, 4))(keys))
    assert drawn.dtype == np.int32
    assert all(len(set(row)) == 4 for row in drawn)
    for column in drawn.T:  # every place, so the order is random too
        assert np.sum((np.bincount(column, minlength=10) - 300) ** 2 / 300) < 27.88


def test_balanced_draws_take_every_class_and_every_member_equally_often():
    labels = jnp.array([2, 0, 2, 2, 0, 2, 2, 4] * 3)  # classes 1 and 3 have no examples
    counts = jnp.bincount(labels, length=5).astype(jnp.float32)
    rows = np.asarray(sample_balanced(jax.random.key(0), labels, counts, 30_000))
    drawn = np.bincount(rows, minlength=len(labels)) / len(rows)
    np.testing.assert_allclose(drawn, 1 / 3 / np.asarray(counts)[np.asarray(labels)], atol=0.01)
