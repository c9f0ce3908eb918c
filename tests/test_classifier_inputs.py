"""What people give the classifier: frames, masks, pairs, odd labels; a right result or one line."""

import copy
import re
import warnings

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from l2rw_jax.classifier import ReweightClassifier
from l2rw_jax.training import RunError

TINY = {"model": "mlp-8", "networks": 1, "steps": 100}


def blobs(n=300, d=5, classes=3, seed=0):
    """Well separated clusters and their classes."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return 4 * np.eye(classes, d)[y] + rng.normal(size=(n, d)), y


X, Y = blobs()
NAMES = np.array(["ant", "bee", "cat"])[Y]
FRAME = pd.DataFrame(X, columns=list("abcde"))
MASK = np.arange(300) < 60


def fit(X=X, y=Y, trusted=None, **parameters):
    return ReweightClassifier(**{**TINY, **parameters}).fit(X, y, trusted)


@pytest.fixture(scope="module")
def plain():
    return fit()


@pytest.fixture(scope="module")
def steered():
    return fit(trusted=MASK)


def told(call):
    """What a call returns, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, [str(each.message) for each in caught if each.category is UserWarning]


def refusals(cases):
    """Those of the cases, ``name: (call, message)``, that are not refused in that line."""
    faults = []
    for name, (call, message) in cases.items():
        try:
            call()
            faults.append((name, "not refused"))
        except (ValueError, TypeError) as error:
            if not re.search(message, str(error)) or "\n" in str(error):
                faults.append((name, str(error)))
    return faults


def test_features_that_are_no_numbers_are_named():
    def with_(value):
        return lambda: fit(FRAME.astype(object).assign(city=value))

    cells = X.astype(object)
    cells[3, 2] = "Paris"
    dictionary = X.astype(object)
    dictionary[3, 2] = {"a": 1}
    gone = FRAME.astype("Float64")
    gone.loc[7, "b"] = pd.NA
    days = pd.Series(pd.date_range("2020", periods=300))
    cases = {
        "text": (with_("Paris"), r"^X: column 'city' holds text \('Paris'\); takes numbers"),
        "one text": (lambda: fit(cells), r"^X: column 2 holds text \('Paris'\)"),
        "categorical": (with_(pd.Categorical(NAMES)), r"^X: column 'city' holds text \('ant'\)"),
        "string type": (with_(pd.Series(NAMES, dtype="string")), "^X: column 'city' holds text"),
        "dates": (with_(days), "^X: column 'city' holds dates; takes numbers"),
        "spans": (with_(days - days[0]), "^X: column 'city' holds dates"),
        "an array of text": (lambda: fit(X.astype(str)), "^X: column 0 holds text"),
        "a dictionary": (lambda: fit(dictionary), "^X: row 3, column 2: .* must be a string or"),
        "NA": (lambda: fit(gone), "^X: row 7, column 'b' is nan, not finite"),
        "NA as object": (
            lambda: fit(gone.astype(object)),
            "^X: row 7, column 'b' is <NA>; takes finite numbers",
        ),
        "None": (with_(None), "^X: row 0, column 'city' is nan, not finite"),
        "unlike rows": (lambda: fit([[1, 2], [3]] * 150), "^X: got rows of several lengths"),
        "sparse": (lambda: fit(csr_matrix(X)), r"^X: got sparse data \[300, 5\]; takes a dense"),
        "infinity": (lambda: fit(FRAME.replace(FRAME.c[9], -np.inf)), "^X: row 9, column 'c' is"),
        "all too large": (lambda: fit(X * 1e306), "^X: column 0 reaches .* takes numbers below"),
    }
    assert not refusals(cases)
    fitted = fit(FRAME)
    again = {
        "text": (lambda: fitted.predict(FRAME.assign(c="x")), "^X: column 'c' holds text"),
        "NaN": (lambda: fitted.predict(FRAME.assign(c=np.nan)), "^X: row 0, column 'c' is nan"),
        "sparse": (lambda: fitted.predict_proba(csr_matrix(X)), "^X: got sparse data"),
    }
    assert not refusals(again)


