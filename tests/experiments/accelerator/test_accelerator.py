"""What is run on an accelerator: each piece ends in a line, what is done is not run again."""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest

from configs import cifar10_background
from experiments.accelerator import execute
from experiments.accelerator.pieces import METHODS, Piece, pieces
from experiments.accelerator.summary import summary
from experiments.reproduce.plan import make_plan
from experiments.reproduce.scales import SCALES
from l2rw_jax.training.workdir import flatten

ROOT = Path(__file__).parents[3]


def _piece(name, code, minutes=1.0, **fields):
    return Piece("part", name, ("timeit", "-n1", "-r1", code), minutes, **fields)


def test_a_piece_that_fails_leaves_a_line_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(execute, "LEAST", 0.0)
    chosen = [
        _piece("bad", "raise ValueError('no such thing')"),
        _piece("long", "import time; time.sleep(60)", minutes=0.01, resumes=True),
        _piece("good", f"open({str(tmp_path / 'runs')!r}, 'a').write('x')"),
    ]
    record = {"device": "a device", "pieces": {}}
    started = time.monotonic()
    for _ in range(2):
        execute.run_all(chosen, tmp_path, record, 30)
    assert time.monotonic() - started < 25
    assert (tmp_path / "runs").read_text() == "x"  # once
    found = json.loads((tmp_path / "parts.json").read_text())["pieces"]
    assert {name: piece["status"] for name, piece in found.items()} == {
        **{"bad": "failed", "long": "stopped", "good": "done"}
    }
    assert found["bad"]["line"] == "ValueError: no such thing"
    assert found["good"]["command"].startswith("python -m timeit")
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 5 and told[0] == "bad: failed: ValueError: no such thing"
    assert "| bad | failed | " in (tmp_path / "summary.md").read_text()


def test_without_time_nothing_is_started(tmp_path):
    stopped = {"status": "stopped", "line": "after 9.0 minutes", "seconds": 540.0}
    record = {"device": "a device", "pieces": {"long": stopped}}
    execute.run_all([_piece("long", "pass"), _piece("good", "pass")], tmp_path, record, 1)
    found = json.loads((tmp_path / "parts.json").read_text())["pieces"]
    assert (found["good"]["status"], found["good"]["seconds"]) == ("not run", 0)
    assert found["long"] == stopped


def test_a_benchmark_with_rows_without_time_is_not_done(tmp_path, monkeypatch, capsys):
    """It ends with status 0, and starts anew when it can have twice the time."""
    monkeypatch.setattr(execute, "LEAST", 0.0)
    (tmp_path / "short.py").write_text("import sys; print(sys.argv[1])")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    piece = Piece("part", "bench", ("short",), 0.5, bounded=True)
    errors = (None, "not run: out of time (--minutes)", "TypeError: no")
    rows = [{"error": error} for error in errors]
    (tmp_path / "bench.json").write_text(json.dumps({"rows": rows}))
    record = {"device": "a device", "pieces": {}}
    for seconds in (35, 59, 90):
        execute.run_all([piece], tmp_path, record, seconds)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == (
        "bench: stopped: after 0.5 minutes, 1 of 3 rows not run; starts anew once given 1.0 minutes"
    )
    assert told[1] == told[0]  # not started
    assert told[2] == told[0].replace("1.0", "2.0").replace("0.5", "1.0")
    assert (tmp_path / "bench.log").read_text() == "--minutes=0.70\n"  # of one
    (tmp_path / "bench.json").write_text(json.dumps({"rows": rows[::2]}))
    execute.run_all([piece], tmp_path, record, 125)
    assert record["pieces"]["bench"]["status"] == "done"


