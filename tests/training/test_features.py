"""Runs on features with given labels, from a user's file."""

import numpy as np
import pytest

from l2rw_jax.training import ConfigError, default_config, resolve, train_and_evaluate


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Four well separated clusters, the labels of a third of them moved to the next."""
    rng = np.random.default_rng(0)
    labels = np.arange(800) % 4
    features = rng.normal(size=(800, 8)) + 4 * np.eye(4, 8)[labels]
    given = np.where(rng.random(600) < 0.33, (labels[:600] + 1) % 4, labels[:600])
    path = tmp_path_factory.mktemp("features") / "features.npz"
    arrays = {"train_features": features[:600], "test_features": features[600:]}
    np.savez(path, **arrays, train_labels=labels[:600], test_labels=labels[600:], given=given)
    return f"npz:{path}"


def _config(dataset, **fields):
    config = default_config()
    fields = {"noise.kind": "given", "noise.column": "given", "steps": 40, "log_every": 20} | fields
    defaults = {"model": "mlp-16", "eval_every": 40, "checkpoint_every": 40, "learning_rate": 0.05}
    config.update_from_flattened_dict(defaults | fields | {"dataset": dataset})
    return config


@pytest.mark.parametrize("method", ["evidence", "l2rw", "weighted", "s_model_conf"])
def test_every_way_of_using_the_true_labels(dataset, tmp_path, method):
    result = train_and_evaluate(_config(dataset, method=method), tmp_path)
    assert result["test_accuracy"] > 0.75
    if method in ("evidence", "l2rw"):
        assert result["noise_auroc"] > 0.8


DIVISIBLE = {"batch_size": 80, "clean_batch_size": 80, "method": "evidence", "val_size": 50}


@pytest.fixture(scope="module")
def resident(dataset, tmp_path_factory):
    """A run on one device, which holds the features."""
    train_and_evaluate(_config(dataset, **DIVISIBLE), folder := tmp_path_factory.mktemp("one"))
    return folder


@pytest.mark.parametrize("fields", [{"stream": True}, {"parallel": "jit"}])
def test_however_the_features_reach_the_device(dataset, resident, tmp_path, fields):
    train_and_evaluate(_config(dataset, **DIVISIBLE | fields), tmp_path)
    one, other = (np.load(folder / "weights.npz") for folder in (resident, tmp_path))
    np.testing.assert_array_equal(one["count"], other["count"])
    np.testing.assert_allclose(one["mean_weight"], other["mean_weight"], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("pad", 1, "config.pad: got 1; takes 0 for features, which"),
        ("flip", True, "config.flip: got True; takes False for features, which"),
    ],
)
def test_features_are_not_augmented(dataset, field, value, message):
    with pytest.raises(ConfigError, match=message):
        resolve(_config(dataset, **{field: value}))
