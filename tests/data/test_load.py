import io
import logging
import os

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid

from l2rw_jax.data import ReadError, load
from l2rw_jax.data._cache import cached
from l2rw_jax.data._records import Records


def check(dataset, train, test, num_classes):
    assert dataset.train_images.shape == train and dataset.test_images.shape == test
    assert dataset.train_images.dtype == dataset.test_images.dtype == np.uint8
    assert dataset.train_labels.dtype == dataset.test_labels.dtype == np.int32
    for labels in (dataset.train_labels, dataset.test_labels):
        np.testing.assert_array_equal(np.unique(labels), np.arange(num_classes))
    assert dataset.num_classes == num_classes


def test_digits():
    digits = load("digits")
    check(digits, (1437, 8, 8, 1), (360, 8, 8, 1), 10)
    raw = load_digits()
    both = np.concatenate([digits.train_labels, digits.test_labels])
    np.testing.assert_array_equal(np.bincount(both), np.bincount(raw.target))
    share = np.bincount(digits.test_labels) / np.bincount(raw.target)
    assert np.all(abs(share - 0.2) < 0.005)
    images = np.concatenate([digits.train_images, digits.test_images])
    assert sorted(im.tobytes() for im in images) == sorted(
        im.tobytes() for im in np.round(raw.images / 16 * 255).astype(np.uint8)
    )
    np.testing.assert_array_equal(load("digits").test_images, digits.test_images)


@pytest.mark.parametrize(
    ("name", "shape", "num_classes"),
    [("synthetic-32x32x3-100", (32, 32, 3), 100), ("synthetic-6x9x1-2", (6, 9, 1), 2)],
)
def test_synthetic_is_deterministic_and_learnable(name, shape, num_classes):
    dataset = load(name)
    check(dataset, (2000, *shape), (500, *shape), num_classes)
    np.testing.assert_array_equal(load(name).train_images, dataset.train_images)
    model = NearestCentroid().fit(dataset.train_images.reshape(2000, -1), dataset.train_labels)
    assert model.score(dataset.test_images.reshape(500, -1), dataset.test_labels) > 0.95


def test_synthetic_has_room_for_its_classes():
    with pytest.raises(ValueError, match="'synthetic-8x8x1-501' asks for 501 classes: give 2 to"):
        load("synthetic-8x8x1-501")


IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
LABELS = np.array([1, 0], np.int32)


class Decoder:
    calls = 0

    def __call__(self):
        self.calls += 1
        return IMAGES, LABELS


def read(directory, decoder):
    images, labels = cached(directory, "x", decoder, IMAGES.shape)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    return images


def test_cache_decodes_once_then_maps(tmp_path):
    decoder = Decoder()
    assert isinstance(read(tmp_path / "new", decoder), np.memmap)
    assert isinstance(read(tmp_path / "new", decoder), np.memmap)
    assert decoder.calls == 1
    assert sorted(os.listdir(tmp_path / "new")) == ["x-images.npy", "x-labels.npy"]


@pytest.mark.parametrize("part", ["images", "labels"])
@pytest.mark.parametrize("length", [0, 50, -1])
def test_a_torn_cache_file_is_rebuilt(tmp_path, part, length):
    read(tmp_path, decoder := Decoder())
    file = tmp_path / f"x-{part}.npy"
    whole = file.read_bytes()
    file.unlink()  # not truncated in place, which would pull the mapped pages away
    file.write_bytes(whole[:length])
    read(tmp_path, decoder)
    assert decoder.calls == 2
    assert file.read_bytes() == whole


def test_a_cache_file_of_another_shape_is_rebuilt(tmp_path):
    np.save(tmp_path / "x-images.npy", IMAGES[:1])
    np.save(tmp_path / "x-labels.npy", LABELS)
    read(tmp_path, decoder := Decoder())
    assert decoder.calls == 1


