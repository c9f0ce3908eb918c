"""Picture files as people see them, or named."""

import os
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from l2rw_jax.data import pictures
from l2rw_jax.data.pictures import PictureError, read_form, read_picture

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 9), np.uint8)
COLOURS = RNG.integers(0, 256, (6, 9, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (6, 9), np.uint8)


def on_white(colours, alpha):
    """The closed form: a share of the colour, the rest white."""
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


def rgb(grey):
    return np.repeat(grey[..., None], 3, -1)


def palette(transparent=None):
    """A picture of three colours by a palette, and what it shows."""
    image = Image.fromarray(GREY % 3, "P")
    colours = np.uint8([[200, 10, 10], [10, 200, 10], [10, 10, 200]])
    image.putpalette(colours.ravel().tolist())
    shown = colours[GREY % 3]
    if transparent is not None:
        image.info["transparency"] = transparent
        alphas = np.uint8(list(transparent) if isinstance(transparent, bytes) else [255] * 3)
        if not isinstance(transparent, bytes):
            alphas[transparent] = 0
        shown = on_white(shown, alphas[GREY % 3])
    return image, shown


def keyed():
    """Grey pixels of which one level is transparent."""
    image = Image.fromarray(GREY)
    image.info["transparency"] = int(GREY[0, 0])
    return image, np.where(rgb(GREY[0, 0] == GREY), 255, rgb(GREY))


SHOWN = {
    "grey.png": (Image.fromarray(GREY), rgb(GREY)),
    "grey.tif": (Image.fromarray(GREY), rgb(GREY)),
    "bits.png": (Image.fromarray(GREY > 99), rgb((GREY > 99) * 255)),
    "bits.tif": (Image.fromarray(GREY > 99), rgb((GREY > 99) * 255)),
    "colours.bmp": (Image.fromarray(COLOURS), COLOURS),
    "alpha.png": (Image.fromarray(np.dstack([COLOURS, ALPHA])), on_white(COLOURS, ALPHA)),
    "alpha.tif": (Image.fromarray(np.dstack([COLOURS, ALPHA])), on_white(COLOURS, ALPHA)),
    "alpha.tga": (Image.fromarray(np.dstack([COLOURS, ALPHA])), on_white(COLOURS, ALPHA)),
    "grey-alpha.png": (Image.fromarray(np.dstack([GREY, ALPHA])), on_white(rgb(GREY), ALPHA)),
    "shape-in-alpha.png": (
        Image.fromarray(np.dstack([COLOURS * 0, ALPHA])),
        on_white(COLOURS * 0, ALPHA),
    ),
    "palette.png": palette(),
    "palette.gif": palette(),
    "palette-key.png": palette(1),
    "palette-key.gif": palette(2),
    "palette-alpha.png": palette(bytes([0, 128, 255])),
    "key.png": keyed(),
    "cmyk.tif": (Image.fromarray(255 - COLOURS).convert("CMYK"), 255 - COLOURS),
}


def test_each_kind_of_picture_is_read_as_it_is_seen(tmp_path):
    faults = []
    for name, (image, shown) in SHOWN.items():
        path = tmp_path / name
        image.save(path)
        got = np.asarray(read_picture(path), float)
        small = np.asarray(read_picture(path, 3, stretch=True), float)
        if got.shape != (6, 9, 3) or abs(got - shown).max() > 1:
            faults.append((name, got.shape, abs(got - shown).max()))
        if small.shape != (3, 3, 3) or abs(small.mean((0, 1)) - shown.mean((0, 1))).max() > 12:
            faults.append((name, "small", small.mean((0, 1)), shown.mean((0, 1))))
        if read_form(path) != ((9, 6), name.startswith(("grey", "bits", "key"))):
            faults.append((name, read_form(path)))
    assert not faults


def test_an_animation_shows_its_first_frame(tmp_path):
    frames = [Image.fromarray(np.full((6, 9), level, np.uint8)) for level in (10, 200)]
    for name in ("a.gif", "a.png", "a.tif", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=9)
        assert abs(np.asarray(read_picture(tmp_path / name), int) - 10).max() <= 1, name


def test_all_orientations_are_turned_upright(tmp_path):
    upright = np.kron(RNG.integers(0, 2, (3, 2, 3)) * 200, np.ones((16, 16, 1))).astype(np.uint8)
    turned = {  # how the pixels lie in the file: EXIF's eight orientations
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }
    faults = []
    for suffix in ("jpg", "png", "tif", "webp"):
        for orientation, pixels in turned.items():
            path, exif = tmp_path / f"{orientation}.{suffix}", Image.Exif()
            exif[0x0112] = orientation
            options = {"lossless": True} if suffix == "webp" else {}
            if suffix == "jpg":
                options = {"quality": 100, "subsampling": 0}
            Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif, **options)
            got = np.asarray(read_picture(path), int)
            small = np.asarray(read_picture(path, 6, stretch=True), int)
            expected = np.asarray(Image.fromarray(upright).resize((6, 6)), int)
            if read_form(path)[0] != (32, 48) or got.shape != upright.shape:
                faults.append((path.name, read_form(path), got.shape))
            elif abs(got - upright).max() > 40 or abs(small - expected).max() > 40:
                faults.append((path.name, abs(got - upright).max(), abs(small - expected).max()))
    assert not faults


