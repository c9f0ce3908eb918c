"""A run whose training images are streamed is the run whose images lie on the device."""

import json

import numpy as np
import pytest

from l2rw_jax.training import default_config, train_and_evaluate
from l2rw_jax.training.workdir import read_metrics


def _config(**fields):
    config = default_config()
    defaults = {
        "noise.kind": "uniform",
        "noise.ratio": 0.4,
        "model": "mlp-16",
        "steps": 20,
        "log_every": 5,
        "eval_every": 10,
        "checkpoint_every": 10,
        "val_size": 50,
        "finetune_steps": 10,
    }
    config.update_from_flattened_dict(defaults | fields)
    return config


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param(  # test_hosts.py streams under jit, too
            {"parallel": "jit", "batch_size": 80, "clean_batch_size": 80}, marks=pytest.mark.slow
        ),
        pytest.param(
            {"parallel": "pmap", "batch_size": 80, "clean_batch_size": 80}, marks=pytest.mark.slow
        ),
        pytest.param(  # a call a step
            {"model": "lenet", "batch_size": 8, "clean_batch_size": 8}, marks=pytest.mark.slow
        ),
        pytest.param({"method": "resample", "finetune_steps": 0}, marks=pytest.mark.slow),
    ],
    ids=["one device", "jit", "pmap", "lenet", "resample"],
)
def test_streamed_is_resident(tmp_path, fields):
    results = {}
    for stream in (False, True):
        config = _config(stream=stream, **fields)
        results[stream] = train_and_evaluate(config, tmp_path / str(stream))
        for name in ("compile_seconds", "steps_per_second"):
            results[stream].pop(name)
    assert json.dumps(results[True]) == json.dumps(results[False])
    lines = [read_metrics(tmp_path / str(stream)) for stream in (False, True)]
    for resident, streamed in zip(*lines, strict=True):
        same = ("loss", "grad_norm", "test_accuracy", "val_accuracy", "effective_sample_size")
        assert [resident.get(n) for n in same] == [streamed.get(n) for n in same]
    counts = [np.load(tmp_path / f"{s}/weights.npz")["count"] for s in (False, True)]
    np.testing.assert_array_equal(*counts)
