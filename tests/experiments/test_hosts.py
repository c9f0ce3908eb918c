"""Several processes, each with its devices, are one run."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FIELDS = {
    **{"model": "mlp-16", "batch_size": 80, "clean_batch_size": 80, "val_size": 50},
    **{"noise.kind": "uniform", "noise.ratio": 0.4},
    **{"steps": 20, "log_every": 5, "eval_every": 10, "checkpoint_every": 10},
}


def _start(workdir, devices, *flags, **fields):
    arguments = [f"--config.{name}={value}" for name, value in (FIELDS | fields).items()]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "experiments.train", "--config=configs/digits.py"),
            *(f"--workdir={workdir}", *arguments, *flags),
        ],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _start_two(workdir, **fields):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
    return [
        _start(workdir, 2, coordinator, "--num_processes=2", f"--process_id={i}", **fields)
        for i in range(2)
    ]


def _finish(*processes, status=0):
    outputs = [process.communicate(timeout=300) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == status, errors[-3000:]
    return outputs


def _outcome(workdir):
    result = json.loads((workdir / "result.json").read_text())
    weights = np.load(workdir / "weights.npz")
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return (
        [result[name] for name in ("test_accuracy", "val_accuracy", "noise_auroc", "steps")],
        weights["count"].tolist(),
        np.array([[line["loss"], line["grad_norm"]] for line in lines]),
        weights["mean_weight"],
    )


def _assert_same(got, want, tolerance):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
@pytest.mark.parametrize("stream", [False, True], ids=["resident", "streamed"])
def test_two_processes_are_one(parallel, stream, tmp_path):
    fields = {"parallel": parallel, "stream": stream}
    _finish(*_start_two(tmp_path / "two", **fields))
    _finish(_start(tmp_path / "one", 4, **fields))
    # The sums of four devices, in another order: float32's rounding, grown over 20 steps.
    _assert_same(_outcome(tmp_path / "two"), _outcome(tmp_path / "one"), 1e-3)
