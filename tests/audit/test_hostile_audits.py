"""--predict with the folder of an audit from elsewhere: right labels, or one line; no hang."""

import json
import os
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
from made_up import CLASSES, blobs, write_images
from untrained import untrained

from l2rw_jax.audit.features import Recipe


@pytest.fixture
def stand_in():
    """None here: the classifier is the one that people use."""


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    """What --predict reads of two audits, of a table and of pictures, and rows of both kinds."""
    root = tmp_path_factory.mktemp("audits")
    X, _, given = blobs(60, d=4)
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    frame.to_csv(root / "x.csv", index=False)
    write_images(root / "photos", {"ant": 10, "bee": 10})
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), np.uint8)
    facts = {"program": "l2rw-audit", "image_size": None, "feature_columns": None}
    for name, rows, fact in (
        ("table", X, Recipe(list("abcd"), dict.fromkeys("abcd", 0.0), [], {}).facts()),
        ("pictures", images, {"image_size": 4}),
    ):
        (root / name).mkdir()
        (root / name / "summary.json").write_text(json.dumps(facts | fact))
        untrained(rows, CLASSES[given], model="mlp-4", networks=1).save(root / name / "model")
    return root


@pytest.fixture
def audited(audits, monkeypatch):
    monkeypatch.chdir(audits)
    signal.alarm(60)
    yield
    signal.alarm(0)


def summary(folder, **values):
    path = folder / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def replace(name, make):
    def change(folder):
        (folder / name).unlink()
        make(folder / name)

    return change


def sparse(path):
    with path.open("wb") as file:
        file.truncate(2**40)


def arrays(folder, **changed):
    with np.load(folder / "model/model.npz") as file:
        arrays = dict(file)
    for name, change in changed.items():
        name = name.replace("__", "/")
        arrays[name] = change(arrays[name])
    np.savez(folder / "model/model.npz", **arrays)


BAD = {  # what is changed, and a word of the message
    "no summary": (lambda f: (f / "summary.json").unlink(), "holds no audit"),
    "summary a FIFO": (replace("summary.json", os.mkfifo), "holds no audit"),
    "summary a folder": (replace("summary.json", os.mkdir), "holds no audit"),
    "summary endless": (replace("summary.json", lambda p: p.symlink_to("/dev/zero")), "no audit"),
    "summary huge": (replace("summary.json", sparse), "holds no audit"),
    "summary empty": (replace("summary.json", lambda p: p.touch()), "holds no audit"),
    "summary a list": (replace("summary.json", lambda p: p.write_text("[]")), "holds no audit"),
    "summary deep": (replace("summary.json", lambda p: p.write_text("[" * 10**5)), "no audit"),
    "another program": (lambda f: summary(f, program="rm"), "holds no audit"),
    "size text": (lambda f: summary(f, image_size="4"), "summary.json is damaged"),
    "size true": (lambda f: summary(f, image_size=True), "summary.json is damaged"),
    "size float": (lambda f: summary(f, image_size=4.0), "summary.json is damaged"),
    "size enormous": (lambda f: summary(f, image_size=10**9), "summary.json is damaged"),
    "size below zero": (lambda f: summary(f, image_size=-4), "summary.json is damaged"),
    "size zero": (lambda f: summary(f, image_size=0), "summary.json is damaged"),
    "columns text": (lambda f: summary(f, feature_columns="abcd"), "summary.json is damaged"),
    "columns numbers": (lambda f: summary(f, feature_columns=[0, 1, 2, 3]), "is damaged"),
    "columns few": (lambda f: summary(f, feature_columns=["a"], image_size=None), ""),
    "columns object": (lambda f: summary(f, feature_columns={"a": 1}), "is damaged"),
    "no model": (lambda f: shutil.rmtree(f / "model"), "holds no classifier"),
    "model a FIFO": (replace("model/model.npz", os.mkfifo), "not a regular file"),
    "config a FIFO": (replace("model/config.json", os.mkfifo), "not a regular file"),
    "NaN": (lambda f: arrays(f, params__output__bias=lambda a: a * np.nan), "NaN or infinity"),
    "complex": (lambda f: arrays(f, params__output__bias=lambda a: a + 1j), "complex64"),
    "no networks": (lambda f: arrays(f, params__hidden_0__bias=lambda a: a[:0]), "no networks"),
    "beyond floats": (
        lambda f: arrays(
            f,
            params__hidden_0__kernel=lambda a: a * 0,
            params__hidden_0__bias=lambda a: np.full_like(a, 3e38),
            params__output__kernel=lambda a: np.full_like(a, 3e38),
        ),
        "the networks give no probabilities",
    ),
}


def test_each_ends_in_one_line(tmp_path, audited, audit):
    faults = []
    for kind, rows in (("table", "--features=x.csv"), ("pictures", "--images=photos")):
        right = audit(f"--predict={kind}", rows, f"--output={kind}.csv")
        assert right[0] == 0, right
        for name, (change, word) in BAD.items():
            folder = tmp_path / f"{kind} {name}"
            shutil.copytree(kind, folder)
            change(folder)
            status, out, errors = audit(f"--predict={folder}", rows, "--output=p.csv")
            one_line = errors.startswith("error: ") and errors.count("\n") == 1
            if status != 1 or out or not one_line or word not in errors or os.path.exists("p.csv"):
                faults.append((kind, name, status, out, errors))
    assert not faults


def test_sizes_that_do_not_fit_the_model(tmp_path, audited, audit):
    faults = []
    for kind, values, rows in (
        ("table", {"image_size": 4}, "--images=photos"),
        ("table", {"image_size": 5}, "--images=photos"),
        ("table", {"image_size": None}, "--images=photos"),
        ("pictures", {"image_size": 8}, "--images=photos"),
        ("pictures", {"image_size": 4}, "--features=x.csv"),
        ("pictures", {"feature_columns": ["a", "b", "c", "d"]}, "--features=x.csv"),
    ):
        folder = tmp_path / f"{kind}{len(os.listdir(tmp_path))}"
        shutil.copytree(kind, folder)
        summary(folder, **{"image_size": None, "feature_columns": None} | values)
        status, out, errors = audit(f"--predict={folder}", rows, "--output=p.csv")
        if status != 1 or errors.count("\n") != 1 or out or os.path.exists("p.csv"):
            faults.append((kind, values, rows, status, out, errors))
    assert not faults