def test_damaged_metadata_leaves_the_picture_as_it_is(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=b"Exif\0\0no tags at all")
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "a.png")), COLOURS)
    assert read_form(tmp_path / "a.png")[0] == (9, 6)


def deep_png(colour_type, channels):
    """A PNG of 16 bits a channel, which Pillow does not write in colour."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + RNG.bytes(2 * 9 * channels) for _ in range(6))
    header = struct.pack(">IIBBBBB", 9, 6, 16, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(image, **options):
    return lambda path: image.save(path, **options)


def content(data):
    return lambda path: path.write_bytes(data)


def cut(path):
    Image.fromarray(RNG.integers(0, 256, (60, 90, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-500])


LEVELS = GREY.astype(np.uint16)
NAN = np.where(GREY > 99, np.nan, 1).astype(np.float32)
NAMED = {
    "floats.tif": (saved(Image.fromarray((GREY / 255).astype(np.float32))), "more than 8 bits"),
    "nan.tif": (saved(Image.fromarray(NAN)), "more than 8 bits"),
    "32 bits.tif": (saved(Image.fromarray(GREY.astype(np.int32) * 200)), "more than 8 bits"),
    "below zero.tif": (saved(Image.fromarray(GREY.astype(np.int32) - 99)), "more than 8 bits"),
    "16 bits.png": (saved(Image.fromarray(LEVELS * 256)), "more than 8 bits"),
    "12 bits.png": (saved(Image.fromarray(LEVELS * 16)), "more than 8 bits"),
    "8 of 16 bits.png": (saved(Image.fromarray(LEVELS)), "more than 8 bits"),
    "16 bits.tif": (saved(Image.fromarray(LEVELS)), "more than 8 bits"),
    "16 bits packed.tif": (saved(Image.fromarray(LEVELS), compression="tiff_lzw"), "more than 8"),
    "big-endian.tif": (saved(Image.fromarray(LEVELS.astype(">u2"))), "more than 8 bits"),
    "16 bits.pgm": (saved(Image.fromarray(LEVELS)), "more than 8 bits"),
    "16 bits.jp2": (saved(Image.fromarray(LEVELS)), "more than 8 bits"),
    "grey-16.png": (content(deep_png(0, 1)), "more than 8 bits"),
    "rgb-16.png": (content(deep_png(2, 3)), "more than 8 bits"),
    "grey-alpha-16.png": (content(deep_png(4, 2)), "more than 8 bits"),
    "rgba-16.png": (content(deep_png(6, 4)), "more than 8 bits"),
    "large.png": (saved(Image.new("1", (13000, 13000))), "more than 50 million pixels"),
    "larger.png": (saved(Image.new("1", (16000, 16000))), "more than 50 million pixels"),
    "wide.gif": (saved(Image.new("1", (60000, 1000))), "more than 50 million pixels"),
    "text.png": (content(b"no picture"), "not a picture"),
    "nothing.jpg": (content(b""), "not a picture"),
    "table.csv": (content(b"id,label\n1,2\n"), "not a picture"),
    "cut.png": (cut, "damaged: "),
    "program.eps": (saved(Image.fromarray(COLOURS)), "a program"),
    "fifo.png": (os.mkfifo, "not a regular file"),
    "device.png": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "folder.png": (os.mkdir, "not a regular file"),
    "gone.png": (lambda path: None, "No such file"),
    "nowhere.png": (lambda path: path.symlink_to("elsewhere"), "No such file"),
    "loop.png": (lambda path: path.symlink_to(path), "Too many levels"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_not_shown_faithfully_is_named(tmp_path):
    faults = []
    for name, (make, word) in NAMED.items():
        make(tmp_path / name)
        for side in (None, 8):
            try:
                faults.append((name, np.asarray(read_picture(tmp_path / name, side)).shape))
            except PictureError as error:
                if word not in str(error) or "\n" in str(error) or str(tmp_path) in str(error):
                    faults.append((name, str(error)))
    assert not faults


def test_large_pictures_wait_for_each_other(tmp_path, monkeypatch):
    """As many are decoded at once as have the allowed number of pixels together."""
    monkeypatch.setattr(pictures, "_room", pictures._Room(100))
    inside, most, lock = [], [], threading.Lock()

    def take(pixels):
        with pictures._room.taken(pixels):
            with lock:
                inside.append(pixels)
                most.append(sum(inside))
            started.wait(0.005)
            with lock:
                inside.remove(pixels)

    started = threading.Event()
    sizes = [100, 10, 60, 50, 40, 1] * 5
    threads = [threading.Thread(target=take, args=(pixels,)) for pixels in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(most) == len(sizes) and max(most) <= 100


def test_a_large_jpeg_is_decoded_small(tmp_path):
    Image.new("L", (8000, 8000), 77).save(tmp_path / "a.jpg")  # 64 million pixels
    assert np.asarray(read_picture(tmp_path / "a.jpg", 32, stretch=True)).mean() == pytest.approx(
        77
    )
    with pytest.raises(PictureError, match="million pixels"):  # all of it would be decoded
        read_picture(tmp_path / "a.jpg")
    Image.new("L", (8000, 8000), 77).save(tmp_path / "b.jpg", progressive=True)
    with pytest.raises(PictureError, match="million pixels"):
        read_picture(tmp_path / "b.jpg", 32, stretch=True)
