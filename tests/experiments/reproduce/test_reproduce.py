"""From a target to its runs, and from finished runs to tables; and whole targets at smoke scale."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import numpy as np
import pytest
from jax.errors import JaxRuntimeError

from experiments.reproduce import plan as plans
from experiments.reproduce import report
from experiments.reproduce.plan import make_plan
from experiments.reproduce.scales import SCALES
from experiments.reproduce.targets import TARGETS
from l2rw_jax import reports
from l2rw_jax.training import ConfigError, RunError, validate
from l2rw_jax.training import workdir as files

ROOT = Path(__file__).parents[3]
PROGRAM = (
    "from experiments import cli; from experiments.reproduce.__main__ import main; "
    "cli.run(main, required=['target'])"
)
# So many small chunks that a kill finds the run in the middle.
LONG = (
    "from experiments.reproduce.scales import SCALES; scale = SCALES['smoke']['imbalance']; "
    "scale.fields.update(steps=2000, log_every=10, eval_every=100); "
)
MADE_WITH = {"device": "a device", "versions": {"jax": "0"}}


def _start(*arguments, before=""):
    return subprocess.Popen(
        [sys.executable, "-c", before + PROGRAM, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(*arguments, **options):
    process = _start(*arguments, **options)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def _cells(plan):
    return {(cell.row.label, cell.column.label): cell for cell in plan.cells}


@pytest.mark.parametrize(
    ("target", "scale"),
    [(t, s) for t in TARGETS for s in SCALES if TARGETS[t].family in SCALES[s]],
)
def test_every_target_has_runs_that_are_valid_at_every_scale(target, scale):
    plan = make_plan(target, scale)
    assert plan.runs
    for config in plan.runs.values():
        validate(config)
        assert config.checkpoint_every == config.log_every
    assert "no device yet" in report.caption(plan, {}, "the command", "", [])
    for cell in plan.cells:
        assert bool(cell.runs) == bool(cell.row.method)
        assert len(cell.row.paper) in (0, len(TARGETS[target].columns))


def test_the_paper_s_protocol_is_what_the_paper_says():
    runs, cells = make_plan("table2", "paper").runs, _cells(make_plan("table2", "paper"))
    ours = runs[cells["Ours", "CIFAR-10"].runs[0]]
    assert (ours.model, ours.noise.kind, ours.noise.ratio) == ("resnet-32", "background", 0.4)
    assert (ours.steps, ours.boundaries, ours.learning_rate) == (80_000, (40_000, 60_000), 0.1)
    assert (ours.batch_size, ours.clean_batch_size, ours.clean_size) == (100, 100, 100)
    assert (ours.optimizer, ours.clip_norm, ours.pad, ours.flip) == (
        "sgd(momentum=0.9)",
        0,
        4,
        True,
    )
    assert (ours.low, ours.high, ours.clean_balanced, ours.clean_in_train) == (-1, 1, True, False)
    assert (ours.seed, ours.val_size, ours.weight_decay, ours.clean_weight_decay) == (
        0,
        5000,
        2e-4,
        0,
    )
    assert [runs[folder].seed for folder in cells["Ours", "CIFAR-10"].runs] == [0, 1, 2, 3, 4]
    assert cells["Ours", "CIFAR-10"].runs in make_plan("table2", "paper").groups
    assert runs[cells["Ours", "CIFAR-100"].runs[0]].clean_size == 1000
    plan = make_plan("table1", "paper")
    ours = plan.runs[_cells(plan)["Ours", "CIFAR-100"].runs[0]]
    assert (ours.dataset, ours.model, ours.dropout) == ("cifar100", "wrn-28-10", 0.3)
    assert (ours.steps, ours.boundaries, ours.clean_size) == (60_000, (40_000, 50_000), 1000)
    assert (ours.noise.kind, ours.noise.ratio, ours.learning_rate) == ("uniform", 0.4, 0.1)
    assert (ours.weight_decay, ours.batch_size, ours.clean_batch_size) == (2e-4, 100, 100)
    tuned = plan.runs[_cells(plan)["Random + FT", "CIFAR-10"].runs[0]]
    assert tuned.finetune_steps == 5000
    plan = make_plan("figure3", "paper")
    ours = plan.runs[_cells(plan)["Ours", "0.995"].runs[0]]
    assert (ours.steps, ours.learning_rate, ours.boundaries) == (8000, 1e-3, ())
    assert (ours.clean_size, ours.imbalance.total, ours.weight_decay) == (10, 5000, 0)
    assert len(_cells(plan)["Ours", "0.995"].runs) == 10
    # The clean images are split from the 5,000, and only ours does not train on them.
    assert {c.method for c in plan.runs.values() if not c.clean_in_train} == {"l2rw"}


def test_es_is_the_shorter_schedule_and_ft_the_same_run_some_steps_longer():
    plan = make_plan("table2", "paper")
    cells = {label: cell.runs for (label, column), cell in _cells(plan).items() if "0" in column}
    assert cells["Baseline"] == cells["Baseline + FT"] != cells["Baseline + ES"]
    assert cells["Baseline + ES"] == cells["Baseline + ES + FT"]
    for label, folders in cells.items():
        config = plan.runs[folders[0]]
        short = (60_000, (40_000, 50_000)), (80_000, (40_000, 60_000))
        assert (config.steps, config.boundaries) == short["ES" not in label], label
    tuned = {label for label, (folder, *_) in cells.items() if plan.runs[folder].finetune_steps}
    assert {label for label in cells if "FT" in label} < tuned
    assert not tuned & {"Random", "Ours", "Clean only", "S-Model", "Reed-Soft + ES"}
    assert {plan.runs[cells[label][0]].finetune_steps for label in tuned} == {5000}


def test_targets_share_their_runs():
    runs = {
        name: make_plan(name, "cpu").runs for name in ("table2", "figure5", "figure6", "figure7")
    }
    assert runs["figure7"].keys() <= runs["table2"].keys()
    for name in ("figure5", "figure6"):
        shared = runs[name].keys() & runs["table2"].keys()
        assert shared
        assert all(runs[name][folder] == runs["table2"][folder] for folder in shared)


def test_seeds_train_together_where_a_scale_says_so():
    plan = make_plan("figure3", "paper", rows=["Ours"], columns=["0.9"])
    assert plan.groups == [tuple(plan.runs)] and len(plan.runs) == 10
    plan = make_plan("figure3", "cpu", rows=["Ours"], columns=["0.9"], seeds=2)
    assert plan.groups == [(folder,) for folder in plan.runs]
    assert [config.seed for config in plan.runs.values()] == [0, 1]
    plan = make_plan("table2", "paper", rows=["Baseline", "Baseline + FT", "Baseline + ES"])
    assert len(plan.cells) == 6 and len(plan.groups) == 4  # + FT is no run of its own
    # The one seed of "No noise" is the first of figure 6's five.
    (folder,) = make_plan("table2", "paper", rows=["No noise"], columns=["CIFAR-10"]).runs
    assert folder in make_plan("figure6", "paper", rows=["Baseline"]).runs


def _pretend(workdir, folder, config, lines, **result):
    """Writes the files of a finished run."""
    path = Path(workdir, folder)
    path.mkdir(parents=True)
    files.write_json(path / "config.json", config.to_dict())
    for line in lines:
        files.append_metrics(path, {"steps_per_second": 2.0} | line)
    about = {"method": config.method, "test_accuracy": 0.0}
    files.write_json(path / "result.json", about | MADE_WITH | result)


def test_what_comes_after_the_main_phase_counts_with_ft_only(tmp_path):
    plan = make_plan("table2", "cpu", rows=["Baseline", "Baseline + FT"])
    values = iter([(0.5, 0.4, 0.7), (0.6, 0.3, 0.6), (0.4, 0.2, 0.8)])
    for folder, config in plan.runs.items():
        first, last, tuned = next(values)
        lines = [
            {"step": 250, "test_accuracy": first},
            {"step": config.steps, "test_accuracy": last},
            {"step": config.steps + config.finetune_steps, "test_accuracy": tuned},
        ]
        _pretend(tmp_path, folder, config, lines)
    without, tuned = report.summarize(plan, tmp_path, report.finished(plan, tmp_path))
    np.testing.assert_allclose(without["last"]["values"], [40, 30, 20])
    np.testing.assert_allclose(without["best"]["values"], [50, 60, 40])
    np.testing.assert_allclose(tuned["last"]["values"], [70, 60, 80])
    assert tuned["best"] == tuned["last"]  # the best of what came on the clean set
    mean, half = reports.mean_interval([40.0, 30.0, 20.0])
    assert without["last"]["mean"] == pytest.approx(mean)
    assert without["last"]["ci95"] == pytest.approx(half)
    table = report.table([without, tuned])
    assert f"| Baseline | {mean:.2f} ± {half:.2f} | 50.00 ± " in table
    assert "| 59.54 ± 2.16 | 3 |" in table and "| 82.82 ± 0.93 | 3 |" in table
    # Lines of log_every steps, two a second; the last is of the clean set's.
    assert without["seconds"] == 2 * 50 / 2 and tuned["seconds"] == 3 * 50 / 2
    report.write(plan, tmp_path, tmp_path / "out", "the command")
    stored = json.loads((tmp_path / "out.json").read_text())
    assert {run["last_chunk"]["step"] for run in stored["runs"]} == {1000}  # of the main phase


def test_errors_are_what_accuracy_lacks_and_seconds_a_seed_s_share(tmp_path):
    plan = make_plan("figure3", "paper", rows=["Ours"], columns=["0.9"], seeds=2)
    values = iter([(0.9, 0.8), (0.99, 0.6)])
    for folder, config in plan.runs.items():
        first, last = next(values)
        lines = [
            {"step": 4000, "test_accuracy": 0.1, "test_balanced_accuracy": first},
            {"step": 8000, "test_accuracy": 0.1, "test_balanced_accuracy": last},
        ]
        _pretend(tmp_path, folder, config, lines, side_by_side=2)
    (entry,) = report.summarize(plan, tmp_path, report.finished(plan, tmp_path))
    np.testing.assert_allclose(entry["last"]["values"], [20, 40])
    np.testing.assert_allclose(entry["best"]["values"], [10, 1])
    assert entry["seconds"] == 2 * 500 / 2 / 2


def test_a_report_says_what_is_quoted_what_is_missing_and_of_what_size(tmp_path):
    plan = make_plan("table1", "cpu", rows=["MentorNet", "Random", "Ours"])
    done = [folder for folder in plan.runs if "random" in folder][:2]
    for folder in done:
        lines = [{"step": 750, "test_accuracy": 0.5, "grad_norm_max": 3.0}]
        _pretend(tmp_path, folder, plan.runs[folder], lines)
    text = report.write(plan, tmp_path, tmp_path / "out", "the command", "A note.", ["a folder"])
    assert (tmp_path / "out.md").read_text() == text
    assert "| MentorNet | quoted, not run | - | 76.6 | 0 | - |" in text
    assert "| Random | 50.00 ± 0.00 | 50.00 ± 0.00 | 86.06 ± 0.32 | 2 |" in text
    assert "| Ours | - | - | 86.92 ± 0.19 | 0 | - |" in text
    assert "Incomplete: 2 of 6 runs are done." in text
    assert "reduced, not the paper's protocol: cifar10, wrn-10-1, float32, 750 steps" in text
    assert "`the command`, on a device, JAX 0." in text and "A note." in text
    assert "Could not go on, and count in no mean: a folder." in text
    assert "ES" not in text and "FT" not in text.split("\n\n")[0]  # no row has them
    stored = json.loads((tmp_path / "out.json").read_text())
    assert [run["folder"] for run in stored["runs"]] == done
    assert stored["device"] == "a device" and stored["note"] == "A note."
    assert stored["config"]["method"] == "random"
    assert [run["config"] for run in stored["runs"]] == [{}, {"seed": 1}]  # what differs
    assert not any("device" in run for run in stored["runs"])
    assert stored["runs"][0]["last_chunk"]["test_accuracy"] == 0.5
    assert stored["runs"][0]["largest_grad_norm"] == 3.0


def test_a_table_says_which_data_stand_in_for_the_paper_s(tmp_path):
    plan = make_plan("table2", "mnist", rows=["Weighted + FT", "Ours"])
    assert {config.dataset for config in plan.runs.values()} == {"mnist"}
    paper = make_plan("table2", "paper", rows=["Ours"], columns=["CIFAR-10"])
    (ours, *_), (theirs, *_) = ([c for c in p.runs.values() if c.seed == 0] for p in (plan, paper))
    assert (8 * ours.steps, tuple(8 * step for step in ours.boundaries)) == (
        80_000,
        (40_000, 60_000),
    )
    for field in ("noise", "clean_size", "val_size", "batch_size", "optimizer", "weight_decay"):
        assert ours[field] == theirs[field]
    text = report.write(plan, tmp_path, tmp_path / "out", "the command")
    assert "| method | MNIST for CIFAR-10, last | best epoch | paper | seeds |" in text
    assert ": mnist, mlp-256-256, float32, 10,000 steps, FT 625 steps, rate 0.01," in text


@pytest.mark.parametrize("target", ["figure6", "figure7"])
def test_figures_are_drawn_of_what_is_there(target, tmp_path):
    plan = make_plan(target, "cpu", rows=["Baseline", "Ours"])
    for folder, config in plan.runs.items():
        lines = [
            {"step": 50, "train_accuracy": 0.2},
            {"step": 500, "train_accuracy": 0.4, "val_accuracy": 0.3, "test_accuracy": 0.5},
        ]
        if "l2rw" in folder or "noise0.4" in folder:
            _pretend(tmp_path, folder, config, lines)
    report.write(plan, tmp_path, tmp_path / "out", "the command")
    assert (tmp_path / "out.png").stat().st_size > 10_000
    if target == "figure7":
        curves = json.loads((tmp_path / "out.json").read_text())["curves"]
        assert curves["Ours"]["training"] == {"50": [20] * 3, "500": [40] * 3}
        assert curves["Ours"]["hyper-validation"] == {"500": [30] * 3}


COMMITTED = [
    path
    for path in sorted((ROOT / "results").glob("*.json"))
    if "target" in json.loads(path.read_text())
]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_committed_table_follows_from_its_values(path):
    stored = json.loads(path.read_text())
    assert report.table(stored["summary"]) in path.with_suffix(".md").read_text()
    for entry in stored["summary"]:
        for kind in ("last", "best"):
            mean, ci95 = reports.mean_interval(entry[kind]["values"] or [None])
            assert entry[kind]["mean"] == pytest.approx(mean)
            assert entry[kind]["ci95"] == pytest.approx(ci95)


def test_a_dry_run_says_what_it_would_run_and_writes_nothing(tmp_path):
    code, out, err = _run("--target=figure3", "--dry-run", f"--workdir={tmp_path}", "--rows=Ours")
    assert code == 0, err
    assert "share0.9-none0-clean10/l2rw/seed1: 0 of 8 steps done\n" in out
    assert "4 runs; time left: unknown" in out
    assert not list(tmp_path.iterdir())


def test_the_time_that_is_left_is_that_of_the_steps_that_are_left(tmp_path):
    plan = make_plan("figure3", "cpu", rows=["Ours"])
    folders = list(plan.runs)
    (tmp_path / folders[1] / "checkpoints" / "250").mkdir(parents=True)
    text = plans.describe(plan, tmp_path, {folders[0]})
    assert f"{folders[0]}: 500 of 500 steps done\n{folders[1]}: 250 of 500 steps done\n" in text
    minutes = 13.5 * 500 * SCALES["cpu"]["imbalance"].seconds["l2rw"] / 60
    assert f"15 runs; time left: about {minutes:.0f} minutes of one core" in text


def test_the_steps_of_seeds_side_by_side_are_those_of_each(tmp_path):
    saved = {"seeds0-9/checkpoints": 4000, "seeds10-11/checkpoints": 8000, "seed3/checkpoints": 50}
    for place, step in saved.items():
        (tmp_path / place / str(step)).mkdir(parents=True)
    (tmp_path / "seed3/checkpoints/100.orbax-checkpoint-tmp-17").mkdir()  # killed as it saved
    assert plans.steps_done(tmp_path / "seed3") == 4000
    assert plans.steps_done(tmp_path / "seed10") == 8000
    assert plans.steps_done(tmp_path / "seed12") == 0


@pytest.mark.parametrize("raised", [True, False])
def test_of_seeds_side_by_side_those_without_a_result_are_named(raised, tmp_path, monkeypatch):
    plan = make_plan("figure3", "paper", rows=["Ours"], columns=["0.9"], seeds=3)
    folders = list(plan.runs)

    def train_seeds(config, paths, together):
        for path in (paths[0], paths[2]):
            path.mkdir(parents=True)
            files.write_json(path / "result.json", MADE_WITH)
        error = RunError("seed 1: not finite")
        if raised:
            raise error
        return [{"test_accuracy": 0.5}, error, {"test_accuracy": 0.5}]

    monkeypatch.setattr(plans, "train_seeds", train_seeds)
    assert plans.train(plan, tmp_path, plan.groups) == {folders[1]: "seed 1: not finite"}


def test_a_run_that_ended_without_a_result_is_not_finished(tmp_path):
    plan = make_plan("figure3", "cpu", rows=["Ours"], columns=["0.9"], seeds=2)
    first, second = plan.runs
    for folder in (first, second):
        _pretend(tmp_path, folder, plan.runs[folder], [{"step": 50}])
    (tmp_path / first / "result.json").unlink()
    files.write_json(tmp_path / first / files.ENDED, {"step": 50, "reason": "not finite"})
    assert list(report.finished(plan, tmp_path)) == [second]


def test_a_group_that_cannot_go_on_leaves_the_others_and_is_named(tmp_path, monkeypatch, capsys):
    plan = make_plan("figure3", "cpu", columns=["0.9"], seeds=1)
    errors = [RunError("not finite"), ConfigError("in use"), JaxRuntimeError("RESOURCE_EXHAUSTED")]

    def train_seeds(config, folders, together):
        assert not together and folders == [tmp_path / list(plan.runs)[5 - len(todo)]]
        error = todo.pop()
        if error:
            raise error
        return [{"test_accuracy": 0.5}]

    todo = [None, *errors, None]
    monkeypatch.setattr(plans, "train_seeds", train_seeds)
    failed = plans.train(plan, tmp_path, plan.groups)
    assert list(failed) == list(plan.runs)[1:4] and not todo
    out = capsys.readouterr().out
    assert out.count("test accuracy 0.5000\n") == 2 and "error: in use\n" in out


@pytest.mark.parametrize(
    ("target", "scale", "part", "message"),
    [
        ("table2", "cpu", {"rows": ["Our"]}, "--rows: got 'Our'; takes 'Baseline', 'Base"),
        ("table2", "cpu", {"columns": ["0.9"]}, "--columns: got '0.9'; takes 'CIFAR-10', 'CI"),
        ("table2", "mnist", {"columns": ["CIFAR-100"]}, "'CIFAR-100'; takes 'CIFAR-10'; did"),
        (
            "figure3",
            "mnist",
            {},
            "--scale: got 'mnist', which figure3 has not; takes paper, cpu, s",
        ),
    ],
)
def test_what_a_target_has_not_is_refused(target, scale, part, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make_plan(target, scale, **part)


MISTAKES = {
    "--shard=2/2": "--shard: got '2/2'; takes I/N",
    "--rows=": "--rows: got",
    "--columns=CIFAR-10,CIFAR-10": "--columns: got 'CIFAR-10,CIFAR-10'; takes one or more names",
    "--seeds=0": "--seeds=0",
    "--output=": "--output: got",
    "--target=table3": "table3",
    "--config=configs/digits.py": "--config: takes none",
    "--seeds=1": "--output: missing; with --rows, --columns or --seeds it takes a name of",
    "--output=README.md/x/y": "--output: ",
    "--workdir=README.md": "--workdir: README.md cannot be made: File exists.",
}


def test_a_mistake_is_one_line(tmp_path):
    common = f"--target=table2 --workdir={tmp_path}/runs"
    mistakes = {f"{common} {argument}": message for argument, message in MISTAKES.items()}
    forked.check_refusals({"reproduce": mistakes}, tmp_path)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_runs_at_smoke_scale_and_only_once(target, tmp_path):
    arguments = [f"--target={target}", f"--workdir={tmp_path}/runs", f"--output={tmp_path}/out"]
    halves = [_start(*arguments, f"--shard={i}/2") for i in range(2)]
    for process in halves:
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("seed[0-9]/result.json")}
    assert len(stamps) == len(make_plan(target, "smoke").runs)
    code, out, err = _run(*arguments)
    assert code == 0, err
    assert "Incomplete" not in out and "± " in out
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    stored = json.loads((tmp_path / "out.json").read_text())
    assert all(entry["seeds"] or entry["quoted"] for entry in stored["summary"])
    assert (tmp_path / "out.png").exists() == target.startswith("figure")


@pytest.mark.slow
def test_killed_anywhere_and_started_again_it_goes_on_from_the_last_chunks(tmp_path):
    run = "smoke/imbalance/*/l2rw/seeds0-1"  # the two seeds side by side

    def arguments(name):
        where = [f"--workdir={tmp_path / name}", f"--output={tmp_path / name}-out"]
        return ["--target=figure3", "--rows=Ours", "--columns=0.9", *where]

    def metrics(name):
        (path,) = (tmp_path / name).glob(f"{run}/metrics.jsonl")
        lines = path.read_text().splitlines()
        return [json.loads(line) | {"steps_per_second": None} for line in lines]

    process = _start(*arguments("killed"), before=LONG)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        paths = list((tmp_path / "killed").glob(f"{run}/metrics.jsonl"))
        if paths and paths[0].read_text().count("\n") > 10:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    reached = metrics("killed")[-1]["step"]
    paths = (tmp_path / "killed").glob(f"{run}/checkpoints/*")
    saved = [int(path.name) for path in paths if path.name.isdigit()]
    assert 100 < reached < 2000
    # The running chunk is lost, and the one before if its checkpoint was still being written; one
    # more if these tiny chunks come faster than checkpoints are written.
    assert max(saved) >= reached - 20
    for name in ("killed", "whole"):
        code, _, err = _run(*arguments(name), before=LONG)
        assert code == 0, err
    assert metrics("killed") == metrics("whole")
    stored = [json.loads(Path(f"{tmp_path / n}-out.json").read_text()) for n in ("killed", "whole")]
    assert stored[0]["summary"][0]["last"] == stored[1]["summary"][0]["last"]
