"""Made-up rows, labels and images."""

import numpy as np
from PIL import Image

CLASSES = np.array(["ant", "bee", "cat"])


def blobs(n=300, noise=0.2, seed=0, spread=1.0, classes=3, d=5):
    """Features [n, d], true labels and given labels, of which a share is wrong."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, n)
    centres = 3 * np.eye(classes, d)
    X = (centres[true] + spread * rng.normal(size=(n, d))).astype(np.float32)
    wrong = rng.random(n) < noise
    given = np.where(wrong, (true + rng.integers(1, classes, n)) % classes, true)
    return X, true, given


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
