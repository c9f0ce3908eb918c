"""Several processes, each with its devices, are one run."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import forked
import numpy as np
import pytest

from configs import digits
from l2rw_jax.training import train_and_evaluate

ROOT = Path(__file__).parents[2]
FIELDS = {
    **{"model": "mlp-16", "batch_size": 80, "val_size": 50},
    **{"clean_size": 100, "clean_batch_size": 80},
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


@pytest.mark.parametrize(
    ("parallel", "stream"),
    [
        ("jit", True),
        pytest.param("jit", False, marks=pytest.mark.slow),
        pytest.param("pmap", True, marks=pytest.mark.slow),
        pytest.param("pmap", False, marks=pytest.mark.slow),
    ],
)
def test_two_processes_are_one(parallel, stream, tmp_path):
    fields = {"parallel": parallel, "stream": stream}
    processes = _start_two(tmp_path / "two", **fields)
    config = digits.get_config()
    config.update_from_flattened_dict(FIELDS)
    train_and_evaluate(config, tmp_path / "one")  # on one device, with the images on it
    _finish(*processes)
    # The sums of four devices, in another order: float32's rounding, grown over 20 steps.
    _assert_same(_outcome(tmp_path / "two"), _outcome(tmp_path / "one"), 1e-3)


@pytest.mark.slow
def test_without_its_peer_a_process_ends_and_both_go_on_bit_for_bit(tmp_path):
    fields = {"parallel": "jit", "steps": 600, "eval_every": 300}
    _finish(*_start_two(tmp_path / "whole", **fields))
    processes = _start_two(tmp_path / "stopped", **fields)
    metrics = tmp_path / "stopped/metrics.jsonl"
    while not metrics.exists() or not metrics.stat().st_size:
        assert processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.05)
    processes[1].kill()
    started = time.monotonic()
    _, errors = processes[0].communicate(timeout=120)
    assert processes[0].returncode != 0 and time.monotonic() - started < 60, errors[-3000:]
    assert errors.splitlines()[-1].startswith("error: ") and "goes on" in errors.splitlines()[-1]
    assert not (tmp_path / "stopped/result.json").exists()
    _finish(*_start_two(tmp_path / "stopped", **fields))
    _assert_same(_outcome(tmp_path / "stopped"), _outcome(tmp_path / "whole"), 0)


def test_a_cluster_that_is_not_there_is_one_line(tmp_path):
    common = ["--config=configs/digits.py", f"--workdir={tmp_path / 'x'}"]
    with socket.create_server(("", 0)) as taken:
        coordinator = f"--coordinator=localhost:{taken.getsockname()[1]}"
        first = [coordinator, "--num_processes=2", "--process_id=0"]
        starts = [["--process_id=1"], ["--distributed"], first]
        done = forked.run("train", [common + start for start in starts], tmp_path / "done")
    messages = (
        "--coordinator: missing beside --process_id",
        "--distributed: no cluster that JAX knows",
        "cannot be had here (Address already in use)",
    )
    for (status, _, errors), message in zip(done, messages, strict=True):
        assert status == 2 and message in errors and len(errors.splitlines()) == 1, errors
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("process_id", [0, 1])
def test_where_nobody_comes_a_process_ends_in_one_line(process_id, tmp_path):
    program = (
        "from experiments import cli, processes, train; processes.PATIENCE = 1; cli.run(train.main)"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
    flags = ["--config=configs/digits.py", f"--workdir={tmp_path}/x", coordinator]
    flags += ["--num_processes=2", f"--process_id={process_id}"]
    done = subprocess.run(
        [sys.executable, "-c", program, *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and coordinator in done.stderr, done.stderr
    assert not (tmp_path / "x").exists()
