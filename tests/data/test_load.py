import io
import logging
import os
import shutil

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


@pytest.mark.parametrize(
    "form",
    [
        *("8x8x1-501", "8x8x1-1", "8x8x1-0", "8x8-2", "0x8x1-2", "-8x8x1-2", "08x8x1-2", ""),
        *(
            "100000x100000x3-10",
            "429497x1x1-2",
            "9" * 100 + "x1x1-2",
            "1\N{ARABIC-INDIC DIGIT THREE}x8x1-2",
        ),
    ],
)
def test_synthetic_sets_have_limits(form):
    with pytest.raises(ValueError) as error:
        load(f"synthetic-{form}")
    assert str(error.value).startswith("name is 'synthetic-")
    assert "\n" not in str(error.value)
    if form.isascii():
        allowed = "give synthetic-HxWxC-K with 2 to 500 classes K and images of 1 to 429496 bytes"
        assert allowed in str(error.value)


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
    files = ["x-crc32.json", "x-images.npy", "x-labels.npy"]
    assert sorted(os.listdir(tmp_path / "new")) == files


def test_the_cache_leaves_links_and_the_files_of_others(tmp_path, warnings):
    mine = tmp_path / "mine.npy"
    mine.write_bytes(b"mine")
    new = tmp_path / "new"
    new.mkdir()
    for name in ("x-images.npy.part", "part", "x-images.npy"):
        (new / name).symlink_to(mine)
    assert not isinstance(read(new, Decoder()), np.memmap)  # decoded, and not kept
    assert mine.read_bytes() == b"mine"
    assert sorted(os.listdir(new)) == ["part", "x-images.npy", "x-images.npy.part"]
    assert "symbolic link" in warnings()[-1]


@pytest.fixture
def warnings(caplog):
    """What is logged by absl, whose logger may or may not propagate: each message once."""
    absl = logging.getLogger("absl")
    absl.addHandler(caplog.handler)
    yield lambda: list(dict.fromkeys(caplog.messages))
    absl.removeHandler(caplog.handler)


def replace(file, content):
    file.unlink()  # not written in place, which would change the mapped pages too
    file.write_bytes(content)


def save(array):
    return lambda file, _: np.save(file, array)


DAMAGES = {
    **{f"cut to {n}": lambda file, whole, n=n: replace(file, whole[:n]) for n in (0, 10, -1)},
    "a flipped bit": lambda file, whole: replace(file, whole[:-1] + bytes([whole[-1] ^ 1])),
    "a folder": lambda file, _: file.unlink() or file.mkdir(),
    "gone": lambda file, _: file.unlink(),
}
OTHERS = {
    "images": {
        "shape": save(IMAGES[:1]),
        "dtype": save(IMAGES.astype(np.int8)),
        "order": save(np.asfortranarray(IMAGES)),
    },
    "labels": {
        "zeroed": save(LABELS * 0),
        "dtype": save(LABELS.astype(np.int64)),
        "byte order": save(LABELS.astype(">i4")),
        "float": save(LABELS.astype(np.float32)),
    },
    "crc32": {
        "garbage": lambda file, _: replace(file, b"{"),
        "numbers": lambda file, _: replace(file, b"[1, 2]"),
        "other JSON": lambda file, _: replace(file, b"null"),
    },
}


@pytest.mark.parametrize(
    ("kind", "damage"),
    [(kind, damage) for kind in OTHERS for damage in [*DAMAGES, *OTHERS[kind]]],
)
def test_a_damaged_cache_is_decoded_again_aloud(tmp_path, warnings, kind, damage):
    read(tmp_path, decoder := Decoder())
    assert not warnings()
    (file,) = tmp_path.glob(f"x-{kind}.*")
    whole = file.read_bytes()
    (DAMAGES | OTHERS[kind])[damage](file, whole)
    read(tmp_path, decoder)
    assert decoder.calls == 2
    assert "x-*.npy are not used, the data set is decoded again: " in warnings()[0]
    assert all("\n" not in warning for warning in warnings())
    if damage != "a folder":
        assert len(warnings()) == 1
        assert file.read_bytes() == whole
        read(tmp_path, decoder)
        assert decoder.calls == 2


