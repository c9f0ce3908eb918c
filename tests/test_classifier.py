"""scikit-learn's interface: its own checks, what is kept, what is refused."""

import copy
import pickle
import re

import jax
import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from l2rw_jax.classifier import ReweightClassifier
from l2rw_jax.data import scaling
from l2rw_jax.data.scaling import fit_scaling
from l2rw_jax.quality import label_quality

TINY = {"model": "mlp-16", "networks": 1, "steps": 100}


def noisy_digits(n=600):
    """Features, labels of which a third are wrong, the true ones, and a mask of verified ones."""
    X, true = load_digits(return_X_y=True)
    X, true = X[:n], true[:n]
    rng = np.random.default_rng(0)
    y = np.where(rng.random(n) < 1 / 3, rng.integers(0, 10, n), true)
    trusted = np.arange(n) < 100
    y[trusted] = true[trusted]
    return X, y, true, trusted


X, Y, TRUE, TRUSTED = noisy_digits()
NAMES = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])


@pytest.fixture(scope="module")
def fitted():
    return ReweightClassifier(**TINY).fit(X, NAMES[Y], TRUSTED)


@pytest.mark.slow
@parametrize_with_checks(
    [ReweightClassifier(**TINY)],
    expected_failed_checks=lambda _: {
        "check_class_weight_classifiers": "class_weight is None or 'balanced', no dict"
    },
)
def test_scikit_learn_takes_it(estimator, check):
    check(estimator)


def test_it_finds_the_wrong_labels(fitted):
    assert fitted.method_ == "evidence"
    assert fitted.classes_.tolist() == sorted(NAMES)
    assert fitted.score(X, NAMES[TRUE]) > 0.85  # a third of the labels are wrong
    probabilities = fitted.predict_proba(X)
    given = np.array([fitted.classes_.tolist().index(name) for name in NAMES[Y]])
    np.testing.assert_allclose(fitted.label_quality_, label_quality(probabilities, given))
    assert roc_auc_score(Y == TRUE, fitted.label_quality_) > 0.9
    assert roc_auc_score(Y == TRUE, fitted.weights_) > 0.8
    np.testing.assert_allclose(fitted.weights_.mean(), 1, rtol=1e-4)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_trusted_examples_may_come_by_themselves():
    own = ReweightClassifier(**TINY).fit(X[100:], Y[100:], (X[:100], TRUE[:100]))
    assert own.method_ == "evidence" and len(own.weights_) == 500
    assert own.score(X, TRUE) > 0.8


def test_without_trusted_examples_the_loss_is_robust():
    assert ReweightClassifier(**TINY).fit(X, Y).method_ == "gce"


def test_trusted_examples_may_lack_a_class():
    mask = TRUSTED & (Y != 3)
    assert 3 in ReweightClassifier(**TINY).fit(X, Y, mask).predict(X)


def test_units_of_a_table_s_columns_do_not_matter():
    first, second = 10.0 ** np.arange(-32, 32), 10.0 ** np.arange(32, -32, -1)
    tables = [(X * units + 5 * units).astype(np.float64) for units in (first, second)]
    predictions = [ReweightClassifier(**TINY).fit(A, Y).predict_proba(A) for A in tables]
    np.testing.assert_allclose(*predictions, atol=1e-2)


def test_columns_of_one_kind_keep_their_proportions():
    shared = fit_scaling("X", X[:, 1:] * 7.0).deviation
    np.testing.assert_allclose(shared[:9], 7 * np.sqrt(X[:, 1:].var(0).mean()), rtol=0.05)


@pytest.mark.parametrize("scales", [(20, 1e4), (20, 1e4, 1.2e4)])
def test_a_column_of_small_units_is_not_lost(scales):
    table = np.random.default_rng(0).normal(size=(500, len(scales))) * scales
    np.testing.assert_allclose(fit_scaling("X", table).deviation, table.std(0), rtol=0.05)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint8, np.int64])
