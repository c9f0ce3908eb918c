"""The programs as a user starts them: results, and one line for a mistake."""

import doctest
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import run_program

from experiments import sweep
from experiments.programs import folder_name, prepare_output
from l2rw_jax.training import ConfigError, RunError, resolve, train_seeds, validate

ROOT = Path(__file__).parents[2]
SMOKE = ["--config=configs/digits.py:smoke", "--config.model=mlp-16"]
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


# The others have convolutions to compile, and the same way through the program.
QUICK = ("digits",)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS]
)
def test_every_config_s_smoke_variant_runs(name, tmp_path):
    done = run_program("train", [f"--config=configs/{name}.py:smoke", f"--workdir={tmp_path}"])
    assert done.status == 0, done.errors
    result = json.loads(done.out)
    assert result["method"] == importlib.import_module(f"configs.{name}").get_config().method
    assert 0 <= result["test_accuracy"] <= 1


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_valid_and_says_its_command(name):
    module = importlib.import_module(f"configs.{name}")
    assert "Command:" in module.__doc__
    validate(module.get_config())
    resolve(module.get_config("smoke"))  # all but the training


def test_the_features_that_the_config_describes_train(tmp_path, monkeypatch):
    """The example in its docstring makes the file that it reads."""
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(importlib.import_module("configs.features"))
    assert tried and not failed
    quick = ["--config.steps=200", "--config.boundaries=()", "--config.eval_every=200"]
    arguments = [f"--config={ROOT}/configs/features.py", f"--workdir={tmp_path}/run", *quick]
    done = run_program("train", [*arguments, "--config.checkpoint_every=200"])
    assert done.status == 0, done.errors
    assert json.loads(done.out)["noise_auroc"] > 0.9


def test_a_sweep_reports_and_does_not_repeat_itself(tmp_path):
    arguments = [*SMOKE, f"--workdir={tmp_path}", "--seeds=2", "--methods=baseline,l2rw"]
    done = run_program("sweep", arguments)
    assert done.status == 0, done.errors
    assert "| baseline |" in done.out and "| l2rw |" in done.out
    report = json.loads((tmp_path / "sweep.json").read_text())
    assert len(report["runs"]) == 4
    assert [row["seeds"] for row in report["summary"]] == [2, 2]
    assert "--seeds=2" in report["command"] and report["versions"]["jax"]
    for figure in ("accuracy", "weights"):
        assert (tmp_path / f"sweep-{figure}.png").stat().st_size > 10_000
    page = (tmp_path / "report.html").read_text()
    assert page.count("<li>") == 20 and "labels that l2rw/seed0 doubts most" in page
    stamp = (tmp_path / "l2rw/seed1/result.json").stat().st_mtime_ns
    assert run_program("sweep", arguments).out == done.out
    assert (tmp_path / "l2rw/seed1/result.json").stat().st_mtime_ns == stamp


def test_outputs_replace_only_what_the_same_program_wrote(tmp_path):
    output = str(tmp_path / "mine")
    record = {"command": "python -m experiments.benchmark.modes --output=mine"}
    for name in ("mine.md", "mine.json", "mine-growth.png"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(
            ConfigError, match=rf"--output: {tmp_path}/{name} is not of experiments"
        ):
            prepare_output("benchmark.modes", output, "-growth.png")
        (tmp_path / name).rename(tmp_path / "mine")
        (tmp_path / name).symlink_to("mine")
        with pytest.raises(ConfigError, match=r"is a link or device; takes another name"):
            prepare_output("benchmark.modes", output, "-growth.png")
        (tmp_path / name).unlink()
    (tmp_path / "mine.json.tmp").write_text("mine")
    (tmp_path / "mine.md").write_text("a table")
    (tmp_path / "mine.json").write_text(json.dumps(record))
    prepare_output("benchmark.modes", output, "-growth.png")
    with pytest.raises(ConfigError, match=r"is not of experiments\.sweep; takes another name"):
        prepare_output("sweep", output)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("mine", "mine.json", "mine.json.tmp", "mine.md")
    ]


def test_a_sweep_writes_over_no_page_of_someone_else(tmp_path):
    (tmp_path / "report.html").write_text("<title>mine</title>")
    done = run_program("sweep", [*SMOKE, f"--workdir={tmp_path}"])
    assert done.status == 2 and "report.html is no page of a sweep; take another" in done.errors
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("folder", [None, "docs/images"])
def test_figures_outside_of_the_clone_are_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if folder:
        (tmp_path / folder).mkdir(parents=True)
    done = run_program("figures", [], required=())
    assert done.status == 2 and done.errors.count("\n") == 1
    assert "start this program in the clone" in done.errors


@pytest.mark.parametrize(
    ("half", "told"),
    [
        (0.7, "At the last step l2rw is the most accurate: 92.3 ± 0.7 %."),
        (1.2, "At the last step l2rw and random are level: 92.3 ± 1.2 and 91.0 ± 0.9 %."),
    ],
)
def test_the_lead_of_a_page_names_a_winner_only_beyond_the_intervals(half, told):
    def row(method, mean, ci95):
        return {"method": method, "test_accuracy": {"mean": mean / 100, "ci95": ci95 / 100}}

    summary = [row("random", 91.0, 0.9), row("l2rw", 92.3, half)]
    assert sweep.lead(summary, ["method"]) == told
    assert sweep.lead(summary[:1], ["method"]) == "At the last step random reaches 91.0 ± 0.9 %."


