"""Files to audit, and a command that trains the stand-in."""

import sys
import types

import numpy as np
import pytest

pytest.importorskip("pandas", reason="the audit takes pandas")

from PIL import Image
from stand_in import StandIn

CLASSES = np.array(["ant", "bee", "cat"])


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """Puts the stand-in where the command looks for the classifier."""
    module = types.ModuleType("l2rw_jax.classifier")
    module.ReweightClassifier = StandIn
    monkeypatch.setitem(sys.modules, "l2rw_jax.classifier", module)


@pytest.fixture
def audit(capsys):
    """Runs the command in this process; returns its status, its output and its errors."""
    from l2rw_jax.audit.command import main

    def run(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


def blobs(n=300, noise=0.2, seed=0, spread=1.0, classes=3, d=5):
    """Features [n, d], true labels and given labels, of which a share is wrong."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, n)
    centres = 3 * np.eye(classes, d)
    X = (centres[true] + spread * rng.normal(size=(n, d))).astype(np.float32)
    wrong = rng.random(n) < noise
    given = np.where(wrong, (true + rng.integers(1, classes, n)) % classes, true)
    return X, true, given


@pytest.fixture
def features(tmp_path):
    """x.npy and labels.csv of 300 rows, and what is true; rows are named r0, r1, ..."""
    X, true, given = blobs()
    np.save(tmp_path / "x.npy", X)
    write_labels(tmp_path / "labels.csv", CLASSES[given])
    return X, CLASSES[true], CLASSES[given]


def write_labels(path, labels, ids=None):
    ids = [f"r{i}" for i in range(len(labels))] if ids is None else ids
    lines = ["id,label", *(f"{i},{label}" for i, label in zip(ids, labels, strict=True))]
    path.write_text("\n".join(lines) + "\n")


def write_images(folder, counts, size=(20, 16)):
    """One folder a class, whose pictures have the class's colour."""
    rng = np.random.default_rng(0)
    colours = {"ant": (200, 40, 40), "bee": (40, 200, 40), "cat": (40, 40, 200)}
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.clip(colours[name] + rng.normal(0, 30, (*size, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{name}{i}.png")
