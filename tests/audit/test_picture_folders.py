"""Folders of pictures: what is read, what is left out and named, what is refused."""

import _thread
import json
import os
import socket
import threading
import time

import numpy as np
import pytest
from looped import check_each
from made_up import CLASSES, write_images
from PIL import Image
from stand_in import StandIn

from l2rw_jax.audit import pictures
from l2rw_jax.audit.errors import AuditError
from l2rw_jax.audit.pictures import by_stem, mostly_one_colour, read_images
from l2rw_jax.audit.walk import find_files
from l2rw_jax.data.pictures import read_picture

GREY = np.random.default_rng(0).integers(0, 200, (24, 24)).astype(np.uint8)


def make(root, *names):
    """A picture of each name below the root; what ends in a slash is a folder."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            Image.fromarray(GREY[:8, :8]).save(path, "PNG")
    return root


def test_what_alpha_and_deep_pixels_show_is_read_or_named(tmp_path):
    """A shape in the alpha channel is seen; black and white of deep pixels are not guessed."""
    read = {
        "rgba.png": np.dstack([GREY * 0] * 3 + [GREY]),
        "la.png": np.dstack([GREY * 0, GREY]),
        "white.png": np.dstack([GREY * 0 + 255] * 3 + [GREY * 0 + 255]),
        "grey.png": GREY,
    }
    deep = {
        "float.tif": (GREY / 255).astype(np.float32),
        "int.tif": GREY.astype(np.int32) * 200,
        "12bit.png": GREY.astype(np.uint16) * 16,
        "8bit.png": GREY.astype(np.uint16),
    }
    for kind in "ab":
        (tmp_path / "set" / kind).mkdir(parents=True)
        for name, pixels in (read | deep).items():
            Image.fromarray(pixels).save(tmp_path / "set" / kind / name)
    source = read_images(tmp_path / "set", 24, tmp_path)
    assert list(source.ids) == [f"{kind}/{name}" for kind in "ab" for name in sorted(read)]
    levels = {row_id: len(np.unique(x)) for row_id, x in zip(source.ids, source.X, strict=True)}
    assert levels["a/rgba.png"] == levels["b/la.png"] == len(np.unique(GREY))
    assert sorted(source.unreadable) == sorted(f"{kind}/{name}" for kind in "ab" for name in deep)
    assert all(why.startswith("more than 8 bits") for why in source.unreadable.values())


def test_every_mode_shows_what_people_see(tmp_path):
    """Palettes, CMYK, masks, animations and other formats give the picture, about."""
    colour = np.random.default_rng(1).integers(0, 250, (3, 3, 3)).repeat(8, 0).repeat(8, 1)
    image, grey = Image.fromarray(colour.astype(np.uint8)), Image.fromarray(GREY)
    twice = {"save_all": True, "append_images": [Image.fromarray(255 - colour.astype(np.uint8))]}
    black_and_white = grey.point(lambda v: 255 * (v > 99))
    cases = [
        ("png", image.quantize(16), image, {}),
        ("jpg", image.convert("CMYK"), image, {"quality": 95}),
        ("tif", image.convert("CMYK"), image, {}),
        ("tif", image.convert("YCbCr"), image, {}),
        ("gif", image, image, twice),
        ("png", image, image, twice),
        ("tif", image, image, twice),
        ("bmp", grey, grey.convert("RGB"), {}),
        ("ppm", image, image, {}),
        ("png", black_and_white.convert("1"), black_and_white, {}),
        ("png", grey, grey.point(lambda v: v or 255), {"transparency": 0}),
    ]

    def check(suffix, given, shown, options):
        path = tmp_path / f"a.{suffix}"
        given.save(path, **options)
        away = np.abs(np.asarray(read_picture(path), int) - np.asarray(shown.convert("RGB"), int))
        assert np.mean(away) < 6, np.mean(away)

    check_each(check, cases, name=lambda case: f"{case[0]} {case[1].mode}")


def test_what_is_below_a_folder_is_read_or_named(tmp_path):
    root = make(
        tmp_path / "set",
        *("ant/0.png", "ant/deep/er/1.png", "ant/.git/2.png", "ant/.3.png"),
        *("bee/", ".cat/4.png", "loose.png", "other.png"),
        *("ant/.DS_Store", "ant/._0.png", "__MACOSX/5.png", "ant/.ipynb_checkpoints/6.png"),
        *("ant/Thumbs.db", "desktop.ini"),
    )
    make(tmp_path / "elsewhere", "7.png")
    links = {
        "dog": tmp_path / "elsewhere",
        "wolf": tmp_path / "elsewhere",  # two classes may share a folder
        "ant/8.png": tmp_path / "elsewhere/7.png",
        "ant/all": root,
        "dog2": root,
        "ant/up": "..",
        "ant/itself": ".",
        "ant/again": "deep",
        "ant/machine": "/",
        "ant/lost": "nowhere",
        "ant/loop": "loop",
        "fox": "nowhere",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    found = find_files(root, classes=True)
    assert found.names == [
        *("ant/0.png", "ant/8.png", "ant/deep/er/1.png", "ant/loop", "ant/lost"),
        *("dog/7.png", "wolf/7.png"),
    ]
    read_already = ("ant/all/", "dog2/", "ant/up/", "ant/itself/", "ant/again/", "ant/machine/")
    assert found.left_out == {
        **dict.fromkeys(read_already, "a folder that is read already"),
        **dict.fromkeys(("ant/.git/", "ant/.3.png", ".cat/"), "hidden"),
        **dict.fromkeys(("loose.png", "other.png", "fox"), "in no class folder"),
        "bee/": "an empty folder",
    }
    assert find_files(root).names == sorted([*found.names, "loose.png", "other.png", "fox"])


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    make(tmp_path, "ant/0.png", "bee/1.png")
    listing = os.scandir

    def refuse(path):
        if str(path).endswith("bee"):
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert find_files(tmp_path, classes=True) == (["ant/0.png"], {"bee/": "Permission denied"})


def test_files_that_are_no_pictures_are_told_in_few_lines(tmp_path, audit):
    root = tmp_path / "set"
    write_images(root, {"ant": 10, "bee": 10})
    os.mkfifo(root / "ant/fifo.png")
    (root / "bee/zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "bee/socket.png"))
    for i in range(30):
        (root / f"ant/{i}.txt").write_text("a caption")
    make(root, "0.png", "1.png", ".hidden/0.png", "cat/")
    (root / "dog").mkdir()
    (root / "dog/notes.txt").write_text("no picture")
    Image.new("1", (13000, 13000)).save(root / "bee/large.png")
    status, _, errors = audit(f"--images={root}", "--size=8", f"--output={tmp_path}/out")
    assert status == 0 and len(errors.splitlines()) == 7, errors
    for line in (
        "31 left out (not a picture; restore or remove it): 'ant/0.txt', 'ant/1.txt', 'ant/10.txt' "
        "and 28 more",
        "3 left out (not a regular file; restore or remove it): 'ant/fifo.png', 'bee/socket.png', "
        "'bee/zero.png'",
        "2 left out (in no class folder): '0.png', '1.png'",
        "1 left out (hidden): '.hidden/'",
        "1 left out (an empty folder): 'cat/'",
        "2 left out for other reasons",
    ):
        assert line in errors.splitlines()
    left_out = json.loads((tmp_path / "out/summary.json").read_text())["unreadable"]
    assert len(left_out) == 40
    assert left_out["dog/"] == "a class without pictures"
    assert left_out["bee/large.png"] == "more than 50 million pixels; save it smaller"

    arguments = (f"--predict={tmp_path}/out", f"--images={root}/ant", f"--output={tmp_path}/p.csv")
    status, _, errors = audit(*arguments)
    assert status == 0 and "30 left out (not a picture" in errors
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 11


PARTS = [  # files, and what the message says
    (["train/ant/0.png", "train/bee/0.png", "val/ant/1.png", "val/bee/1.png"], "set/train"),
    (["Train/ant/0.png", "TEST/ant/1.png"], "set/Train"),
    (["training/ant/0.png", "validation/ant/1.png", "test/ant/2.png"], "set/training"),
    (["train/ant/0.png", "valid/ant/1.png", ".git/x.png", "read.me"], "set/train"),
    (["train/ant/0.png", "train/bee/0.png"], "set/train"),
    (["train/ant/0.png", "dev/ant/0.png", "annotations/0.txt"], "set/train"),
    (["train2017/ant/0.png", "val2017/ant/0.png"], "set/train2017"),
    (["train_set/ant/0.png", "test-set/ant/0.png"], "set/train_set"),
    (["val/ant/0.png", "test/bee/0.png"], "set/test"),
    (["seg_train/ant/0.png", "seg_test/ant/1.png"], "set/seg_train"),
    (["images-val/ant/0.png", "images-train/ant/1.png"], "set/images-train"),
    (["train/ant/0.png", "test/ant/1.png", "holdout/ant/1.png"], "set/train"),
    (["fold1/ant/0.png", "fold2/ant/1.png"], "set/fold1"),
    (["fold_0/ant/0.png", "fold_1/ant/1.png"], "set/fold_0"),
    (["train/0.png", "val/1.png"], "make one folder a class"),
    (["photos/ant/0.png", "photos/bee/1.png"], "use --images=set/photos"),
]
CLASS_FOLDERS = [
    ["train/0.png", "bus/0.png"],
    ["train/0.png", "test/1.png", "bus/0.png"],
    ["training/0.png", "racing/1.png"],
    ["testing/a/0.png", "waiting/a/1.png"],
    ["trainer/0.png", "values/1.png"],
    ["freight_train/0.png", "passenger_train/1.png"],
    ["freight train/a/0.png", "bus/a/1.png"],
    ["unfold/a/0.png", "latest/a/1.png"],
    ["ant/train/0.png", "bee/train/0.png"],
]


def test_parts_of_a_data_set_are_no_classes(tmp_path, monkeypatch):
    faults = []
    for i, (names, word) in enumerate(PARTS):
        monkeypatch.chdir(make(tmp_path / f"{i}", *(f"set/{name}" for name in names)))
        try:
            faults.append((names, find_files(type(tmp_path)("set"), classes=True)))
        except AuditError as error:
            if word not in str(error) or "\n" in str(error):
                faults.append((names, str(error)))
        assert find_files(tmp_path / f"{i}/set").names  # whose labels are a table's
    for i, names in enumerate(CLASS_FOLDERS):
        if find_files(make(tmp_path / f"classes{i}", *names), classes=True) != (sorted(names), {}):
            faults.append(names)
    assert not faults


def test_names_that_are_not_utf8_are_refused_before_training(tmp_path, audit, monkeypatch):
    monkeypatch.setattr(StandIn, "fit", lambda *_, **__: pytest.fail("it trained"))
    monkeypatch.chdir(tmp_path)
    strange = [
        (b"ant/caf\xe9.png", r"ant/caf\udce9.png"),
        (b"caf\xe9/0.png", r"caf\udce9/0.png"),
        (b"ant/d\xfff/more/0.png", r"ant/d\udcfff/more/0.png"),
        (b"ant/\xed\xa0\x80.png", r"ant/\udced\udca0\udc80.png"),
        (b"\xff.png", r"\udcff.png"),
        (b"ant/ok/\xe4\xf6\xfc.txt", r"ant/ok/\udce4\udcf6\udcfc.txt"),
        (b".caf\xe9/0.png", r".caf\udce9/"),
    ]
    np.save("x.npy", np.zeros((6, 2)))
    (tmp_path / "l.csv").write_text("id,label\n" + "".join(f"{i},{i % 2}\n" for i in range(6)))
    faults = []
    for i, (name, told) in enumerate(strange):
        root = tmp_path / f"{i}"
        write_images(root, {"ant": 3, "bee": 3})
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write((root / "ant/ant0.png").read_bytes())
        table = ("--features=x.npy", "--labels=l.csv", "--id_column=id")
        for more in ((), ("--labels=l.csv", "--id_column=id"), table):
            status, out, errors = audit(f"--images={i}", *more, "--output=o")
            line = f"error: --images={i}: holds '{told}', whose name is not UTF-8: rename it\n"
            if (status, out, errors, os.path.exists("o")) != (1, "", line, False):
                faults.append((name, more, status, out, errors))
    for flag in ("--images", "--features", "--labels", "--trusted", "--output", "--predict"):
        status, _, errors = audit(f"{flag}=caf\udce9", "--output=o")
        if status != 1 or ("not UTF-8" not in errors and flag != "--output"):
            faults.append((flag, status, errors))
    assert not faults


def test_an_interrupt_ends_the_reading(tmp_path, audit, monkeypatch):
    for i in range(500):
        path = tmp_path / f"set/{CLASSES[i % 3]}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    calls, lock = [], threading.Lock()

    def slow(path, side, *, stretch):
        with lock:
            calls.append(path)
            if len(calls) == 5:
                _thread.interrupt_main()
        time.sleep(0.01)
        return Image.new("RGB", (side, side))

    monkeypatch.setattr(pictures, "read_picture", slow)
    status, _, errors = audit(f"--images={tmp_path}/set", f"--output={tmp_path}/o")
    assert status == 130 and "interrupted" in errors and len(errors.splitlines()) == 1
    assert len(calls) < 100 and not (tmp_path / "o").exists()


def test_a_set_of_one_colour_is_doubted(tmp_path, audit):
    flat = np.full((9, 4, 4, 3), 7, np.uint8)
    flat[:, 1, 1] += 2
    varied = flat.copy()
    varied[:5, 0, 0, 2] += 3
    assert mostly_one_colour(flat) and not mostly_one_colour(varied)
    for name, colour in (("ant", "red"), ("bee", "blue")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(9):
            Image.new("RGB", (8, 8), colour).save(tmp_path / f"set/{name}/{i}.png")
    status, _, errors = audit(f"--images={tmp_path}/set", "--size=8", f"--output={tmp_path}/o")
    assert status == 0 and "most pictures are one colour" in errors


def test_a_stem_of_two_files_names_no_picture(tmp_path):
    root = make(tmp_path, "a/r0.png", "b/r0.png", "b/r1.png", "r2.v2.png")
    (root / "r3.png").write_text("no picture")
    picture = by_stem(root)
    shown = {name for name in ("r0", "a/r0.png", "r1", "r2.v2", "r3", "r4") if picture(name)}
    assert shown == {"a/r0.png", "r1", "r2.v2"}


def test_a_picture_that_is_gone_is_not_shown(tmp_path):
    write_images(tmp_path / "set", {"ant": 2, "bee": 2})
    source = read_images(tmp_path / "set", 8, tmp_path)
    os.remove(tmp_path / "set/ant/ant0.png")
    assert source.picture("ant/ant0.png") is None and source.picture("ant/ant1.png") is not None