def test_labels_of_every_type_come_back_as_they_were():
    labels = {
        "series": (pd.Series(NAMES), list(np.unique(NAMES))),
        "categorical": (pd.Categorical(NAMES), ["ant", "bee", "cat"]),
        "unused ones": (pd.Categorical(NAMES, [*"dab", *np.unique(NAMES)]), ["ant", "bee", "cat"]),
        "nullable": (pd.Series(Y, dtype="Int64"), [0, 1, 2]),
        "arrow": (pd.Series(Y, dtype="int64[pyarrow]"), [0, 1, 2]),
        "objects": (Y.astype(object), [0, 1, 2]),
        "bools": (pd.Series(Y > 0, dtype="boolean"), [False, True]),
        "floats": (Y / 1.0, [0.0, 1.0, 2.0]),
        "list": (NAMES.tolist(), ["ant", "bee", "cat"]),
        "negative": (-Y, [-2, -1, 0]),
    }
    faults = []
    for name, (y, classes) in labels.items():
        fitted = fit(y=y)
        right = np.mean(np.asarray(fitted.predict(X) == np.asarray(y)))
        if fitted.classes_.tolist() != classes or right < 0.9:
            faults.append((name, fitted.classes_, right))
    assert not faults


def test_labels_that_are_none_are_refused():
    def some(value, y=NAMES):
        return np.where(np.arange(300) == 4, value, y.astype(object))

    cases = {
        "None": (lambda: fit(y=some(None)), "^y: row 4 has no label; leave such rows out"),
        "NaN": (lambda: fit(y=some(np.nan)), "^y: row 4 has no label"),
        "NaN in a list": (lambda: fit(y=list(some(np.nan))), "^y: row 4 has no label"),
        "NA": (lambda: fit(y=pd.Series(some(pd.NA))), "^y: row 4 has no label"),
        "a nullable's NA": (
            lambda: fit(y=pd.Series(some(pd.NA, Y), dtype="Int64")),
            "^y: row 4 has no label",
        ),
        "float NaN": (lambda: fit(y=np.where(MASK, np.nan, Y)), "^y: row 0 has no label"),
        "types": (lambda: fit(y=some(1)), "^y: got labels of the types int, str"),
        "types in a list": (lambda: fit(y=list(some(1))), "^y: got labels of the types int, str"),
        "measurements": (lambda: fit(y=X[:, 0]), "continuous"),
        "two columns": (lambda: fit(y=np.stack([Y, Y], 1)), "1d array"),
        "one class": (lambda: fit(y=Y * 0), "^y: got one class, 0; takes two or more"),
    }
    assert not refusals(cases)


def test_every_way_to_say_which_rows_are_trusted_is_the_same(steered):
    expected = steered.predict_proba(X)
    ways = {
        "list": MASK.tolist(),
        "tuple": tuple(MASK.tolist()),
        "series": pd.Series(MASK),
        "nullable": pd.Series(MASK, dtype="boolean"),
        "extension": pd.array(MASK, dtype="boolean"),
        "objects": MASK.astype(object),
        "another index": pd.Series(MASK, index=range(300, 600)),
    }
    faults = [
        name
        for name, way in ways.items()
        if not np.allclose(fit(trusted=way).predict_proba(X), expected, atol=1e-5)
    ]
    pairs = {
        "tuple": (X[MASK], Y[MASK]),
        "list": [X[MASK], Y[MASK]],
        "lists": (X[MASK].tolist(), Y[MASK].tolist()),
        "series": (X[MASK], pd.Series(Y[MASK], dtype="Int64")),
        "floats": (X[MASK], Y[MASK] / 1.0),
        "frame": [pd.DataFrame(X[MASK]), Y[MASK]],
    }
    first = fit(trusted=pairs["tuple"]).predict_proba(X)
    assert np.mean(first.argmax(1) == Y) > 0.9
    faults += [
        name
        for name, pair in pairs.items()
        if not np.allclose(fit(trusted=pair).predict_proba(X), first, atol=1e-5)
    ]
    assert not faults


