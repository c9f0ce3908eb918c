"""The audit with the classifier that it has by default."""

import numpy as np
import pytest
from made_up import blobs

from l2rw_jax.audit import audit_labels


@pytest.fixture
def stand_in():
    """None here."""


@pytest.mark.parametrize("verified", [pytest.param(0, marks=pytest.mark.slow), 150])
def test_it_finds_wrong_labels(verified):
    X, true, given = blobs(1000, noise=0.2)
    mask = np.arange(1000) < verified
    table = audit_labels(X, given, (mask, true) if verified else None)
    issue = (table["is_label_issue"] & ~table["trusted"]).to_numpy()
    wrong = (given != true) & ~mask
    assert wrong[issue].mean() > 0.8 and issue[wrong].mean() > 0.6