def test_an_unwritable_cache_only_warns(tmp_path, caplog):
    (tmp_path / "file").touch()
    decoder = Decoder()
    absl = logging.getLogger("absl")
    absl.addHandler(caplog.handler)  # absl's logger does not propagate
    try:
        read(tmp_path / "file" / "cache", decoder)
        read(tmp_path / "file" / "cache", decoder)
    finally:
        absl.removeHandler(caplog.handler)
    assert decoder.calls == 2
    assert "Decoded arrays are not cached in" in caplog.text


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("cifar_10", "'cifar10', "), ("digit", "'digits'"), ("synthetic-8x8", "'digits'")],
)
def test_unknown_names_get_the_nearest(tmp_path, name, nearest):
    with pytest.raises(ValueError, match=f"^name '{name}' cannot be loaded .*: nearest") as caught:
        load(name, data_dir=tmp_path)
    assert nearest in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unprepared_set_says_how_to_prepare_it(tmp_path, capfd):
    with pytest.raises(FileNotFoundError) as caught:
        load("cifar100", data_dir=tmp_path)
    command = f"`tfds build cifar100 --file_format=array_record --data_dir={tmp_path}`"
    assert command in str(caught.value) and "tensorflow-cpu" in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("L2RW_DATA_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load("cifar100")


@pytest.mark.parametrize(
    ("name", "what"),
    [("imagenet2012", r"image=Image\(shape=\(None, None, 3\)"), ("celeb_a", "label=None")],
)
def test_sets_that_do_not_fit(tmp_path, name, what):
    with pytest.raises(ValueError, match=f"^data set '{name}' has .*{what}.*: give a set whose"):
        load(name, data_dir=tmp_path)


def prepare_tiny(folder, sizes):
    """Prepares a TFDS set whose image i is all i and has label i % 3; PNG needs no TensorFlow."""

    def png(level):
        file = io.BytesIO()
        Image.fromarray(np.full((4, 5, 3), level, np.uint8)).save(file, "png")
        file.seek(0)
        return file

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            image = tfds.features.Image(shape=(4, 5, 3))
            features = {"image": image, "label": tfds.features.ClassLabel(num_classes=3)}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {part: self._generate_examples(size) for part, size in sizes.items()}

        def _generate_examples(self, size):
            for i in range(size):
                yield i, {"image": png(i), "label": i % 3}

    Tiny(data_dir=folder, file_format="array_record").download_and_prepare()


def test_a_tfds_set(tmp_path, monkeypatch):
    prepare_tiny(tmp_path, {"train": 7, "test": 4})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("L2RW_CACHE_DIR", raising=False)
    for _ in range(2):  # decoded, then from the cache
        tiny = load("tiny", data_dir=tmp_path)
        check(tiny, (7, 4, 5, 3), (4, 4, 5, 3), 3)
        assert (tiny.name, tiny.version) == ("tiny", "1.2.0")
        levels = tiny.train_images[:, 0, 0, 0]
        np.testing.assert_array_equal(np.sort(levels), np.arange(7))
        np.testing.assert_array_equal(levels % 3, tiny.train_labels)
        assert tiny.test_images.max() == 3
    assert len(list((tmp_path / "cache" / "l2rw_jax").iterdir())) == 4


def test_a_tfds_set_loaded_lazily(tmp_path):
    prepare_tiny(tmp_path, {"train": 7, "test": 4})
    lazy = load("tiny", data_dir=tmp_path, cache_dir=tmp_path / "cache", lazy=True)
    assert isinstance(lazy.train_images, Records)
    assert not list((tmp_path / "cache").glob("*train*"))
    eager = load("tiny", data_dir=tmp_path, cache_dir=tmp_path / "cache")
    for name, got, expected in zip(lazy._fields, lazy, eager, strict=True):
        got = got[:] if isinstance(got, Records) else got
        np.testing.assert_array_equal(got, expected, err_msg=name, strict=True)
    again = load("tiny", data_dir=tmp_path, cache_dir=tmp_path / "cache", lazy=True)
    assert isinstance(again.train_images, np.memmap)


def test_a_tfds_set_that_cannot_be_decoded_says_so_at_once(tmp_path, monkeypatch):
    prepare_tiny(tmp_path, {"train": 7, "test": 4})
    monkeypatch.setattr(Image, "open", lambda file: 1 / 0)
    with pytest.raises(ReadError, match=r"^tiny, split train: image 0 cannot be read: division by"):
        load("tiny", data_dir=tmp_path, cache_dir=tmp_path / "cache", lazy=True)


def test_copies_prepared_differently_share_no_cache(tmp_path):
    for size in (7, 8):
        prepare_tiny(tmp_path / str(size), {"train": size, "test": 4})
        tiny = load("tiny", data_dir=tmp_path / str(size), cache_dir=tmp_path / "cache")
        assert len(tiny.train_labels) == size


def test_a_prepared_set_that_lost_a_file(tmp_path):
    prepare_tiny(tmp_path, {"train": 7, "test": 4})
    next(tmp_path.glob("tiny/*/tiny-test*")).unlink()
    with pytest.raises(FileNotFoundError, match="'tiny' is not prepared as array_record"):
        load("tiny", data_dir=tmp_path, cache_dir=tmp_path / "cache")


def test_a_set_without_a_test_split(tmp_path):
    prepare_tiny(tmp_path, {"train": 7, "extra": 4})
    with pytest.raises(ValueError, match=r"^data set 'tiny' has splits \[.*: give one with train"):
        load("tiny", data_dir=tmp_path, cache_dir=tmp_path / "cache")


@pytest.mark.skipif(
    not os.path.isdir(os.path.join(os.environ.get("L2RW_DATA_DIR", ""), "mnist")),
    reason="needs L2RW_DATA_DIR to hold TFDS's mnist as array_record",
)
def test_mnist(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("L2RW_CACHE_DIR", str(tmp_path))
    mnist = load("mnist")
    assert capfd.readouterr() == ("", "")
    check(mnist, (60000, 28, 28, 1), (10000, 28, 28, 1), 10)
    assert (mnist.name, mnist.version) == ("mnist", "3.0.1")
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.train_labels).tolist() == counts
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(written) == 4
    again = load("mnist")
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert isinstance(again.train_images, np.memmap)
    np.testing.assert_array_equal(again.test_images, mnist.test_images)