def test_a_pair_s_columns_are_found_by_name():
    names = pd.DataFrame(X[MASK], columns=list("abcde"))
    expected = fit(FRAME, trusted=(names, Y[MASK])).predict_proba(FRAME)
    mixed = fit(FRAME, trusted=(names[list("edcba")], Y[MASK])).predict_proba(FRAME)
    np.testing.assert_array_equal(mixed, expected)
    unnamed = fit(FRAME, trusted=(X[MASK], Y[MASK])).predict_proba(FRAME)
    np.testing.assert_array_equal(unnamed, expected)

    def pair(frame):
        return lambda: fit(FRAME, trusted=(frame, Y[MASK]))

    cases = {
        "missing": (pair(names.drop(columns="c")), "^trusted X: got no column 'c'; takes the 5"),
        "renamed": (pair(names.rename(columns={"c": "z"})), "^trusted X: got no column 'c'"),
        "more": (pair(names.assign(z=1)), "^trusted X: got an unknown column 'z'"),
        "twice": (pair(names[list("abcdea")]), "^trusted X: got twice a column 'a'"),
        "text": (pair(names.assign(c="x")), "^trusted X: column 'c' holds text"),
        "NaN": (pair(names.assign(c=np.nan)), "^trusted X: row 0, column 'c' is nan"),
    }
    assert not refusals(cases)


def test_what_is_no_mask_and_no_pair_is_refused():
    def gives(trusted):
        return lambda: fit(trusted=trusted)

    holes = pd.Series(MASK, dtype="boolean")
    holes[3] = pd.NA
    cases = {
        "NA": (gives(holes), "^trusted: row 3 is <NA>; takes True or False"),
        "None": (gives([None, *MASK[1:].tolist()]), "^trusted: row 0 is None; takes True or"),
        "0 and 1": (gives(MASK * 1), r"^trusted: got int64 \[300\]; takes bool .*trusted == 1"),
        "0.0 and 1.0": (gives(MASK * 1.0), "^trusted: got float64.*trusted == 1"),
        "row numbers": (gives([0, 1, 2]), r"^trusted: got int64 \[3\]; .*numpy.isin"),
        "short": (gives(MASK[1:]), r"^trusted: got bool \[299\]; takes bool \[300\]"),
        "wide": (gives(MASK[:, None]), r"^trusted: got bool \[300, 1\]; takes bool \[300\]"),
        "text": (gives("yes"), "^trusted: got 'yes'; takes bool"),
        "a bool": (gives(True), "^trusted: got True; takes bool|^trusted: got a bool"),
        "three": (gives([X, Y, Y]), r"^trusted: got 3 arrays; takes \(X, y\)"),
        "one": (gives([X]), r"^trusted: got 1 arrays"),
        "no labels": (gives((X[MASK], None)), "trusted|1d array"),
        "a missing label": (
            gives((X[MASK], np.where(np.arange(60) == 5, np.nan, Y[MASK]))),
            "^trusted y: row 5 has no label",
        ),
        "another label": (gives((X[MASK], NAMES[MASK])), "^trusted: got the label 'ant', which no"),
    }
    assert not refusals(cases)


def test_random_states_out_of_range_are_refused():
    for seed in (-1, 2**32, 1.5, "a", np.random.default_rng(0)):
        with pytest.raises(ValueError, match=r"^random_state: got .*; takes an integer in 0..4294"):
            fit(random_state=seed)
    for seed in (None, 2**32 - 1, np.random.RandomState(0)):
        fit(random_state=seed, steps=1)


def test_trusted_rows_that_lack_a_class_do_not_steer(plain):
    for lacking, names in (([2], r"1 of the 3 classes \(2\)"), ([0, 2], r"2 of the 3 .*\(0, 2\)")):
        mask = MASK & ~np.isin(Y, lacking)
        for trusted in (mask, (X[mask], Y[mask])):
            fitted, lines = told(lambda trusted=trusted: fit(trusted=trusted))
            assert fitted.method_ == "gce" and len(lines) == 1
            assert re.match(f"trusted: no verified row of {names}; none is used", lines[0])
            np.testing.assert_array_equal(fitted.predict_proba(X), plain.predict_proba(X))
    fitted, lines = told(lambda: fit(trusted=MASK & (Y > 0), method="l2rw"))
    assert fitted.method_ == "l2rw" and "which may never be predicted" in lines[0]
    assert not told(lambda: fit(trusted=MASK))[1]


