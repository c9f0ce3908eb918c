"""README's picture shows what its JSON holds, with the answer as its title."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.reproduce import before_after

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "results/human-trusted-cpu.json"


def _points(people, made):
    """Two seeds each; everything but people's labels gains what ``made`` says."""
    gains = dict.fromkeys(before_after.ROWS, made) | {"human, 1000 clean": people}
    alone, before = [60.0, 60.0], [70.0, 72.0]
    return {name: (alone, before, [x + gain for x in before]) for name, gain in gains.items()}


def test_the_title_says_what_is_gained():
    title = before_after.title(_points(1.26, 7.6)).replace("\n", " ")
    assert title == "Reweighting adds 1.3 points on labels by people, and up to 8 on made noise"
    lost = before_after.title(_points(-0.5, 7.6)).replace("\n", " ")
    assert lost.startswith("Reweighting takes 0.5 points on labels by people")


def test_gains_are_paired_by_seeds():
    mean, half_width = before_after.gain([70.0, 80.0], [71.0, 81.0])
    assert (mean, half_width) == (pytest.approx(1), pytest.approx(0))  # the seeds' level is out
    with pytest.raises(ValueError, match="shapes"):
        before_after.gain([70.0, 80.0], [71.0, 81.0, 91.0])


def test_the_picture_is_drawn_from_the_report(tmp_path):
    points = before_after.points(json.loads(RESULTS.read_text()))
    alone, before, after = points["human, 1000 clean"]
    assert len(alone) == len(before) == len(after) == 5
    assert max(alone) < min(before) < max(after)
    before_after.draw(points, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 800


@pytest.mark.slow
def test_the_data_of_human_labels_replace_only_themselves(tmp_path):
    """In processes of their own: the program's flags are also those of another."""
    pytest.importorskip("pandas")
    for part in ("train", "test"):
        np.save(tmp_path / f"embeddings_{part}.npy", np.zeros((2, 3), np.float32))
        (tmp_path / f"labels_{part}.csv").write_text("human_label,true_label\na,a\na,b\n")
    (tmp_path / "mine.npz").write_text("mine")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    found = []
    for name in ("mine", "other", "new", "new"):
        command = [sys.executable, "-m", "experiments.reproduce.human", f"--source={tmp_path}"]
        command.append(f"--output={tmp_path}/{name}.npz")
        found.append(subprocess.run(command, capture_output=True, text=True, cwd=ROOT))
    assert [done.returncode for done in found] == [2, 2, 0, 0]
    assert all("exists and holds something else" in done.stderr for done in found[:2])
    assert (tmp_path / "mine.npz").read_text() == "mine"
    with np.load(tmp_path / "new.npz") as arrays:
        assert arrays["given_labels"].tolist() == [0, 0] and arrays["train_labels"].tolist() == [
            0,
            1,
        ]
