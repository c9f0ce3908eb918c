"""The comparison of label audits: its metrics, its files, one line for a mistake."""

import importlib.util
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmark import audits, second_audit
from l2rw_jax import data

ROOT = Path(__file__).parents[3]


def _run(*arguments):
    """The program in a process of its own: its flags are those of other programs, too."""
    return subprocess.run(
        [sys.executable, "-m", "experiments.benchmark.label_audit", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def _task():
    none, true = np.zeros((6, 1)), np.zeros(6, int)
    given = np.array([1, 1, 0, 0, 0, 1])  # of the first five rows, two are wrong
    trusted = np.arange(6) == 5
    return audits.Task(none, given, given, true, trusted, none, np.array([0, 0, 1, 1, 1, 1]))


SCORE = np.array([0.1, 0.7, 0.3, 0.8, 0.9, 1.0])  # a right label is more suspicious than a wrong


def test_metrics_count_the_rows_that_are_not_trusted():
    flagged = np.array([True, False, True, True, False, False])
    found = audits.Found({"a": SCORE}, flagged, np.zeros(6, int), 2.0, 0.5)
    (row,) = audits.rows(_task(), found, 0.75)
    assert row == {
        "audit": "a",
        "AUROC": pytest.approx(5 / 6),
        "average precision": pytest.approx((1 + 2 / 3) / 2),
        "F1": 1 / 2,
        "precision": pytest.approx(1 / 3),
        "recall": 1 / 2,
        "test accuracy": pytest.approx(1 / 3),
        "pruned accuracy": 0.75,
        "seconds": 2.0,
        "GB": 0.5,
    }


def test_the_table_has_means_and_says_where_a_metric_is_missing():
    (row,) = audits.rows(_task(), audits.Found({"a": SCORE}, SCORE < 0.5, np.zeros(6)), None)
    other = row | {"AUROC": row["AUROC"] + 0.1}
    assert "| a | 0.883 ± 0.635 |" in audits.table([row, other])
    assert "| – |" in audits.table([row])


def test_the_figure_is_drawn(tmp_path):
    (row,) = audits.rows(_task(), audits.Found({"a": SCORE}, SCORE < 0.5, np.zeros(6)), None)
    rows = [row | {"audit": name} for name in ("ours, trusted rows", "cleanlab", "cleanlab")]
    audits.plot(rows, str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_trusted_rows_have_their_true_labels():
    task = audits.draw(data.load("digits"), 50, 0)
    assert task.trusted.sum() == 50
    assert (task.given != task.true).mean() == pytest.approx(0.4, abs=1e-3)
    np.testing.assert_array_equal(
        task.labels == task.true, task.trusted | (task.given == task.true)
    )


def test_what_was_checked_counts_in_all_rows_alone():
    task = _task()
    before = second_audit.Round(3, task, True)
    found = audits.Found({"b": SCORE}, SCORE < 0, np.zeros(6, int))
    known, unknown = (second_audit.row(before, "b", found, known=k) for k in (True, False))
    assert known["AUROC"] == unknown["AUROC"] == pytest.approx(5 / 6)
    # Of 9 pairs of a wrong row and a right one: the last row is wrong, and its score is high.
    assert unknown["AUROC, all rows"] == pytest.approx(5 / 9)
    assert known["AUROC, all rows"] == pytest.approx(8 / 9)


def test_gains_are_paired_by_seed():
    names = second_audit.FIRST, second_audit.CHECKED
    rows = [
        {"seed": seed, "audit": name}
        | dict.fromkeys(second_audit.COLUMNS, 0.5 + 0.1 * seed + gain * (name == names[1]))
        for seed, gain in ((1, 0.01), (0, 0.03))
        for name in names
    ]
    gains = {(name, column): x for name, column, x in second_audit.differences(rows)}
    assert gains[names[1], "AUROC"] == pytest.approx([0.01, 0.03])
    assert gains[second_audit.UNCHECKED, "AUROC"] == []
    assert "| +0.0200 ± 0.1271 |" in second_audit.table(rows)


def test_each_audit_after_the_check_gets_what_was_checked(monkeypatch):
    fits = []

    def fit(self, X, y, trusted=None):  # nothing is trained
        fits.append(trusted)
        self.classes_, self.weights_ = np.unique(y), np.ones(len(y))
        self.label_quality_ = np.random.default_rng(0).random(len(y))
        return self

    quick = {
        "fit": fit,
        "predict_proba": lambda self, X: np.full((len(X), 10), 0.1),
        "predict": lambda self, X: np.zeros(len(X), int),
        "_add_networks": lambda self, other, X, y: self,
    }
    for name, method in quick.items():
        monkeypatch.setattr(second_audit.ReweightClassifier, name, method)
    task = audits.draw(data.load("digits"), 50, 0)
    rows = second_audit.rounds(task, 3, 10, 100, control=True)
    assert [row["audit"] for row in rows] == [
        second_audit.FIRST,
        second_audit.CHECKED,
        second_audit.STEERED,
        second_audit.UNCHECKED,
    ]
    assert all(row["seed"] == 3 and row["stands for all"] for row in rows)
    none, checked, unchecked = fits  # the fit without trusted rows is not repeated
    assert none is None
    mask = unchecked
    assert mask.sum() == 100
    np.testing.assert_array_equal(checked[0], task.features[mask])
    np.testing.assert_array_equal(checked[1], task.true[mask])


@pytest.mark.slow
def test_our_audit_finds_wrong_digits():
    task = audits.draw(data.load("digits"), 50, 0)
    found = audits.timed(partial(audits.ours, name="a", known="none"), task, 0, 100)
    (row,) = audits.rows(task, found, audits.pruned_accuracy(task, found.flagged, 0, 100))
    assert row["AUROC"] > 0.95 and row["test accuracy"] > 0.85
    assert row["pruned accuracy"] > 0.75 and row["seconds"] > 0 and 0.05 < row["GB"] < 50


@pytest.mark.slow
def test_all_audits_find_wrong_digits(tmp_path):
    pytest.importorskip("cleanlab", reason="the extra `benchmark` is not installed")
    output = tmp_path / "audit"
    done = _run("--trusted=50", "--seeds=1", "--steps=100", "--note=a note", f"--output={output}")
    assert done.returncode == 0, done.stderr
    content = json.loads(output.with_suffix(".json").read_text())
    assert content["note"] == "a note" and content["versions"]["cleanlab"]
    assert len({row["audit"] for row in content["rows"]}) == len(content["rows"]) == 6
    for row in content["rows"]:
        assert row["AUROC"] > 0.9 and row["test accuracy"] > 0.75, row
        assert f"| {row['audit']} | {row['AUROC']:.3f} |" in done.stdout
    assert output.with_suffix(".md").read_text().strip() == done.stdout.strip()


@pytest.mark.slow
def test_the_check_writes_every_audit(tmp_path):
    output = tmp_path / "check"
    done = _run("--check=50", "--seeds=1", "--workers=1", "--steps=100", f"--output={output}")
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.with_suffix(".json").read_text())["rows"]
    names = [second_audit.FIRST, second_audit.CHECKED, second_audit.STEERED]
    assert [row["audit"] for row in rows] == names
    assert output.with_suffix(".md").read_text().strip() == done.stdout.strip()


def test_no_comparison_overwrites_another_by_default():
    kinds = [(name, check) for name in ("digits", "npz:a/human.npz") for check in (True, False)]
    places = {audits.default_output(*kind) for kind in kinds}
    assert len(places) == 4 and "results/label-audit-digits" in places


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--check=1000"], "--check: got 1000; takes at most 718, half of the rows"),
        (["--check=20", "--data=npz:none.npz"], "--data=npz:none.npz: none.npz cannot be read"),
        (["--check=4"], "--check"),
        (["--check=15"], "--check: got 15; takes a multiple of 10, such as 100"),
    ],
)
def test_a_mistake_is_one_line(arguments, text):
    done = _run(*arguments)
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and text in done.stderr


@pytest.mark.slow
def test_too_few_wrong_labels_are_one_line(tmp_path):
    labels = np.arange(40) % 2
    parts = {"train_features": np.ones((40, 3), np.float32), "train_labels": labels}
    parts |= {"test_features": np.ones((40, 3), np.float32), "test_labels": labels}
    np.savez(tmp_path / "a.npz", given_labels=labels, **parts)
    done = _run(f"--data=npz:{tmp_path}/a.npz", "--check=20")
    assert done.returncode == 2
    assert "more given_labels must be wrong than --check" in done.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("cleanlab") is not None, reason="cleanlab is installed"
)
@pytest.mark.slow
def test_without_cleanlab_the_extra_is_named():
    done = _run("--trusted=50")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: cleanlab: not installed; takes the extra 'benchmark'")
    assert done.stderr.count("\n") == 1