def test_numbers_of_any_kind_are_features(dtype, fitted):
    got = fitted.predict_proba(X.astype(dtype))
    np.testing.assert_allclose(got, fitted.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("y", [Y == 3, (Y == 3) * 1.0, np.where(Y == 3, "b", "a").astype(object)])
def test_labels_of_any_kind(y, tmp_path):
    own = ReweightClassifier(**TINY).fit(X, y)
    assert own.predict(X).dtype == y.dtype and own.predict_proba(X).shape == (len(X), 2)
    own.save(tmp_path)
    classes = ReweightClassifier.load(tmp_path).classes_
    assert classes.dtype == own.classes_.dtype and classes.tolist() == own.classes_.tolist()


def test_images_are_taken_as_they_are(tmp_path):
    images = (X * 15).astype(np.uint8).reshape(-1, 8, 8, 1)
    own = ReweightClassifier(**TINY).fit(images, Y, TRUSTED)
    assert own.score(images, TRUE) > 0.7
    own.save(tmp_path)
    loaded = ReweightClassifier.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(images), own.predict_proba(images))
    with pytest.raises(ValueError, match=r"X: got shape \[600, 64\]; takes \[n, 8, 8, 1\]"):
        own.predict(X)


@pytest.mark.slow
def test_running_moments_are_kept(tmp_path):
    images = (X * 15).astype(np.uint8).reshape(-1, 8, 8, 1)
    own = ReweightClassifier(model="resnet-8", networks=2, steps=2).fit(images, Y, TRUSTED)
    own.save(tmp_path)
    loaded = ReweightClassifier.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(images), own.predict_proba(images))


def test_new_parameters_leave_the_fitted_networks_alone(fitted):
    own = pickle.loads(pickle.dumps(fitted)).set_params(model="mlp-3")
    np.testing.assert_array_equal(own.predict(X), fitted.predict(X))


def test_added_networks_count_as_much_as_its_own(fitted, tmp_path):
    own, other, both = fitted.predict_proba(X), copy.copy(fitted), copy.copy(fitted)
    other._params = jax.tree.map(lambda leaf: leaf * 0.5, fitted._params)
    other.weights_ = fitted.weights_ * 0.5
    mean = (own + other.predict_proba(X)) / 2
    both._add_networks(other, X, NAMES[Y])
    np.testing.assert_allclose(both.predict_proba(X), mean, rtol=1e-5, atol=1e-7)
    labels = np.searchsorted(fitted.classes_, NAMES[Y])
    np.testing.assert_allclose(both.label_quality_, label_quality(mean, labels), rtol=1e-4)
    np.testing.assert_allclose(both.weights_, 0.75 * fitted.weights_)
    both.save(tmp_path / "both")
    kept = ReweightClassifier.load(tmp_path / "both")
    np.testing.assert_array_equal(kept.predict_proba(X), both.predict_proba(X))
    np.testing.assert_array_equal(fitted.predict_proba(X), own)


def test_two_added_networks_count_twice_in_the_weights(fitted):
    two, one = copy.copy(fitted), copy.copy(fitted)
    two._params, two._model_state = jax.tree.map(
        lambda leaf: np.repeat(leaf, 2, 0), (fitted._params, fitted._model_state)
    )
    one.weights_ = fitted.weights_ * 4
    two._add_networks(one, X, NAMES[Y])
    np.testing.assert_allclose(two.weights_, 2 * fitted.weights_)  # (1 + 1 + 4) / 3


def test_few_examples_make_one_small_batch():
    own = ReweightClassifier(**TINY).fit(X[:3], ["a", "b", "a"])
    assert own.predict(X[:3]).tolist() == ["a", "b", "a"]


def test_balanced_batches_help_a_rare_class():
    rare = np.concatenate([np.flatnonzero(TRUE != 8), np.flatnonzero(TRUE == 8)[:3]])
    y = TRUE[rare] == 8
    recall = [
        ReweightClassifier(**TINY, class_weight=weight).fit(X[rare], y).predict(X)[TRUE == 8].mean()
        for weight in (None, "balanced")
    ]
    assert recall[1] > recall[0]


