"""What is run on an accelerator: each piece ends in a line, what is done is not run again."""

import importlib.util
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest

from configs import cifar10_background
from experiments.accelerator.pieces import METHODS, Piece, pieces, run_all
from experiments.reproduce.plan import make_plan
from experiments.reproduce.scales import SCALES
from l2rw_jax.training.workdir import flatten

ROOT = Path(__file__).parents[3]


def _piece(name, code, minutes=1.0, **fields):
    return Piece("part", name, ("timeit", "-n1", "-r1", code), minutes, **fields)


def _statuses(folder):
    found = json.loads((folder / "pieces.json").read_text())["pieces"]
    return {name: entry["status"] for name, entry in found.items()}


def test_a_piece_that_fails_leaves_a_line_and_the_others_go_on(tmp_path, capsys):
    chosen = [
        _piece("bad", "raise ValueError('no such thing')"),
        _piece("long", "import time; time.sleep(60)", minutes=0.02, resumes=True),
        _piece("good", f"open({str(tmp_path / 'runs')!r}, 'a').write('x')"),
    ]
    (tmp_path / "good.md").write_text("| a table |\n")
    record = {"device": "a device", "pieces": {}}
    for _ in range(2):
        run_all(chosen, tmp_path, record, time.monotonic() + 90)
    assert (tmp_path / "runs").read_text() == "x"  # once
    assert _statuses(tmp_path) == {
        "bad": "failed: ValueError: no such thing",
        "long": "stopped after 0.0 minutes; the same command goes on",
        "good": "done",
    }
    assert record["pieces"]["good"]["command"].startswith("python -m timeit")
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 6 and told[0] == "bad: failed: ValueError: no such thing"
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("a device\n") and text.endswith("\n\n## good\n\n| a table |\n")
    assert " | failed: ValueError: no such thing |\n" in text


def test_a_piece_starts_only_with_the_time_that_it_takes(tmp_path):
    resumes = _piece("resumes", "pass", minutes=9.0, resumes=True)
    record = {"device": "a device", "pieces": {}}
    chosen = [_piece("anew", "pass", minutes=9.0), resumes]
    run_all(chosen, tmp_path, record, time.monotonic() + 240)
    assert _statuses(tmp_path) == {
        "anew": "not run: of --minutes 4.0 are left; takes 9.0",
        "resumes": "done",
    }
    run_all([_piece("anew", "pass", minutes=0.1)], tmp_path, record, time.monotonic() + 9)
    assert _statuses(tmp_path)["anew"] == "not run: of --minutes 0.1 are left; takes 0.3"


def test_what_was_done_by_another_command_is_run(tmp_path):
    record = {"device": "a device", "pieces": {}}
    for code in ("'smoke'", "'whole'", "'whole'"):
        chosen = [_piece("one", f"open({str(tmp_path / 'runs')!r}, 'a').write({code})")]
        run_all(chosen, tmp_path, record, time.monotonic() + 90)
    assert (tmp_path / "runs").read_text() == "smokewhole"


def test_an_interrupted_piece_is_stopped_and_recorded(tmp_path):
    code = """
import signal, sys, time
from pathlib import Path
from experiments.accelerator.pieces import Piece, run_all
signal.signal(signal.SIGTERM, signal.default_int_handler)
code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
piece = Piece("part", "long", ("timeit", "-n1", "-r1", code), 1.0)
run_all([piece], Path(sys.argv[1]), {"device": "", "pieces": {}}, time.monotonic() + 90)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    log = tmp_path / "long.log"
    while not (log.exists() and log.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    assert process.wait(30)
    pid = log.read_text().splitlines()[0]
    assert not Path("/proc", pid).exists()
    assert _statuses(tmp_path) == {"long": "stopped"}


@pytest.mark.parametrize("smoke", [True, False])
def test_the_commands_are_of_programs_that_there_are(tmp_path, smoke):
    chosen = pieces(tmp_path, smoke=smoke)
    assert len({piece.name for piece in chosen}) == len(chosen)
    assert [*dict.fromkeys(piece.part for piece in chosen)] == [
        *("tests", "benchmark", "scaling", "table2", "figure3", "table1")
    ]
    for piece in chosen:
        assert importlib.util.find_spec(piece.command[0])
        for word in piece.command:
            path = word.removeprefix("--config=").partition(":")[0]
            assert not path.endswith(".py") or (ROOT / path).is_file(), path


def test_table_2_has_the_paper_s_protocol(tmp_path):
    """Of what the sweep trains, and ``reproduce --scale=paper``."""
    command = next(p.command for p in pieces(tmp_path, smoke=False) if p.name == "table2-l2rw")
    assert "--config=configs/cifar10_background.py" in command and "--methods=l2rw" in command
    assert f"--seeds={SCALES['paper']['background'].seeds}" in command
    plan = make_plan("table2", "paper", rows=["Ours"], columns=["CIFAR-10"])
    planned = flatten(plan.runs[plan.groups[0][0]].to_dict())
    trained = flatten(cifar10_background.get_config().to_dict())
    apart = {field for field in planned | trained if planned.get(field) != trained.get(field)}
    assert apart <= {"method", "seed", "checkpoint_every"}  # the last does not change a run
    paper = {"model": "resnet-32", "steps": 80_000, "boundaries": (40_000, 60_000)}
    paper |= {"noise.kind": "background", "noise.ratio": 0.4, "clean_size": 100, "val_size": 5000}
    paper |= {"batch_size": 100, "clean_batch_size": 100, "learning_rate": 0.1, "pad": 4}
    assert trained | paper == trained
    assert {m for m in METHODS} == {"l2rw", "baseline", "random", "evidence"}


def test_mistakes_are_one_line(tmp_path):
    (tmp_path / "pieces.json").write_text('{"pieces": {"tests": ')
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "summary.md").write_text("mine")
    forked.check_refusals(
        {
            "accelerator": {
                "": "--smoke: missing, and JAX finds a CPU alone",
                "--smoke --parts=tests,tabel2": "did you mean 'table2'?",
                "--smoke --minutes=0": "--minutes: got 0; takes a positive number",
                f"--smoke --output={shlex.quote(str(tmp_path))}": "is damaged; delete it",
                f"--smoke --output={shlex.quote(str(tmp_path))}/mine": "is not of this program",
            }
        },
        tmp_path,
    )
    assert (tmp_path / "mine" / "summary.md").read_text() == "mine"
