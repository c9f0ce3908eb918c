"""Users' own image files; what is wrong with them is in tests/test_misuse.py."""

import logging

import numpy as np
import pytest
from PIL import Image

from l2rw_jax.data import ReadError, load
from l2rw_jax.data._records import Records

COLOURS = np.random.default_rng(0).integers(0, 256, (9, 4, 5, 3), np.uint8)


def save(root, pixels, suffixes=("png", "bmp", "tiff")):
    """Image i as train or test/CLASS/i, the classes in turn: "ant" 0, "bee" 1, "cow" 2."""
    for part, numbers in (("train", range(6)), ("test", range(6, 9))):
        for i in numbers:
            path = root / part / ("ant", "bee", "cow")[i % 3] / f"{i}.{suffixes[i % len(suffixes)]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[i]).save(path)
    return f"folder:{root}"


ORDER = [0, 3, 1, 4, 2, 5]  # class by class


@pytest.mark.parametrize("lazy", [False, True])
def test_files_are_read_class_by_class(tmp_path, lazy):
    name = save(tmp_path, COLOURS)
    (tmp_path / "train/.hidden").mkdir()
    (tmp_path / "train/ant/.DS_Store").touch()
    (tmp_path / "train/notes.txt").touch()
    got = load(name, lazy=lazy)
    assert isinstance(got.train_images, Records) == lazy
    assert (got.name, got.num_classes, got.given_labels) == (name, 3, None)
    np.testing.assert_array_equal(got.train_images[:], COLOURS[ORDER], strict=True)
    np.testing.assert_array_equal(got.test_images, COLOURS[6:], strict=True)
    np.testing.assert_array_equal(got.train_labels, np.int32([0, 0, 1, 1, 2, 2]), strict=True)
    np.testing.assert_array_equal(got.test_labels, np.int32([0, 1, 2]), strict=True)


def test_grey_images_have_one_channel_and_one_coloured_gives_all_three(tmp_path):
    grey = COLOURS[..., 0]
    got = load(save(tmp_path, grey))
    np.testing.assert_array_equal(got.train_images, grey[ORDER][..., None], strict=True)
    Image.fromarray(COLOURS[8]).save(tmp_path / "test/cow/8.tiff")
    got = load(f"folder:{tmp_path}")
    np.testing.assert_array_equal(got.train_images, np.stack([grey[ORDER]] * 3, -1), strict=True)
    np.testing.assert_array_equal(got.test_images[2], COLOURS[8], strict=True)


def test_a_table_has_the_given_labels(tmp_path):
    name = save(tmp_path, COLOURS, ["png"])
    rows = [f"bee,./ant/{i}.png,1" for i in (3, 0)] + [f"cow,bee/{i}.png,2" for i in (1, 4)]
    rows += [f"cow,cow/{i}.png,3" for i in (2, 5)]
    (tmp_path / "crowd.csv").write_text("\ufefflabel,file,votes\n" + "\n".join(rows) + "\n")
    given = load(name, column="crowd").given_labels
    np.testing.assert_array_equal(given, np.int32([1, 1, 2, 2, 2, 2]), strict=True)


def test_images_are_seen_as_people_see_them(tmp_path):
    """Upright, by EXIF, and what is transparent on white: so one size is one size."""
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8] = 250
    turned = Image.Exif()
    turned[0x0112] = 6
    see_through = np.dstack([upright * 0, 255 - upright[..., 0]])
    for part, name in ((part, name) for part in ("train", "test") for name in "ab"):
        folder = tmp_path / part / name
        folder.mkdir(parents=True)
        Image.fromarray(upright).save(folder / "0.png")
        Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(
            folder / "1.jpg", quality=95, exif=turned
        )
        Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(folder / "2.tif", exif=turned)
        Image.fromarray(see_through).save(folder / "3.png")
    for lazy in (False, True):
        got = load(f"folder:{tmp_path}", lazy=lazy)
        for images in (got.train_images[:], got.test_images):
            assert images.shape == (8, 16, 24, 3)
            difference = abs(images.astype(int) - upright)
            assert difference[:, :6].max() <= 5 and difference[:, 10:].max() <= 5


def test_grey_images_with_alpha_are_grey(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (9, 4, 5, 2), np.uint8)
    got = load(save(tmp_path, grey, ["png"]))
    share = grey[..., 1:] / 255
    expected = grey[..., :1] * share + 255 * (1 - share)
    assert got.test_images.shape == (3, 4, 5, 1)
    assert abs(got.train_images - expected[ORDER]).max() <= 1


def test_links_are_followed_and_what_is_left_out_is_named(tmp_path, caplog):
    save(tmp_path / "own", COLOURS, ["png"])
    (tmp_path / "own/train/bee").rename(tmp_path / "elsewhere")
    (tmp_path / "own/train/bee").symlink_to(tmp_path / "elsewhere")
    for name in ("loose.png", ".DS_Store", "ant/Thumbs.db", "ant/._0.png"):
        (tmp_path / "own/train" / name).touch()
    for name in (".dog", "__MACOSX", "ant/.ipynb_checkpoints"):
        (tmp_path / "own/train" / name).mkdir()
    absl = logging.getLogger("absl")
    absl.addHandler(caplog.handler)
    got = load(f"folder:{tmp_path}/own")
    absl.removeHandler(caplog.handler)
    np.testing.assert_array_equal(got.train_images, COLOURS[ORDER], strict=True)
    (message,) = set(caplog.messages)
    assert "own/train: 2 files or folders" in message and "'.dog'" in message


def test_a_damaged_image_is_named_when_it_is_read(tmp_path):
    name = save(tmp_path, COLOURS, ["png"])
    path = tmp_path / "train/bee/4.png"
    path.write_bytes(path.read_bytes()[:60])  # its header is whole
    lazy = load(name, lazy=True)
    for read in (lambda: load(name), lambda: lazy.train_images[[3]]):
        with pytest.raises(ReadError, match=f"image 3 in {path} cannot be read") as error:
            read()
        assert "\n" not in str(error.value)
