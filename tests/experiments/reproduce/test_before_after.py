"""README's picture shows what its JSON holds, with the answer as its title."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import run_program

from experiments.reproduce import before_after

RESULTS = Path(__file__).parents[3] / "results/human-trusted-cpu.json"


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
    assert mean == pytest.approx(1) and half_width == pytest.approx(
        0
    )  # the seeds' own level is out


def test_the_picture_is_drawn_from_the_report_alone(tmp_path):
    report = tmp_path / "report.json"
    summary = json.loads(RESULTS.read_text())["summary"]
    report.write_text(json.dumps({"summary": summary}))
    arguments = [f"--input={report}", f"--picture={tmp_path}/a.png"]
    done = run_program("reproduce.before_after", arguments, required=())
    assert done.status == 0, done.errors
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 800


@pytest.mark.parametrize("content", [None, "{", "[]", '{"summary": []}'])
def test_an_input_that_is_no_report_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    arguments = [f"--input={tmp_path}/report.json", f"--picture={tmp_path}/a.png"]
    done = run_program("reproduce.before_after", arguments, required=())
    assert done.status == 2 and done.errors.count("\n") == 1 and "--input=" in done.errors
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("before", [[70.0], [70.0, 71.0, 72.0]])
def test_seeds_that_give_no_paired_interval_are_one_line(tmp_path, before):
    after = before[:2]
    summary = [
        {"row": row, "column": name, "last": {"values": values}}
        for name in before_after.ROWS
        for row, values in (
            ("clean only", after),
            ("baseline + clean", before),
            ("evidence", after),
        )
    ]
    (tmp_path / "report.json").write_text(json.dumps({"summary": summary}))
    arguments = [f"--input={tmp_path}/report.json", f"--picture={tmp_path}/a.png"]
    done = run_program("reproduce.before_after", arguments, required=())
    assert done.status == 2 and done.errors.count("\n") == 1
    assert "all rows need the same seeds, two or more" in done.errors


@pytest.mark.parametrize("name", ["nowhere/a.png", "a.no_format"])
def test_a_picture_that_cannot_be_written_is_one_line(tmp_path, name):
    arguments = [f"--input={RESULTS}", f"--picture={tmp_path}/{name}"]
    done = run_program("reproduce.before_after", arguments, required=())
    assert done.status == 2 and done.errors.count("\n") == 1
    assert f"--picture={tmp_path}/{name}: " in done.errors


def test_a_picture_of_someone_else_is_not_written_over(tmp_path):
    (tmp_path / "a.png").write_text("mine")
    arguments = [f"--input={RESULTS}", f"--picture={tmp_path}/a.png"]
    done = run_program("reproduce.before_after", arguments, required=())
    assert done.status == 2 and "a.png: exists; give a new file's name" in done.errors
    assert (tmp_path / "a.png").read_text() == "mine"


def test_the_data_of_people_s_labels_replace_only_themselves(tmp_path):
    pytest.importorskip("pandas")
    for part in ("train", "test"):
        np.save(tmp_path / f"embeddings_{part}.npy", np.zeros((2, 3), np.float32))
        (tmp_path / f"labels_{part}.csv").write_text("human_label,true_label\na,a\na,b\n")
    (tmp_path / "mine.npz").write_text("mine")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    found = []
    for name in ("mine", "other", "new", "new"):
        arguments = [f"--source={tmp_path}", f"--output={tmp_path}/{name}.npz"]
        found.append(run_program("reproduce.human", arguments, required=()))
    assert [done.status for done in found] == [2, 2, 0, 0]
    assert all("exists and holds something else" in done.errors for done in found[:2])
    assert (tmp_path / "mine.npz").read_text() == "mine"
    with np.load(tmp_path / "new.npz") as arrays:
        assert arrays["given_labels"].tolist() == [0, 0] and arrays["train_labels"].tolist() == [
            0,
            1,
        ]
