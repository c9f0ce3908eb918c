"""The programs as a user starts them: results, and one line for a mistake."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import forked
import pytest

from l2rw_jax.training import check, validate

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def _run(program, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{program}", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


# One of each kind of network and noise; the others differ from these in numbers alone.
QUICK = ("digits", "mnist_imbalance", "cifar10_background")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS]
)
def test_every_config_s_smoke_variant_runs(name, tmp_path):
    done = _run("train", f"--config=configs/{name}.py:smoke", f"--workdir={tmp_path}")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["method"] == "l2rw"
    assert 0 <= result["test_accuracy"] <= 1


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_valid_and_says_its_command(name):
    module = importlib.import_module(f"configs.{name}")
    assert "Command:" in module.__doc__
    validate(module.get_config())
    check(module.get_config("smoke"))  # all but the training


def test_a_sweep_reports_and_does_not_repeat_itself(tmp_path):
    arguments = [f"--workdir={tmp_path}", "--config=configs/digits.py:smoke", "--seeds=2"]
    arguments += ["--methods=baseline,l2rw"]
    done = _run("sweep", *arguments)
    assert done.returncode == 0, done.stderr
    assert "| baseline |" in done.stdout and "| l2rw |" in done.stdout
    report = json.loads((tmp_path / "sweep.json").read_text())
    assert len(report["runs"]) == 4
    assert [row["seeds"] for row in report["summary"]] == [2, 2]
    assert "--seeds=2" in report["command"] and report["versions"]["jax"]
    for figure in ("accuracy", "weights"):
        assert (tmp_path / f"sweep-{figure}.png").stat().st_size > 10_000
    stamp = (tmp_path / "l2rw/seed1/result.json").stat().st_mtime_ns
    assert _run("sweep", *arguments).stdout == done.stdout
    assert (tmp_path / "l2rw/seed1/result.json").stat().st_mtime_ns == stamp


def test_a_sweep_over_a_field(tmp_path):
    arguments = ["--config=configs/digits.py:smoke", "--seeds=1", "--methods=baseline"]
    done = _run(
        "sweep",
        f"--workdir={tmp_path}/runs",
        "--sweep=noise.ratio=0.0,0.4",
        *arguments,
        f"--output={tmp_path}/out/noise",
    )
    assert done.returncode == 0, done.stderr
    assert "| 0.0 | baseline |" in done.stdout and "| 0.4 | baseline |" in done.stdout
    assert (tmp_path / "out/noise-noise.ratio.png").exists()
    assert (tmp_path / "runs/noise.ratio=0.4/baseline/seed0/result.json").exists()


MISTAKES = {
    "train": [
        (["--config=configs/nope.py"], "no file 'configs/nope.py'; this folder has"),
        (["--config=configs/digits.py:smoek"], "got 'smoek'; takes smoke"),
        (
            ["--config=configs/digits.py", "--config.noise.ration=0.1"],
            "--config.noise.ration: no such field; did you mean 'noise.ratio'?",
        ),
        (
            ["--config=configs/cifar100_uniform.py"],
            "tfds build cifar100 --file_format=array_record",
        ),
    ],
    "sweep": [
        (["--config=configs/digits.py", "--methods=baseline,l2wr"], "config.method: got 'l2wr'"),
        (
            ["--config=configs/digits.py", "--sweep=noise.ratio=a,b"],
            "--sweep: got 'noise.ratio=a,b'; takes FIELD=VALUE,VALUE",
        ),
        (["--config=configs/digits.py", "--sweep=model=mlp-16,mpl-16"], "config.model=mpl-16"),
        (
            ["--config=configs/digits.py", "--methods=l2rw,l2rw"],
            "--methods: got 'l2rw,l2rw'; takes distinct values",
        ),
    ],
}


@pytest.mark.parametrize("program", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(program, tmp_path):
    workdir = tmp_path / "run"
    starts = [[*arguments, f"--workdir={workdir}"] for arguments, _ in MISTAKES[program]]
    done = forked.run(program, starts, tmp_path / "done", L2RW_DATA_DIR=str(tmp_path))
    for (status, _, errors), (arguments, message) in zip(done, MISTAKES[program], strict=True):
        assert status == 2, arguments
        assert message in errors
        assert len(errors.splitlines()) == 1, errors
    assert not workdir.exists()
