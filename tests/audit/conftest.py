"""Files to audit, and a command that trains the stand-in."""

import sys
import types

import numpy as np
import pytest

pytest.importorskip("pandas", reason="the audit takes pandas")

from made_up import CLASSES, blobs, write_labels
from stand_in import StandIn


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """Puts the stand-in where the command looks for the classifier."""
    module = types.ModuleType("l2rw_jax.classifier")
    module.ReweightClassifier = StandIn
    monkeypatch.setitem(sys.modules, "l2rw_jax.classifier", module)


@pytest.fixture
def audit(capsys):
    """Runs the command in this process; returns its status, its output and its errors."""
    from l2rw_jax.audit.command import main

    def run(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def features(tmp_path):
    """x.npy and labels.csv of 300 rows, and what is true; rows are named r0, r1, ..."""
    X, true, given = blobs()
    np.save(tmp_path / "x.npy", X)
    write_labels(tmp_path / "labels.csv", CLASSES[given])
    return X, CLASSES[true], CLASSES[given]
