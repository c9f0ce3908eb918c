"""The comparison of label audits: its figures, its files, one line for a mistake."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
from programs import run_program

pytest.importorskip("cleanlab", reason="the extra `benchmark` is not installed")

from experiments.benchmark import label_audit

PROGRAM = "benchmark.label_audit"


def _run(*arguments):
    return run_program(PROGRAM, arguments, required=())


def test_figures_count_the_rows_that_are_not_trusted():
    none, true = np.zeros((6, 1)), np.zeros(6, int)
    given = np.array([1, 1, 0, 0, 0, 1])  # of the first five rows, two are wrong
    trusted = np.arange(6) == 5
    task = label_audit.Task(none, given, given, true, trusted, none, np.array([0, 0, 1, 1, 1, 1]))
    score = np.array([0.1, 0.7, 0.3, 0.8, 0.9, 1.0])  # a right label is more suspicious than one
    flagged = np.array([True, False, True, True, False, False])
    model = SimpleNamespace(predict=lambda features: np.zeros(len(features)))
    (row,) = label_audit.figures(task, label_audit.Found({"a": score}, flagged, model), 2.0)
    assert row == {
        "audit": "a",
        "AUROC": pytest.approx(5 / 6),
        "average precision": pytest.approx((1 + 2 / 3) / 2),
        "F1": 1 / 2,
        "precision": pytest.approx(1 / 3),
        "recall": 1 / 2,
        "test accuracy": pytest.approx(1 / 3),
        "seconds": 2.0,
    }


def test_trusted_rows_have_their_true_labels():
    task = label_audit.draw(label_audit.data.load("digits"), 50, 0)
    assert task.trusted.sum() == 50
    assert (task.given != task.true).mean() == pytest.approx(0.4, abs=1e-3)
    np.testing.assert_array_equal(
        task.labels == task.true, task.trusted | (task.given == task.true)
    )


ALL = label_audit.AUDITS


@pytest.mark.parametrize(
    ("audits", "names"),
    [((ALL[1], ALL[4]), 3), pytest.param(ALL, 6, marks=pytest.mark.slow)],
    ids=["quick", "all"],
)
def test_audits_find_wrong_digits(audits, names, tmp_path, monkeypatch):
    pytest.importorskip("cleanlab")
    monkeypatch.setattr(label_audit, "AUDITS", audits)
    output = tmp_path / "audit"
    done = _run("--trusted=50", "--seeds=1", "--steps=100", "--note=a note", f"--output={output}")
    assert done.status == 0, done.errors
    content = json.loads(output.with_suffix(".json").read_text())
    assert content["note"] == "a note" and content["versions"]["cleanlab"]
    assert len({row["audit"] for row in content["rows"]}) == len(content["rows"]) == names
    for row in content["rows"]:
        assert row["AUROC"] > 0.9 and row["test accuracy"] > 0.75, row
        assert f"| {row['audit']} | {row['AUROC']:.3f} |" in done.out
    assert output.with_suffix(".md").read_text().strip() == done.out.strip()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--trusted=1000"], "--trusted: got 1000; takes at most 718, half of the rows"),
        (["--data=npz:none.npz"], "--data=npz:none.npz: none.npz cannot be read"),
    ],
)
def test_a_mistake_is_one_line(arguments, text):
    pytest.importorskip("cleanlab")
    done = _run(*arguments)
    assert done.status == 2 and done.out == ""
    assert done.errors.count("\n") == 1 and text in done.errors


def test_too_few_wrong_labels_are_one_line(tmp_path):
    pytest.importorskip("cleanlab")
    labels = np.arange(20) % 2
    parts = {"train_features": np.ones((20, 3), np.float32), "train_labels": labels}
    parts |= {"test_features": np.ones((20, 3), np.float32), "test_labels": labels}
    np.savez(tmp_path / "a.npz", given_labels=labels, **parts)
    done = _run(f"--data=npz:{tmp_path}/a.npz", "--trusted=2")
    assert done.status == 2 and "more given_labels must be wrong than --trusted" in done.errors


def test_without_cleanlab_the_extra_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "cleanlab" else find(name)
    )
    done = _run("--trusted=50")
    assert done.status == 2 and done.out == ""
    assert done.errors.startswith("error: cleanlab: not installed; takes the extra 'benchmark'")
    assert done.errors.count("\n") == 1
