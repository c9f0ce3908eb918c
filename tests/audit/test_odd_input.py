"""Audits of frames, ids, masks and broken rows, by the classifier that audits have."""

import warnings

import numpy as np
import pandas as pd
import pytest
from made_up import CLASSES, blobs
from stand_in import StandIn

from l2rw_jax.audit import audit_labels
from l2rw_jax.audit.table import run_audit

X, TRUE, GIVEN = blobs(300)
MASK = np.arange(300) % 5 == 0
FRAME = pd.DataFrame(X, columns=list("abcde"))
IDS = [f"r{i}" for i in range(300)]


def small():
    from l2rw_jax.classifier import ReweightClassifier

    return ReweightClassifier(model="mlp-16", networks=1, steps=200)


@pytest.fixture
def real(monkeypatch):
    """The real classifier in the stand-in's place."""
    import sys

    monkeypatch.delitem(sys.modules, "l2rw_jax.classifier", raising=False)


def table(X=X, y=GIVEN, trusted=None, ids=None):
    return audit_labels(X, y, trusted, ids=ids, classifier=StandIn())


def test_frames_and_series_wherever_they_are_taken(real):
    names, true = CLASSES[GIVEN], CLASSES[TRUE]
    expected = audit_labels(X, names, (MASK, CLASSES[TRUE]), ids=IDS, classifier=small())
    assert expected["trusted"].sum() == 60
    given = {
        "series": (FRAME, pd.Series(names), (pd.Series(MASK), pd.Series(true)), pd.Series(IDS)),
        "index": (FRAME.set_axis(IDS), pd.Categorical(names), [MASK, true], pd.Index(IDS)),
        "nullable": (
            FRAME.astype("Float32"),
            pd.Series(names, dtype="string"),
            (pd.array(MASK, dtype="boolean"), pd.Series(np.where(MASK, true, None))),
            np.array(IDS, object),
        ),
        "lists": (X, names.tolist(), (MASK.tolist(), true.tolist()), IDS),
    }
    for name, (rows, y, trusted, ids) in given.items():
        got = audit_labels(rows, y, trusted, ids=ids, classifier=small())
        for column in expected:
            np.testing.assert_array_equal(got[column], expected[column], err_msg=f"{name} {column}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        audit_labels(FRAME, names, MASK & (GIVEN == TRUE), classifier=small())


def test_verified_labels_that_are_numbers_may_come_as_other_numbers():
    expected = run_audit(X, GIVEN, (MASK, TRUE), classifier=StandIn()).table
    for true in (
        TRUE / 1.0,
        TRUE.astype(np.uint8),
        np.where(MASK, TRUE, np.nan),
        pd.Series(np.where(MASK, TRUE, np.nan)).astype("Int64"),
        TRUE.astype(object),
    ):
        pd.testing.assert_frame_equal(
            run_audit(X, GIVEN, (MASK, true), classifier=StandIn()).table, expected
        )


REFUSED = {
    r"^ids: 'r7' comes more than once": {"ids": [*IDS[:-1], "r7"]},
    r"^ids: ('a', 1) comes more than once": {"ids": [("a", i // 2 + 1) for i in range(300)]},
    r"^ids: got a list as an id": {"ids": [[i] for i in range(300)]},
    r"^ids: got shape \[300, 1\] for 300 rows": {"ids": pd.DataFrame(IDS)},
    r"^ids: got 'abc' for 300 rows": {"ids": "abc"},
    r"^ids: got a set for 300 rows": {"ids": set(IDS)},  # in no order
    r"^ids: got a dict for 300 rows": {"ids": dict.fromkeys(IDS)},
    r"^ids: got a generator for 300 rows": {"ids": (i for i in IDS)},
    r"^y: row 3 has no label": {"y": np.where(np.arange(300) == 3, None, CLASSES[GIVEN])},
    r"^y: got labels of the types int, str": {"y": ["a", 1] * 150},
    r"^y: got shape \[300, 1\]": {"y": pd.DataFrame(GIVEN)},
    r"^trusted: row 5 is <NA>": {
        "trusted": pd.Series(np.where(np.arange(300) == 5, pd.NA, MASK), dtype="boolean")
    },
    r"^trusted: got int64 \[300\]; .*trusted == 1": {"trusted": MASK * 1},
    r"^trusted: got float64 \[60, 5\]": {"trusted": (X[MASK].astype(float), TRUE[MASK])},
    r"^trusted: got 3 arrays": {"trusted": [MASK, TRUE, TRUE]},
    r"^trusted labels: row 0 has no label": {"trusted": (MASK, np.where(MASK, np.nan, TRUE))},
    r"^trusted: label 'ant' is none of the classes of y, such as 0": {
        "trusted": (MASK, CLASSES[TRUE])
    },
    r"^trusted: label '0' is none": {"trusted": (MASK, TRUE.astype(str))},
    r"^trusted: got true labels of shape \[60\]": {"trusted": (MASK, TRUE[MASK])},
}


BROKEN = {
    "one row of 1e4": (np.s_[:1], 1e4),
    "one row of 1e6": (np.s_[17], 1e6),
    "one row of 1e300": (np.s_[17], 1e300),
    "one cell of -1.8e308": (np.s_[17, 2], np.finfo(float).min),
    "2 % rows of -9999": (np.s_[::50], -9999.0),
    "2 % of a column -9999": (np.s_[::50, 2], -9999.0),
}


def test_a_broken_row_leaves_the_audit_of_the_others_as_it_was(real):
    rows, true, given = blobs(600, noise=0.15, spread=0.6)
    rows, wrong = rows.astype(float), given != true
    clean = audit_labels(rows, given, classifier=small())["is_label_issue"].to_numpy()
    assert (clean & wrong).sum() > 0.9 * wrong.sum()
    for name, (where, value) in BROKEN.items():
        broken = rows.copy()
        broken[where] = value
        rest = (broken == rows).all(1)
        with pytest.warns(UserWarning, match=r"^X: row \d+, column \d is .*, far from all others"):
            found = audit_labels(broken, given, classifier=small())["is_label_issue"].to_numpy()
        assert np.mean(found[rest] == clean[rest]) > 0.98, name


def test_verified_rows_that_lack_a_class_calibrate_but_do_not_steer():
    mask = MASK & (TRUE != 2)
    with pytest.warns(UserWarning, match=r"^trusted: no verified row of 1 of the 3 classes \(2\)"):
        audit = run_audit(X, GIVEN, (mask, TRUE), classifier=StandIn())
    assert audit.steering == 0 and audit.calibrated is not None
    plain = run_audit(X, GIVEN, classifier=StandIn())
    np.testing.assert_array_equal(audit.table["label_score"], plain.table["label_score"])
    assert run_audit(X, GIVEN, (MASK, TRUE), classifier=StandIn()).steering == MASK.sum()


def test_one_trusted_class_alone_does_not_spoil_the_others(real):
    mask = (TRUE == 1) & (np.arange(300) < 150)
    with pytest.warns(UserWarning, match="no verified row of 2 of the 3 classes"):
        table = audit_labels(X, GIVEN, (mask, TRUE), classifier=small())
    right = table["predicted_label"] == TRUE
    assert right[~mask].mean() > 0.9


def test_nothing_is_suggested_where_the_given_label_is_likelier():
    audit = run_audit(X, GIVEN, classifier=(classifier := StandIn()))
    best = classifier.predict_proba(X).argmax(1)
    issue = audit.table["is_label_issue"].to_numpy()
    keeps = ~issue & (best == GIVEN)
    assert keeps.sum() > 100
    np.testing.assert_array_equal(audit.suggested[keeps], GIVEN[keeps])
    assert (audit.suggested != GIVEN)[~keeps].all()
    np.testing.assert_array_equal(audit.table["predicted_label"][~issue], best[~issue])


@pytest.mark.slow
def test_rare_and_many_classes_are_learnt_by_another_loss(real):
    rng = np.random.default_rng(0)
    rare = (rng.random(1000) < 0.06).astype(int)
    wrong = rng.random(1000) < 0.02
    rows = rng.normal(size=(1000, 6)) + 3 * rare[:, None] * (np.arange(6) < 4)
    audit = run_audit(rows, np.where(wrong, 1 - rare, rare), classifier=(classifier := small()))
    flagged = audit.table["is_label_issue"].to_numpy()
    assert audit.doubt is None and classifier.method == "auto"
    assert (flagged & wrong).sum() > 0.5 * wrong.sum() and wrong[flagged].mean() > 0.5
    many = np.arange(600) % 60
    rows = 3 * rng.normal(size=(60, 16))[many] + rng.normal(size=(600, 16))
    audit = run_audit(rows, many, classifier=(classifier := small()))
    assert classifier.method_ == "reed_soft" and audit.doubt is None
    assert not audit.table["is_label_issue"].any()
    from l2rw_jax.classifier import ReweightClassifier

    untrained = ReweightClassifier(model="mlp-16", networks=1, steps=1)
    audit = run_audit(rows, many, classifier=untrained)
    assert "train it for more steps" in audit.doubt and np.isnan(audit.wrong).all()
