"""Whether classes can be told apart: not from noise, always where something can be learnt."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from made_up import blobs
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from stand_in import StandIn

from l2rw_jax.audit import audit_labels
from l2rw_jax.audit.signal import Signal, doubt, find_signal
from l2rw_jax.audit.table import run_audit

NOTHING = "the model cannot tell the classes apart: the audit says nothing"


def noisy(y, share, rng):
    count = y.max() + 1
    return np.where(rng.random(len(y)) < share, (y + rng.integers(1, count, len(y))) % count, y)


def found(X, y):
    return find_signal(X, y, int(y.max()) + 1).found


def test_noise_has_no_signal():
    rng = np.random.default_rng(0)
    y = np.arange(600) % 3
    rare = (np.arange(600) % 20 == 0) * 1
    cases = {
        "normal": (rng.normal(size=(600, 5)), rng.permutation(y)),
        "two classes": (rng.normal(size=(300, 30)), rng.permutation(y[:300] % 2)),
        "many columns": (rng.normal(size=(400, 900)), rng.permutation(y[:400])),
        "many classes": (rng.normal(size=(2000, 8)), rng.permutation(np.arange(2000) % 200)),
        "rare": (rng.normal(size=(600, 5)), rng.permutation(rare)),
        "constant": (np.ones((300, 5)), rng.permutation(y[:300])),
        "heavy tails": (rng.standard_cauchy(size=(600, 5)), rng.permutation(y)),
        "black images": (np.zeros((90, 16, 16, 3), np.uint8), rng.permutation(y[:90])),
        "noise images": (rng.integers(0, 256, (300, 16, 16, 1), np.uint8), y[:300]),
        "shuffled rows": (load_digits().data[:600], rng.permutation(load_digits().target[:600])),
        "row numbers": (np.arange(600.0)[:, None], rng.permutation(y)),
    }
    assert not [name for name, case in cases.items() if found(*case)]


def test_noise_rarely_passes_by_chance():
    passed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        passed += found(rng.normal(size=(200, 4)), rng.permutation(np.arange(200) % 2))
    assert passed <= 2


def test_the_rank_of_noise_is_that_of_chance():
    for classes in (2, 3, 10):
        ranks = []
        for seed in range(5):
            rng = np.random.default_rng(seed)
            rows, y = rng.normal(size=(600, 6)), rng.permutation(np.arange(600) % classes)
            ranks.append(find_signal(rows, y, classes).rank)
        # The better of two rules is a little above one half.
        assert 0.49 < np.mean(ranks) < 0.53 and max(ranks) < 0.57


def test_what_can_be_learnt_has_a_signal():
    rng = np.random.default_rng(0)
    digits, wine, iris = (load(return_X_y=True) for load in (load_digits, load_wine, load_iris))
    cancer = load_breast_cancer(return_X_y=True)
    two = rng.normal(size=(600, 2))
    xor = (two[:, 0] * two[:, 1] > 0) * 1
    rare = (rng.random(2000) < 0.05) * 1
    many, classes = np.arange(2000) % 200, rng.normal(size=(200, 16))
    bags = rng.poisson(0.02 + (np.arange(300) % 77 == np.arange(3850)[:, None] % 77) * 0.5)
    shapes = np.zeros((300, 32, 32, 1), np.uint8)
    for i in range(300):
        a, b = rng.integers(0, 22, 2)
        shapes[i, a : a + 9, b : b + 9] = 255
        shapes[i, a + 2 : a + 7, b + 2 : b + 7] *= i % 2 == 0
    cases = {
        "digits, 40 % noise": (digits[0], noisy(digits[1], 0.4, rng)),
        "iris": (iris[0], noisy(iris[1], 0.05, rng)),
        "wine, 20 % noise": (wine[0], noisy(wine[1], 0.2, rng)),
        "breast cancer, 20 % noise": (cancer[0], noisy(cancer[1], 0.2, rng)),
        "exclusive or": (two, noisy(xor, 0.2, rng)),
        "a ring": (two, ((two**2).sum(1) > 1.4) * 1),
        "95 to 5": (rng.normal(size=(2000, 10)) + 1.2 * rare[:, None] * (np.arange(10) == 0), rare),
        "200 classes": (classes[many] + rng.normal(size=(2000, 16)), many),
        "77 classes of words": (bags.astype(float), np.arange(3850) % 77),
        "few rows": blobs(30, noise=0)[:2],
        "six rows": (9 * np.eye(2)[np.arange(6) % 2] + rng.normal(size=(6, 2)), np.arange(6) % 2),
        "shapes anywhere": (shapes, np.arange(300) % 2),
        "a broken row": (np.where(np.arange(150)[:, None] == 3, 1e300, iris[0]), iris[1]),
    }
    assert not [name for name, case in cases.items() if not found(*case)]


def test_as_many_rows_of_each_class_are_looked_at():
    y = np.repeat(np.arange(4), (5000, 3000, 40, 7))
    signal = find_signal(np.random.default_rng(0).normal(size=(len(y), 2)), y, 4)
    assert np.bincount(signal.labels).tolist() == [500, 500, 40, 7]
    np.testing.assert_array_equal(y[signal.rows], signal.classes[signal.labels])
    many = np.arange(9000) % 3000
    signal = find_signal(np.random.default_rng(0).normal(size=(9000, 2)), many, 3000)
    assert len(signal.classes) == 100 and len(signal.rows) == 300
    np.testing.assert_array_equal(many[signal.rows], signal.classes[signal.labels])


def test_a_model_is_doubted_that_tells_less_than_a_simple_rule():
    y = np.arange(300) % 3
    signal = Signal(np.arange(300), np.arange(3), y, 0.8, 0.9, True)
    sure = 0.05 + 0.85 * np.eye(3)[y]
    assert doubt(signal, sure) is None
    assert doubt(signal._replace(found=False), sure).startswith(f"{NOTHING}. On held-out rows")
    flat = np.full((300, 3), 1 / 3)
    assert doubt(signal, flat).startswith(f"{NOTHING}. It agrees with 33% of")
    other = 0.05 + 0.85 * np.eye(3)[(y + (np.arange(300) % 2)) % 3]
    assert "It agrees with 50% of the given labels, and a simple rule predicts 90%" in doubt(
        signal, other
    )
    rare = np.stack([0.97 - 0.1 * (y == 1), 0.02 + 0.1 * (y == 1), 0.01 + 0.01 * (y == 2)], 1)
    assert doubt(signal, rare) is None  # it tells them by how likely they are, not by the likeliest


def test_an_audit_of_noise_flags_what_is_verified_and_nothing_else():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 4)), rng.permutation(np.arange(300) % 3)
    mask, true = np.arange(300) < 40, np.where(np.arange(300) < 12, (y + 1) % 3, y)
    with pytest.warns(UserWarning, match=f"^{NOTHING}"):
        table = audit_labels(X, y, classifier=StandIn())
    assert not table["is_label_issue"].any()
    audit = run_audit(X, y, (mask, true), classifier=StandIn())
    np.testing.assert_array_equal(audit.table["is_label_issue"], true != y)
    assert np.isnan(audit.wrong[~mask]).all() and audit.calibrated is None
    assert audit.doubt.startswith(NOTHING)


def test_an_audit_that_tells_the_classes_warns_of_nothing():
    X, _, given = blobs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert audit_labels(X, given, classifier=StandIn())["is_label_issue"].any()


def test_the_command_says_it_in_one_line(tmp_path, monkeypatch, audit):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.normal(size=(300, 4)))
    labels = [f"c{i % 3}" for i in rng.permutation(300)]
    pd.DataFrame({"label": labels}).to_csv("l.csv", index=False)
    status, out, _ = audit("--features=x.npy", "--labels=l.csv", "--output=o")
    assert status == 0 and out.startswith(NOTHING) and "%" not in out
    text = (tmp_path / "o" / "summary.json").read_text()
    summary = json.loads(text)
    assert "NaN" not in text and summary["doubt"].startswith(NOTHING)
    assert summary["issues"] == 0 and summary["wrong_share"]["estimate"] is None
    assert summary["replaced_labels"] == 0
