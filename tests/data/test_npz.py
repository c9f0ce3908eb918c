"""Users' own arrays; what is wrong with them is in tests/test_misuse.py."""

import io
import pickle
import tracemalloc
import zipfile

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


def member(array, **header):
    """An .npy's bytes, whose header may say something else than its array."""
    file = io.BytesIO()
    told = np.lib.format.header_data_from_array_1_0(array) | header
    np.lib.format.write_array_header_1_0(file, told)
    return file.getvalue() + array.tobytes()


IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 5, 3), np.uint8)
PICKLED = np.array([None])
SAVED = {
    "train_labels": LABELS,
    "test_labels": LABELS,
    "train_images": IMAGES,
    "test_images": IMAGES,
}


def archive(path, changed=(), kind=zipfile.ZIP_DEFLATED, twice=()):
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, array in (SAVED | dict(changed)).items():
            file.writestr(f"{name}.npy", array if isinstance(array, bytes) else member(array))
        for name in twice:
            file.writestr(f"{name}.npy", member(SAVED[name]))
    return path


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_more_is_read_than_the_file_and_the_memory_hold(tmp_path, monkeypatch):
    path = tmp_path / "own.npz"
    assert (load(f"npz:{archive(path)}").train_images == IMAGES).all()  # as savez_compressed
    assert (load(f"npz:{archive(path, {'x': PICKLED.dumps()})}").train_images == IMAGES).all()
    huge = member(IMAGES, shape=(2**40, 2**20, 1, 1))
    turned = member(IMAGES, shape=(12, 4, -5, -3))
    cases = {
        "said to be enormous": lambda: archive(path, {"train_images": huge}),
        "said to be below zero": lambda: archive(path, {"train_images": turned}),
        "of no bytes": lambda: archive(path, {"train_images": member(IMAGES, descr="|V0")}),
        "of objects": lambda: archive(path, {"train_labels": member(LABELS, descr="|O")}),
        "a pickle": lambda: archive(path, {"train_labels": pickle.dumps(LABELS)}),
        "cut": lambda: archive(path, {"train_labels": member(LABELS)[:-1]}),
        "too long": lambda: archive(path, {"train_labels": member(LABELS) + b"0"}),
        "in lzma": lambda: archive(path, kind=zipfile.ZIP_LZMA),
        "twice": lambda: archive(path, twice=["train_labels"]),
        "larger than the memory": lambda: archive(path, {"test_images": np.zeros(2**22, np.uint8)}),
    }
    monkeypatch.setattr("l2rw_jax.data._foreign._half_of_memory", lambda: 2**21)
    faults = []
    for name, make in cases.items():
        make()
        tracemalloc.start()
        with pytest.raises(ValueError, match=f"^{path} cannot be read as .npz") as error:
            load(f"npz:{path}")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if "\n" in str(error.value) or peak > 2**21:
            faults.append((name, str(error.value), peak))
    assert not faults