def test_the_same_seed_gives_the_same_and_another_another():
    a, b, c = (
        ReweightClassifier(**TINY, random_state=seed).fit(X, Y).predict_proba(X)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3


def test_a_memory_map_that_is_read_in_blocks_trains_as_an_array_does(tmp_path, monkeypatch):
    np.save(tmp_path / "X.npy", X)
    monkeypatch.setattr(scaling, "_BLOCK_BYTES", 8 * 64 * 7)  # seven rows
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    own, whole = (ReweightClassifier(**TINY).fit(A, Y, TRUSTED) for A in (mapped, X))
    np.testing.assert_allclose(own.predict_proba(mapped), whole.predict_proba(X), atol=1e-5)
    with pytest.raises(ValueError, match="X: row 17, column 3 is nan"):
        own.predict(changed(np.nan))


@pytest.mark.parametrize("keep", ["save", "pickle", "joblib"])
def test_what_is_kept_predicts_the_same(fitted, tmp_path, keep):
    if keep == "save":
        fitted.save(tmp_path / "new" / "folder")
        loaded = ReweightClassifier.load(tmp_path / "new" / "folder")
    elif keep == "pickle":
        loaded = pickle.loads(pickle.dumps(fitted))
    else:
        joblib.dump(fitted, tmp_path / "model.joblib")
        loaded = joblib.load(tmp_path / "model.joblib")
    assert loaded.get_params() == fitted.get_params() and loaded.method_ == fitted.method_
    for name in ("classes_", "weights_", "label_quality_"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(fitted, name))
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))


def test_names_of_features_are_kept_and_checked(tmp_path):
    frame = pd.DataFrame(X, columns=[f"pixel {i}" for i in range(64)])
    ReweightClassifier(**TINY).fit(frame, Y).save(tmp_path)
    loaded = ReweightClassifier.load(tmp_path)
    assert loaded.feature_names_in_.tolist() == frame.columns.tolist()
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(frame.rename(columns={"pixel 0": "other"}))


@pytest.mark.slow
def test_it_goes_into_pipelines_and_searches():
    with config_context(enable_metadata_routing=True):
        own = ReweightClassifier(**TINY).set_fit_request(trusted=True)
        folds = StratifiedKFold(2)
        params = {"trusted": TRUSTED | (np.arange(len(X)) % 5 == 0)}
        scores = cross_val_score(make_pipeline(MinMaxScaler(), own), X, Y, cv=folds, params=params)
        assert scores.min() > 0.3
        search = GridSearchCV(
            clone(own), {"method": ["l2rw", "auto"]}, cv=folds, error_score="raise"
        )
        search.fit(X, Y, **params)
    assert search.best_estimator_.method_ in ("l2rw", "evidence")


def changed(value):
    """X with another value in its row 17."""
    other = X.copy()
    other[17, 3] = value
    return other