@pytest.mark.slow
def test_a_sweep_over_a_field(tmp_path):
    done = _run(
        "sweep",
        *SMOKE,
        *("--seeds=1", "--methods=baseline", f"--workdir={tmp_path}/runs"),
        *("--sweep=noise.ratio=0.0,0.4", f"--output={tmp_path}/out/noise"),
    )
    assert done.returncode == 0, done.stderr
    assert "| 0.0 | baseline |" in done.stdout and "| 0.4 | baseline |" in done.stdout
    assert (tmp_path / "out/noise-noise.ratio.png").exists()
    assert (tmp_path / "runs/report.html").read_text().count("<img") == 1  # the figure alone
    assert (tmp_path / "runs/noise.ratio=0.4/baseline/seed0/result.json").exists()


@pytest.mark.slow
def test_a_sweep_over_a_tuple_and_a_text(tmp_path):
    values = "boundaries=(10,20),()", "optimizer=sgd(momentum=0.9,nesterov=True),sgd"
    for value in values:
        arguments = [*SMOKE, "--seeds=1", "--methods=baseline", f"--workdir={tmp_path}"]
        done = run_program("sweep", [*arguments, f"--sweep={value}"])
        assert done.status == 0, done.errors
        report = json.loads((tmp_path / "sweep.json").read_text())
        assert len(report["summary"]) == 2
    assert (tmp_path / "boundaries=(10, 20)/baseline/seed0/result.json").exists()
    assert (tmp_path / "sweep-optimizer.png").exists()


def test_a_run_that_ends_is_a_row_and_the_others_are_done(tmp_path, monkeypatch):
    def train_each(config, folders):
        try:
            return train_seeds(config, folders)
        except RunError as error:
            return [error]

    monkeypatch.setattr(sweep, "train_seeds", train_each)
    arguments = [*SMOKE, f"--workdir={tmp_path}", "--methods=baseline", "--seeds=1"]
    done = run_program("sweep", [*arguments, "--sweep=learning_rate=0.1,1e30"])
    assert done.status == 1
    assert done.errors == f"error: 1 of 2 runs ended early; {tmp_path}/sweep.md says why\n"
    table = (tmp_path / "sweep.md").read_text()
    assert table in done.out
    rows = [line.split(" | ") for line in table.splitlines()]
    assert len({len(row) for row in rows[2:]}) == 1
    assert [row[:2] for row in rows[2:]] == [["| 0.1", "baseline"], ["| 1e+30", "baseline"]]
    assert rows[3][2].startswith("ended: seed 0: ") and "step 2: the loss" in rows[3][2]
    report = json.loads((tmp_path / "sweep.json").read_text())
    assert [row["seeds"] for row in report["summary"]] == [1]
    assert ["ended" in run for run in report["runs"]] == [False, True]
    assert "step 2: the loss" in report["runs"][1]["ended"]


def test_a_report_without_a_finished_run(tmp_path, monkeypatch):
    ended = RunError("step 7: a | b")
    monkeypatch.setattr(sweep, "train_seeds", lambda config, folders: [ended for _ in folders])
    arguments = [*SMOKE, f"--workdir={tmp_path}/runs", "--methods=l2rw", "--seeds=2"]
    done = run_program("sweep", arguments)
    assert done.status == 1 and "2 of 2 runs ended early" in done.errors
    assert "| l2rw | ended: seed 1: step 7: a / b |" in done.out
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"sweep.md", "sweep.json"}


@pytest.mark.parametrize(
    "value", ["a/../../../X", "..", "a\0b", "x" * 5000, "é/" * 100, "gs://a/b", "%2E"]
)
def test_a_swept_value_makes_one_safe_folder(value):
    name = folder_name(f"data_dir={value}")
    assert len(name) <= 100 and name.isprintable() and name.isascii()
    assert "/" not in name and ".." not in name
    assert name != folder_name(f"data_dir={value}.")


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
        (["--config=configs/digits.py", "config.steps=20"], "write --config.steps=20"),
        (
            ["--config=configs/features.py"],
            "config.noise.column=given_labels: features.npz cannot be read (No such file",
        ),
        (["--config=configs/cifar10n.py"], "tfds build cifar10_n --file_format=array_record"),
    ],
    "sweep": [
        (["--config=configs/digits.py", "--methods=baseline,l2wr"], "config.method: got 'l2wr'"),
        (
            ["--config=configs/digits.py", "--sweep=noise.ratio=0.1,a"],
            "--sweep=noise.ratio: got 'a'; takes a finite number",
        ),
        (["--config=configs/digits.py", "--sweep=model=mlp-16,mpl-16"], "config.model=mpl-16"),
        (
            ["--config=configs/digits.py", "--methods=l2rw,l2rw"],
            "--methods: got 'l2rw,l2rw'; takes distinct values",
        ),
    ],
}


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [(program, *mistake) for program, mistakes in MISTAKES.items() for mistake in mistakes],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    program, arguments, message, tmp_path, monkeypatch
):
    monkeypatch.setenv("L2RW_DATA_DIR", str(tmp_path))
    done = run_program(program, [*arguments, f"--workdir={tmp_path}/run"])
    assert done.status == 2 and message in done.errors
    assert len(done.errors.splitlines()) == 1, done.errors
    assert not list(tmp_path.iterdir())