def test_an_interrupted_piece_is_stopped_and_recorded(tmp_path):
    code = """
import signal, sys
from pathlib import Path
from experiments.accelerator import execute
from experiments.accelerator.pieces import Piece
signal.signal(signal.SIGTERM, signal.default_int_handler)
code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
piece = Piece("part", "long", ("timeit", "-n1", "-r1", code), 1.0)
execute.run_all([piece], Path(sys.argv[1]), {"device": "", "pieces": {}}, 60)
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
    assert json.loads((tmp_path / "parts.json").read_text())["pieces"]["long"]["status"] == (
        "stopped"
    )


def test_the_summary_holds_the_ratios_to_their_goals(tmp_path):
    setting = {"model": "resnet-32", "batch": 100, "clean_batch": 100, "precision": "tf32"}
    times = {"ours plain": 2.0, "ours l2rw forward": 4.5, "torch plain": 1.0}
    times |= {"torch create_graph": 54.0, "torch forward_ad_shared, CUDA graph": 9.0}
    # Less than the whole reweighted step: nothing to hold ours to.
    times |= {"torch plain, compiled": 0.1, "torch evidence": 0.1, "torch head": 0.1}
    times |= {"torch every 4th": 0.1, "torch mwnet_forward_ad": 0.1, "ours evidence": 0.1}
    rows = [setting | {"implementation": name, "median_ms": ms} for name, ms in times.items()]
    rows.append(setting | {"implementation": "torch higher", "error": "failed"})
    (tmp_path / "benchmark-a.json").write_text(json.dumps({"rows": rows}))
    run = {"steps": 60, "steps_per_second": 0.5, "replicas": 2, "compile_seconds": 30.0}
    done = [run | {"test_accuracy": accuracy} for accuracy in (0.5, 0.7)]
    (tmp_path / "table2-l2rw.json").write_text(json.dumps({"runs": done}))
    joint = tmp_path / "runs" / "table2" / "random" / "seeds0-4"
    joint.mkdir(parents=True)
    (joint / "config.json").write_text(json.dumps({"steps": 600, "replicas": 5}))
    (joint / "metrics.jsonl").write_text('{"step": 20, "steps_per_second": 5.0}\n')
    piece = {"status": "failed", "seconds": 60.0, "line": "TypeError: int | str"}
    text = summary(tmp_path, {"device": "a device", "pieces": {"tests": piece}})
    assert "| tests | failed | 1.0 | TypeError: int / str |" in text
    assert "| resnet-32 | 100 | 100 | tf32 | 4.5 | 2.25, missed | 12.00 | 2.00, missed |" in text
    # Two replicas in 120 seconds and 30 of compiling: all seeds together.
    assert "| l2rw | 2 | 0.5 | 2.5 | 60.00 ± 127.06 |" in text
    assert "| random | 5 | 5 | 2.0 at this speed | - (20 of 600 steps) |" in text


@pytest.mark.parametrize("smoke", [True, False])
def test_the_commands_are_of_programs_that_there_are(tmp_path, smoke):
    chosen = pieces(tmp_path, smoke=smoke)
    assert len({piece.name for piece in chosen}) == len(chosen)
    assert [piece.part for piece in chosen if piece.name in ("tests", "throughput", "table1")] == [
        *("tests", "throughput", "table1")
    ]
    for piece in chosen:
        assert importlib.util.find_spec(piece.command[0])
        for word in piece.command:
            path = word.removeprefix("--config=").partition(":")[0]
            assert not path.endswith(".py") or (ROOT / path).is_file()


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


def test_without_a_network_an_earlier_state_goes_on(tmp_path):
    """By the script, with a program in the place of ours that adds a line to what is there."""
    program = tmp_path / "bin" / "python3"
    program.parent.mkdir()
    program.write_text("""#!/bin/sh
[ "$2 $3 $4" = "experiments.accelerator --output=runs/accelerator --smoke" ] || exit 9
echo line >>runs/accelerator/summary.md
exit 3
""")
    program.chmod(0o755)
    carried, out = tmp_path / "carried", tmp_path / "new" / "out"
    carried.mkdir()
    command = ["bash", ROOT / "experiments/accelerator/bare.sh", carried, out, "--smoke"]
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    for count in (1, 2):
        place = tmp_path / f"checkout{count}"
        place.mkdir()
        assert subprocess.run(command, cwd=place, env=environment).returncode == 3
        assert (out / "summary.md").read_text() == count * "line\n"
        assert {path.name for path in out.iterdir()} == {"state.aa", "summary.md"}
        shutil.copy(out / "state.aa", carried)
    # What is someone else's is kept, and out of the archive's way.
    for name in ("state.ab", "new.txt"):
        (out / name).write_text("mine")
    assert subprocess.run(command, cwd=place, env=environment).returncode == 3
    (other,) = out.glob("other.*")
    assert (other / "state.ab").read_text() == (out / "new.txt").read_text() == "mine"
    assert {path.name for path in out.glob("state.*")} == {"state.aa"}


def test_mistakes_are_one_line(tmp_path):
    (tmp_path / "parts.json").write_text('{"smoke": false, "pieces": {}}')
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "summary.md").write_text("mine")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "parts.json").write_text('{"smoke": true, "pie')
    forked.check_refusals(
        {
            "accelerator": {
                "": "--smoke: missing, and JAX finds a CPU alone",
                "--smoke --parts=tests,tabel2": "did you mean 'table2'?",
                "--smoke --minutes=0": "--minutes: got 0; takes a positive number",
                f"--smoke --output={shlex.quote(str(tmp_path))}": "holds a run without --smoke",
                f"--smoke --output={shlex.quote(str(tmp_path))}/damaged": "is damaged; delete it",
                f"--smoke --output={shlex.quote(str(tmp_path))}/mine": "is not of this program",
            }
        },
        tmp_path,
    )