MISTAKES = {
    "NaN": ({}, (changed(np.nan), Y), "X: row 17, column 3 is nan, not finite"),
    "infinity": ({}, (changed(np.inf), Y), "X: row 17, column 3 is inf, not finite"),
    "lengths": ({}, (X, Y[:-1]), "inconsistent numbers of samples"),
    "one class": ({}, (X, np.ones(600)), "y: got one class, 1.0; takes two"),
    "mixed labels": (
        {},
        (X, np.array([1, "a"] * 300, object)),
        "y: got labels of the types int, str",
    ),
    "numbers": ({}, (X, np.linspace(0, 1, 600)), "continuous"),
    "float images": ({}, (X.reshape(-1, 8, 8, 1), Y), "X: got float64 [600, 8, 8, 1]; takes"),
    "channels first": (
        {},
        (np.zeros((600, 3, 8, 8), np.uint8), Y),
        "X: got uint8 [600, 3, 8, 8], with channels first; takes images [n, h, w, c] of uint8: use "
        "X.transpose(0, 2, 3, 1)",
    ),
    "grey channels first": ({}, (X.reshape(-1, 1, 8, 8), Y), "with channels first"),
    "no channels": ({}, (X.reshape(-1, 8, 8), Y), "X: got float64 [600, 8, 8]; takes features"),
    "text": ({}, (NAMES[Y][:, None], Y), "X: column 0 holds text ('zero'); takes numbers: encode"),
    "no mask": ({}, (X, Y, np.flatnonzero(TRUSTED)), "trusted: got int64 [100]; takes bool [600]"),
    "a mask of integers": ({}, (X, Y, TRUSTED * 1), "trusted: got int64 [600]; takes bool [600]"),
    "a short mask": ({}, (X, Y, TRUSTED[1:]), "trusted: got bool [599]; takes bool [600]"),
    "an empty mask": ({}, (X, Y, TRUSTED & False), "trusted: got 0 verified examples; takes 2"),
    "one trusted": ({}, (X, Y, np.arange(600) < 1), "trusted: got 1 verified examples"),
    "three": ({}, (X, Y, (X, Y, Y)), "trusted: got 3 arrays; takes (X, y)"),
    "narrow": ({}, (X, Y, (X[:, 1:], Y)), "trusted X: got shape [600, 63]; takes [n, 64]"),
    "trusted NaN": ({}, (X, Y, (changed(np.nan), Y)), "trusted X: row 17, column 3 is nan"),
    "trusted lengths": ({}, (X, Y, (X, Y[1:])), "trusted: got 600 rows of X and 599 labels"),
    "unknown label": ({}, (X, Y, (X, Y + 1)), "trusted: got the label 10, which no example of y"),
    "method": ({"method": "l2rv"}, (X, Y), "method: got 'l2rv'; takes"),
    "an oracle": ({"method": "weighted"}, (X, Y), "method: got 'weighted', which needs the labels"),
    "l2rw alone": ({"method": "l2rw"}, (X, Y), "trusted: got None; takes a mask"),
    "clean_only alone": ({"method": "clean_only"}, (X, Y), "trusted: got None; takes a mask"),
    "model": ({"model": "mpl-256"}, (X, Y), "model: got 'mpl-256'"),
    "width": ({"model": "mlp-0"}, (X, Y), "model: got 'mlp-0'; allowed: mlp-H1-H2"),
    "convolutions": ({"model": "lenet"}, (X, Y), "model: got 'lenet' for features [600, 64]"),
    "steps": ({"steps": 0}, (X, Y), "steps is 0: give an integer in 1.."),
    "networks": ({"networks": 2.5}, (X, Y), "networks is 2.5: give an integer in 1..1000"),
    "batch size": ({"batch_size": 0}, (X, Y), "batch_size is 0: give an integer in 1.."),
    "rate": ({"learning_rate": -1}, (X, Y), "learning_rate is -1: give a number above 0"),
    "no rate": ({"learning_rate": np.nan}, (X, Y), "learning_rate is nan: give a finite number"),
    "class weight": ({"class_weight": {0: 1}}, (X, Y), "class_weight: got {0: 1}; takes None or"),
    "seed": ({"random_state": "a"}, (X, Y), "random_state: got 'a'; takes an integer in 0.."),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gives_one_line_before_any_training(name, monkeypatch):
    monkeypatch.setattr("l2rw_jax.classifier.fit", lambda *_, **__: pytest.fail("it trained"))
    parameters, arguments, message = MISTAKES[name]
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        ReweightClassifier(**{**TINY, **parameters}).fit(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["absent", "config.json", "model.npz", "format"])
def test_a_folder_that_cannot_be_read_gives_one_line(fitted, tmp_path, damage):
    if damage != "absent":
        fitted.save(tmp_path)
    if damage == "format":
        config = tmp_path / "config.json"
        config.write_text(config.read_text().replace('"format": 1', '"format": 99'))
    elif damage != "absent":
        (tmp_path / damage).write_bytes(b"{damaged")
    with pytest.raises(ValueError, match=r"folder: .* holds no classifier that can be") as caught:
        ReweightClassifier.load(tmp_path)
    assert "\n" not in str(caught.value)
