"""Results that cannot be trusted say so: broken rows, features without signal, odd trusted rows."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from l2rw_jax.audit import audit_labels
from l2rw_jax.audit.signal import doubt, find_signal
from l2rw_jax.classifier import ReweightClassifier
from l2rw_jax.data.scaling import Scaled, fit_scaling


@pytest.fixture
def stand_in():
    """None here: the classifier is the one that people use."""


def blobs(n=300, classes=3, d=8, seed=0):
    """Features, true labels and given ones, of which 15 % are wrong."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, d)) * 2
    true = rng.integers(0, classes, n)
    wrong = rng.random(n) < 0.15
    return (
        centres[true] + rng.normal(size=(n, d)),
        true,
        np.where(wrong, (true + 1) % classes, true),
    )


def small(**options):
    return ReweightClassifier(model="mlp-16", networks=1, steps=200, **options)


@pytest.mark.parametrize(
    ("rows", "value"), [([0], 1e4), ([0], -1e30), ([0], 1e300), (slice(0, None, 50), -9999.0)]
)
def test_a_few_broken_rows_do_not_hide_the_errors_of_the_others(rows, value):
    X, true, given = blobs()
    X[rows] = value
    with pytest.warns(UserWarning, match=r"X: row 0, column 0 is .*, far from all others"):
        table = audit_labels(X, given, classifier=small())
    whole = np.abs(X).max(1) < 100
    wrong, score = (given != true)[whole], table["label_score"][whole]
    assert roc_auc_score(wrong, -score) > 0.99
    assert (table["is_label_issue"][whole] == wrong).mean() > 0.97


def test_scaling_is_the_ordinary_one_of_ordinary_features():
    X = np.random.default_rng(0).normal(3, 2, (2000, 4))
    scaling = fit_scaling("X", X)
    np.testing.assert_allclose(scaling.mean, X.mean(0), atol=0.02)
    np.testing.assert_allclose(scaling.deviation, X.std(0), rtol=0.05)
    plain = (X - X.mean(0)) / X.std(0)
    scaled = Scaled(X, scaling)[:][:, 0, 0]
    assert np.corrcoef(scaled.ravel(), plain.ravel())[0, 1] > 0.99
    assert np.abs(Scaled(np.array([[1e300, -1e300, 0, 3]]), scaling)[:]).max() < 10


@pytest.mark.parametrize("kind", ["constant", "noise", "shuffled"])
def test_features_without_signal_say_nothing(kind):
    X, _, given = blobs()
    rng = np.random.default_rng(1)
    X = {"constant": np.ones_like(X), "noise": rng.normal(size=X.shape), "shuffled": X[::-1]}[kind]
    given = rng.permutation(given)
    with pytest.warns(UserWarning, match="the model cannot tell the classes apart: the audit says"):
        table = audit_labels(X, given, classifier=small())
    assert not table["is_label_issue"].any()


def test_signal_is_found_where_there_is_some_and_a_model_that_lacks_it_is_doubted():
    X, true, given = blobs(400)
    signal = find_signal(X, given, 3)
    assert signal.found and signal.accuracy > 0.75
    good = np.eye(3)[true[signal.rows]] * 0.9 + 0.05
    assert doubt(signal, good) is None
    assert "train it for more steps" in doubt(signal, np.full_like(good, 1 / 3))
    rare = np.where(np.arange(400) % 20 == 0, given, 0)  # 95 % are of one class
    assert find_signal(X + 5 * (rare == 1)[:, None], rare, 3).found


def test_a_trusted_pair_that_is_not_transformed_is_warned_about():
    X, true, given = blobs()
    scaled = (X - X.mean(0)) / X.std(0)
    with pytest.warns(UserWarning, match=r"trusted X: .*in a pipeline, give trusted as a mask"):
        small().fit(scaled, given, trusted=(X[:50] * 50 + 900, true[:50]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small().fit(scaled, given, trusted=[scaled[:50], true[:50]])  # a list is as good


def test_trusted_rows_without_a_class_are_named_and_the_class_is_still_predicted():
    X, true, given = blobs()
    rows = np.flatnonzero(true < 2)[:40]
    with pytest.warns(UserWarning, match=r"trusted: no verified row of 1 of the 3 classes \(2\)"):
        classifier = small().fit(X, given, trusted=(X[rows], true[rows]))
    assert (classifier.predict(X) == true).mean() > 0.9


@pytest.mark.slow
def test_data_frames_are_taken_wherever_arrays_are():
    X, true, given = blobs(120)
    frame = pd.DataFrame(X, columns=[f"f{i}" for i in range(X.shape[1])])
    mask = pd.Series(np.arange(120) < 40)
    names = np.array(["a", "b", "c"])
    table = audit_labels(
        frame,
        pd.Series(names[given], dtype="string"),
        (mask, pd.Series(names[true])),
        ids=pd.Index([f"r{i}" for i in range(120)]),
        classifier=small(),
    )
    assert table["id"].iloc[3] == "r3" and table["trusted"].sum() == 40
    swapped = frame[frame.columns[::-1]]
    ours = small().fit(frame, given, trusted=(swapped[:40], true[:40]))
    want = small().fit(frame, given, trusted=(frame[:40], true[:40]))
    np.testing.assert_array_equal(ours.predict_proba(frame), want.predict_proba(frame))


def test_what_cannot_be_read_is_named_in_one_line():
    X, _, given = blobs(60)
    frame = pd.DataFrame(X).assign(city="Paris")
    huge = X.copy()
    huge[:, 3] = np.finfo(float).min
    cases = (
        (frame, given, None, "city"),
        (huge, given, None, "X: column 3 reaches -1.8e\\+308 in row 0"),
        (X, given, np.arange(60), "trusted"),
        (X, given, (X[:9], given[:9], 1), "trusted"),
    )
    for features, labels, trusted, match in cases:
        with pytest.raises(ValueError, match=match) as error:
            small().fit(features, labels, trusted)
        assert "\n" not in str(error.value)