def test_in_a_pipeline_a_pair_that_is_not_transformed_is_warned_of():
    raw = X * 50 + 900
    steps = make_pipeline(StandardScaler(), ReweightClassifier(**TINY))

    def pipeline(trusted):
        return told(lambda: steps.fit(raw, Y, reweightclassifier__trusted=trusted))[1]

    assert pipeline(MASK) == []
    (line,) = pipeline((raw[MASK], Y[MASK]))
    assert line.startswith("trusted X: column ") and "in a pipeline, give trusted as a mask" in line
    moved = StandardScaler().fit(raw).transform(raw[MASK])
    assert pipeline((moved, Y[MASK])) == []


def test_rows_unlike_the_training_s_are_told_and_get_a_probability(plain):
    broken = X.copy()
    broken[17, 3] = 1e300
    cases = {
        "one value": (broken, "X: row 17, column 3 is 1e+300, far from those of the training"),
        "rows of 1e300": (np.full((30, 5), 1e300), "X: column 0 is about"),
        "wide": (X * 1e160, "X: "),
        "constant": (np.ones((30, 5)), "X: the rows hardly differ"),
        "raw": (X * 50 + 900, "X: column "),
        "one row": (np.full((1, 5), -1e308), "X: row 0, column 0 is -1e+308"),
    }
    for name, (rows, start) in cases.items():
        probabilities, lines = told(lambda rows=rows: plain.predict_proba(rows))
        assert np.isfinite(probabilities).all(), name
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
        assert lines and lines[0].startswith(start), (name, lines)
    np.testing.assert_allclose(
        np.delete(plain.predict_proba(broken), 17, 0), np.delete(plain.predict_proba(X), 17, 0)
    )
    assert told(lambda: plain.predict(X))[1] == []
    (line,) = told(lambda: plain.predict(X[Y == 1]))[1]
    assert line.startswith("X: all 100 rows are predicted as 1; ")


def test_a_rare_class_is_learnt():
    """gce may give every row to the common class: auto then takes another loss."""
    rng = np.random.default_rng(0)
    y = (rng.random(1000) < 0.05).astype(int)
    rows = rng.normal(size=(1000, 5)) + 1.8 * y[:, None]
    fitted, lines = told(lambda: fit(rows, y, steps=300, model="mlp-32"))
    assert fitted.method_ == "reed_soft" and not lines
    assert (fitted.predict(rows) == 1)[y == 1].mean() > 0.7


def test_the_method_is_told(plain, steered):
    assert plain.method_ == "gce" and steered.method_ == "evidence"


def test_images_for_a_model_of_features_are_refused_in_one_line(plain):
    for rows in (np.zeros((4, 8, 8, 3), np.uint8), np.zeros((4, 1, 1, 5), np.uint8)):
        for predict in (plain.predict, plain.predict_proba):
            with pytest.raises(ValueError, match=r"^X: got shape \[4, .*\]; takes \[n, 5\]"):
                predict(rows)


def test_networks_without_numbers_predict_nothing(plain):
    for value in (np.nan, np.inf):
        damaged = copy.copy(plain)
        damaged._params = jax.tree.map(lambda leaf, v=value: leaf * v, plain._params)
        with pytest.raises(RunError, match=r"^row 0: the networks give no probabilities") as caught:
            damaged.predict_proba(X)
        assert "\n" not in str(caught.value)


def test_constant_features_are_no_fault_of_the_numbers():
    fitted, _ = told(lambda: fit(np.ones((300, 4))))
    assert np.isfinite(fitted.predict_proba(np.ones((5, 4)))).all()
    assert np.isfinite(fitted.label_quality_).all()


BROKEN = {
    "a row of 1e4": (np.s_[17], 1e4),
    "a row of 1e30": (np.s_[17], 1e30),
    "a row of -1e300": (np.s_[17], -1e300),
    "a cell of -1.8e308": (np.s_[0, 3], np.finfo(float).min),
    "2 % rows of -9999": (np.s_[::50], -9999.0),
    "-9999 in a column": (np.s_[::50, 1], -9999.0),
}