def test_an_unwritable_cache_only_warns(tmp_path, warnings):
    (tmp_path / "file").touch()
    decoder = Decoder()
    for _ in range(2):
        read(tmp_path / "file" / "cache", decoder)
    assert decoder.calls == 2
    assert all("Decoded arrays are not cached in" in warning for warning in warnings())


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("cifar_10", "'cifar10', "), ("digit", "'digits'"), ("mnist:9.9.9", "'mnist', ")],
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
    """Prepares a TFDS set whose image i is all i and has label i % 3; PNG needs no TensorFlow.

    Its second labels are "worse", the next class, and "votes", the number i.
    """

    def png(level):
        file = io.BytesIO()
        Image.fromarray(np.full((4, 5, 3), level, np.uint8)).save(file, "png")
        file.seek(0)
        return file

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.0")

        def _info(self):
            image = tfds.features.Image(shape=(4, 5, 3))
            label = tfds.features.ClassLabel(num_classes=3)
            features = {"image": image, "label": label, "worse": label}
            features |= {"votes": np.int64, "seconds": np.float32, "id": tfds.features.Text()}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {part: self._generate_examples(size) for part, size in sizes.items()}

        def _generate_examples(self, size):
            for i in range(size):
                others = {"worse": (i + 1) % 3, "votes": i, "seconds": 0.5, "id": str(i)}
                yield i, {"image": png(i), "label": i % 3, **others}

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
        assert tiny.test_images.max() == 3 and tiny.given_labels is None
    assert len(list((tmp_path / "cache" / "l2rw_jax").iterdir())) == 6


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
    message = (
        r"^data set 'tiny/1.2.0', split train: image 0 in .*tiny-train.* cannot be read: divis"
    )
    with pytest.raises(ReadError, match=message):
        load("tiny", data_dir=tmp_path, cache_dir=tmp_path / "cache", lazy=True)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_tfds_set_s_second_labels(tmp_path, prepared, lazy):
    for _ in range(2):  # decoded, then from the cache
        tiny = load("tiny", data_dir=prepared, cache_dir=tmp_path, lazy=lazy, column="worse")
        np.testing.assert_array_equal(tiny.given_labels, (tiny.train_labels + 1) % 3)
        assert tiny.given_labels.dtype == np.int32


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("seconds", "column is 'seconds': give one that data set 'tiny' has: 'votes', 'worse'"),
        ("label", "column is 'label': give one that"),
        ("votes", r"tiny: its given labels span 0\.\.6: give 0\.\.2, as its training labels"),
    ],
)
def test_a_tfds_set_without_such_second_labels(tmp_path, prepared, column, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        load("tiny", data_dir=prepared, cache_dir=tmp_path, column=column)


def test_copies_prepared_differently_share_no_cache(tmp_path):
    for size in (7, 8):
        prepare_tiny(tmp_path / str(size), {"train": size, "test": 4})
        tiny = load("tiny", data_dir=tmp_path / str(size), cache_dir=tmp_path / "cache")
        assert len(tiny.train_labels) == size


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare_tiny(folder, {"train": 7, "test": 4})
    return folder


def flip(file):
    content = bytearray(file.read_bytes())
    content[400] ^= 0xFF  # within the second of the records
    file.write_bytes(content)


DESCRIPTION = {
    "garbage": lambda file: file.write_bytes(b"\x00garbage{"),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: os.truncate(file, 100),
    "other JSON": lambda file: file.write_text("[]"),
    "other fields": lambda file: file.write_text('{"a": 1}'),
    "gone": lambda file: file.unlink(),
    "a folder": lambda file: file.unlink() or file.mkdir(),
}
SHARD = {
    "flipped": (flip, ReadError),
    "garbage": (DESCRIPTION["garbage"], ReadError),
    "empty": (DESCRIPTION["empty"], ReadError),
    "cut": (DESCRIPTION["cut"], ReadError),
    "a folder": (DESCRIPTION["a folder"], ReadError),
    "gone": (DESCRIPTION["gone"], FileNotFoundError),
}


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("damage", DESCRIPTION)
def test_a_damaged_description_is_one_line(tmp_path, prepared, file, damage):
    shutil.copytree(prepared, tmp_path / "data")
    (path,) = (tmp_path / "data").rglob(file)
    DESCRIPTION[damage](path)
    with pytest.raises(ValueError) as error:
        load("tiny", data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    message = str(error.value)
    assert message.startswith(f"data set 'tiny', all splits: {path} cannot be read (")
    assert message.endswith(": prepare the set again, by `tfds build` with --overwrite")
    assert "\n" not in message


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("damage", SHARD)
def test_a_damaged_shard_is_one_line(tmp_path, prepared, part, lazy, damage):
    shutil.copytree(prepared, tmp_path / "data")
    (path,) = (tmp_path / "data").rglob(f"tiny-{part}.array_record*")
    change, kind = SHARD[damage]
    change(path)
    with pytest.raises(kind) as error:
        load("tiny", data_dir=tmp_path / "data", cache_dir=tmp_path / "cache", lazy=lazy)
    message = str(error.value)
    assert message.startswith(f"data set 'tiny/1.2.0', split {part}: ")
    assert str(path) in message and "\n" not in message
    if damage == "flipped":
        assert "image 1 in" in message and "hash mismatch" in message


def test_labels_beyond_the_classes_are_one_line(tmp_path, prepared):
    shutil.copytree(prepared, tmp_path / "data")
    (path,) = (tmp_path / "data").rglob("features.json")
    path.write_text(path.read_text().replace('"numClasses": "3"', '"numClasses": "2"'))
    with pytest.raises(ValueError) as error:
        load("tiny", data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    assert "split train: its labels span 0..2, but its features.json has 2 classes" in str(
        error.value
    )


def test_a_file_is_no_data_dir(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"^data_dir .*file is a file: give the folder"):
        load("mnist", data_dir=tmp_path / "file")


def test_a_set_without_a_test_split(tmp_path):
    prepare_tiny(tmp_path, {"train": 7, "extra": 4})
    with pytest.raises(ValueError, match=r"^data set 'tiny' has splits \[.*: give one with train"):
        load("tiny", data_dir=tmp_path, cache_dir=tmp_path / "cache")


@pytest.mark.skipif(
    not os.path.isdir(os.path.join(os.environ.get("L2RW_DATA_DIR", ""), "mnist")),
    reason="needs L2RW_DATA_DIR to hold TFDS's mnist as array_record",
)
@pytest.mark.slow
def test_mnist(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("L2RW_CACHE_DIR", str(tmp_path))
    mnist = load("mnist")
    assert capfd.readouterr() == ("", "")
    check(mnist, (60000, 28, 28, 1), (10000, 28, 28, 1), 10)
    assert (mnist.name, mnist.version) == ("mnist", "3.0.1")
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.train_labels).tolist() == counts
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(written) == 6
    again = load("mnist")
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert isinstance(again.train_images, np.memmap)
    np.testing.assert_array_equal(again.test_images, mnist.test_images)
