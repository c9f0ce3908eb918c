"""The table of an audit: its columns, what the flags promise, and wrong arguments."""

import numpy as np
import pandas as pd
import pytest
from made_up import CLASSES, blobs
from stand_in import StandIn

from l2rw_jax.audit import AuditError, audit_labels
from l2rw_jax.audit import table as table_module
from l2rw_jax.audit.calibrate import check_first
from l2rw_jax.audit.table import run_audit

COLUMNS = [
    "is_label_issue",
    "label_score",
    "given_label",
    "predicted_label",
    "id",
    "mean_weight",
    "trusted",
]


def test_columns_and_types():
    X, _, given = blobs()
    ids = np.arange(300)[::-1]
    table = audit_labels(X, CLASSES[given], ids=ids)  # the default classifier
    assert list(table) == COLUMNS
    assert table["is_label_issue"].dtype == table["trusted"].dtype == bool
    assert table["label_score"].between(0, 1).all()
    np.testing.assert_array_equal(table["given_label"], CLASSES[given])
    np.testing.assert_array_equal(table["id"], ids)
    assert table["mean_weight"].mean() == pytest.approx(1)
    issue = table["is_label_issue"]
    assert (table["predicted_label"] != table["given_label"])[issue].all()
    np.testing.assert_array_equal(audit_labels(X, given)["id"], range(300))


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.3])
@pytest.mark.parametrize("spread", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("verified", [0, 200])
def test_at_least_half_of_the_flagged_labels_are_wrong(noise, spread, verified):
    X, true, given = blobs(2000, noise, spread=spread, seed=1)
    mask = np.arange(2000) < verified
    table = audit_labels(X, given, (mask, true) if verified else None, classifier=StandIn())
    issue = (table["is_label_issue"] & ~table["trusted"]).to_numpy()
    wrong = given != true
    assert wrong[issue].mean() >= 0.5
    audit = run_audit(X, given, (mask, true) if verified else None, classifier=StandIn())
    np.testing.assert_array_equal(audit.table["is_label_issue"], audit.wrong >= 0.5)
    rest = wrong & ~mask
    # And it finds most of them, where they can be found: at 1.4 the classes overlap.
    assert wrong[issue].sum() / rest.sum() > (0.7 if spread < 1.2 else 0.4)


def test_without_noise_little_is_flagged():
    X, _, given = blobs(2000, noise=0, spread=1.4)
    assert audit_labels(X, given, classifier=StandIn())["is_label_issue"].mean() < 0.05


def test_with_verified_rows_the_estimated_probability_is_right():
    X, true, given = blobs(4000, 0.25, spread=1.3, seed=2)
    mask = np.random.default_rng(0).random(4000) < 0.2
    audit = run_audit(X, given, (mask, true), classifier=StandIn())
    wrong, rest = given != true, ~mask
    for low, high in ((0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1)):
        part = rest & (audit.wrong >= low) & (audit.wrong < high)
        error = abs(wrong[part].mean() - audit.wrong[part].mean())
        assert error < 3 * np.sqrt(0.25 / part.sum()) + 0.03


def test_what_is_verified_is_known():
    X, true, given = blobs(seed=3)
    mask = np.arange(300) < 60
    audit = run_audit(X, CLASSES[given], (mask, CLASSES[true]), classifier=StandIn())
    table = audit.table[mask]
    np.testing.assert_array_equal(table["is_label_issue"], (given != true)[mask])
    np.testing.assert_array_equal(table["predicted_label"], CLASSES[true][mask])
    np.testing.assert_array_equal(audit.wrong[mask], (given != true)[mask])
    np.testing.assert_array_equal(audit.table["trusted"], mask)
    assert audit.calibrated is not None


class Recorder(StandIn):
    def fit(self, X, y, trusted=None):
        self.given = (X, y, trusted)
        return super().fit(X, y, trusted)


def test_rows_train_with_their_given_label_and_verified_labels_steer():
    X, true, given = blobs(seed=4)
    mask = np.arange(300) % 3 == 0
    audit_labels(X, given, (mask, true), classifier=(recorder := Recorder()))
    _, y, (clean_X, clean_y) = recorder.given
    np.testing.assert_array_equal(y, given)
    np.testing.assert_array_equal(clean_X, X[mask])
    np.testing.assert_array_equal(clean_y, true[mask])
    audit_labels(X, given, mask, classifier=(recorder := Recorder()))
    np.testing.assert_array_equal(recorder.given[2], mask)
    audit_labels(X, given, np.zeros(300, bool), classifier=(recorder := Recorder()))
    assert recorder.given[2] is None


def test_few_verified_rows_do_not_calibrate():
    X, true, given = blobs()
    few = np.zeros(300, bool)
    few[np.flatnonzero(given != true)[:4]] = few[np.flatnonzero(given == true)[:50]] = True
    assert run_audit(X, given, (few, true), classifier=StandIn()).calibrated is None
    few[np.flatnonzero(given != true)[:5]] = True
    assert run_audit(X, given, (few, true), classifier=StandIn()).calibrated is not None


def test_images_series_and_two_classes():
    X, _, given = blobs(classes=2, d=12)
    images = np.clip(X * 30 + 100, 0, 255).astype(np.uint8).reshape(300, 2, 2, 3)
    table = audit_labels(images, pd.Series(["no", "yes"]).iloc[given], classifier=StandIn())
    assert table["is_label_issue"].sum() > 20


X, TRUE, GIVEN = blobs(30)
MASK = np.arange(30) < 3
BAD = {
    "X: got a list": ([[1, 2]], [0, 1], None, None),
    r"X: got \[30\]": (X[:, 0], GIVEN, None, None),
    "X: no rows": (X[:0], GIVEN[:0], None, None),
    r"y: got shape \[29\] for 30": (X, GIVEN[1:], None, None),
    r"y: got shape \[30, 1\]": (X, GIVEN[:, None], None, None),
    "y: one class alone, '0'": (X, GIVEN * 0, None, None),
    "y: class '7' has one row": (X, np.where(np.arange(30) == 0, 7, GIVEN), None, None),
    "y: row 2 has no label": (X, np.where(np.arange(30) == 2, np.nan, GIVEN), None, None),
    "y: row 1 has no label": (X, np.array(["a", None] * 15, object), None, None),
    r"ids: got shape \[2\]": (X, GIVEN, None, [1, 2]),
    "ids: 0.0 comes more than once": (X, GIVEN, None, np.zeros(30)),
    "trusted: got int": (X, GIVEN, MASK.astype(int), None),
    "trusted: got bool": (X, GIVEN, MASK[1:], None),
    "trusted: got 3 arrays": (X, GIVEN, (MASK, GIVEN, GIVEN), None),
    r"trusted: got true labels of shape \[3\]": (X, GIVEN, (MASK, GIVEN[:3]), None),
    "trusted: label 9 is none": (X, GIVEN, (MASK, np.full(30, 9)), None),
}


@pytest.mark.parametrize("message", BAD)
def test_wrong_arguments_are_refused_in_one_line(message):
    X, y, trusted, ids = BAD[message]
    with pytest.raises(AuditError, match=f"^{message}") as caught:
        audit_labels(X, y, trusted, ids=ids, classifier=StandIn())
    assert "\n" not in str(caught.value)


def test_rows_checked_because_they_look_wrong_do_not_steer():
    X, true, given = blobs(n=600)
    before = audit_labels(X, given, classifier=StandIn())["label_score"].to_numpy()
    worst = np.argsort(before) < 0
    worst[np.argsort(before)[:60]] = True
    after = audit_labels(X, given, (worst, true), classifier=StandIn())
    np.testing.assert_array_equal(after["label_score"], before)
    assert (after["predicted_label"] == true)[worst].all()
    chosen = StandIn()
    chosen.method = "forward"  # it would not run without trusted rows
    steered = audit_labels(X, given, (worst, true), classifier=chosen)["label_score"]
    assert not np.array_equal(steered, before)


def test_rows_chosen_because_they_look_wrong_leave_the_steering_to_the_sample():
    X, true, given = blobs(n=600)
    order = np.argsort(audit_labels(X, given, classifier=StandIn())["label_score"].to_numpy())
    sample, worst = np.zeros(600, bool), np.zeros(600, bool)
    sample[check_first(order)] = worst[order[:60]] = True
    alone = run_audit(X, given, (sample, true), classifier=StandIn())
    both = run_audit(X, given, (sample | worst, true), classifier=StandIn(), chosen=worst & ~sample)
    assert alone.steering == both.steering == 100
    np.testing.assert_array_equal(both.table["label_score"], alone.table["label_score"])
    unknown = run_audit(X, given, (sample | worst, true), classifier=StandIn())
    assert unknown.steering == 0


class Joins(StandIn):
    def _add_networks(self, other, X, y):
        self.joined = other, X, y


def test_the_networks_of_both_fits_are_kept_where_few_rows_steer(monkeypatch):
    X, true, given = blobs(n=600)
    mask = np.arange(600) % 6 == 0
    audit_labels(X, given, (mask, true), classifier=(classifier := Joins()))
    other, rows, labels = classifier.joined
    assert rows is X
    np.testing.assert_array_equal(labels, given)
    np.testing.assert_array_equal(other.coef, StandIn().fit(X, given).coef)
    assert not np.array_equal(classifier.coef, other.coef)
    monkeypatch.setattr(table_module, "_MANY", 100)
    audit_labels(X, given, (mask, true), classifier=(many := Joins()))
    assert not hasattr(many, "joined")
    chosen = Joins()
    chosen.method = "forward"
    audit_labels(X, given, (mask, true), classifier=chosen)
    assert not hasattr(chosen, "joined")
