"""Users' own arrays; what is wrong with them is in tests/test_misuse.py."""

import numpy as np
import pytest

from l2rw_jax.data import load

LABELS = np.arange(12) % 3


def save(path, kind, train, test, **others):
    arrays = {f"train_{kind}": train, f"test_{kind}": test, **others}
    np.savez(path, train_labels=LABELS, test_labels=LABELS[:5], **arrays)
    return f"npz:{path}"


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_images_are_as_they_were_saved(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 5, *channels), np.uint8)
    name = save(tmp_path / "own data.npz", "images", images, images[:5])
    got = load(name)
    assert (got.name, got.num_classes, got.given_labels) == (name, 3, None)
    expected = images.reshape(12, 4, 5, -1)
    np.testing.assert_array_equal(got.train_images, expected, strict=True)
    np.testing.assert_array_equal(got.test_images, expected[:5], strict=True)
    np.testing.assert_array_equal(got.train_labels, LABELS.astype(np.int32), strict=True)
    np.testing.assert_array_equal(got.test_labels, LABELS[:5].astype(np.int32), strict=True)


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("f2", np.float16), ("f4", np.float32), ("f8", np.float32), (">f2", np.float16)],
)
def test_features_are_images_of_one_pixel(tmp_path, dtype, kept):
    features = np.random.default_rng(0).normal(size=(12, 7)).astype(dtype)
    got = load(save(tmp_path / "a.npz", "features", features, features[:5]))
    expected = features.astype(kept)[:, None, None, :]
    np.testing.assert_array_equal(got.train_images, expected, strict=True)
    np.testing.assert_array_equal(got.test_images, expected[:5], strict=True)


def test_a_column_names_the_given_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # from where the path is looked up
    features, worse = np.ones((12, 2)), (LABELS + 1).astype(np.uint8) % 3
    name = save("a.npz", "features", features, features[:5], worse=worse, text=np.array(["a"]))
    given = load(name, column="worse").given_labels
    np.testing.assert_array_equal(given, worse.astype(np.int32), strict=True)
    assert load(name).given_labels is None
    with pytest.raises(ValueError, match=r"^column is 'x': give one .*a.npz has: 'worse', 'text'$"):
        load(name, column="x")
