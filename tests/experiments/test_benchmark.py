"""The benchmark on tiny sizes: what it writes, and that a failure is a row."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import ours, timing, torch_baseline
from experiments.torch_baseline import report
from experiments.torch_baseline.setting import LENET, settings

ONLY = ("ours plain", "ours l2rw forward", "torch plain", "torch forward_ad_separate")
ROOT = Path(__file__).parents[2]
FIGURES = ("median_ms", "q1_ms", "q3_ms", "compile_seconds", "over_plain", "over_ours")


def test_smoke(tmp_path):
    output = tmp_path / "out" / "bench"
    command = [sys.executable, "-m", "experiments.benchmark", "--smoke", f"--output={output}"]
    command += ["--repeats=3", "--minutes=4", "--device=cpu"]
    done = subprocess.run(
        [*command, f"--only={','.join(ONLY)}"],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(output.with_suffix(".json").read_text())
    assert "--repeats=3" in written["command"]
    assert written["device"] and written["versions"]["jax"]
    rows = {row["implementation"]: row for row in written["rows"]}
    assert tuple(rows) == ONLY
    for name, row in rows.items():
        assert (row["model"], row["batch"], row["clean_batch"]) == ("lenet", 4, 2)
        if row["error"] is None:
            assert all(row[figure] > 0 for figure in FIGURES)
            assert row["q1_ms"] <= row["median_ms"] <= row["q3_ms"]
            assert row["repeats"] == 3
        else:
            assert not name.startswith("ours") and f"| {row['error']} |" in done.stdout
        assert f"| {name} |" in done.stdout
    for name in ONLY[:2]:
        assert rows[name]["flops"] > 0 and rows[name]["memory_bytes"] > 0
    for mine, torch in zip(ONLY[:2], ONLY[2:], strict=True):
        if rows[torch]["error"] is None:  # they do the same work
            assert rows[torch]["first_loss"] == pytest.approx(rows[mine]["first_loss"], rel=1e-4)
    assert output.with_suffix(".md").read_text().strip() == done.stdout.strip()
    assert output.with_suffix(".png").stat().st_size > 10_000


def working(setting):
    return ours.Prepared(lambda: 0.5, lambda: {"memory_bytes": 7})


def broken(setting):
    raise RuntimeError("no such | thing\nand more")


def breaks_later(setting):
    values = iter([1.0, 1.0, 1.0])
    return ours.Prepared(lambda: next(values))


def test_a_failure_is_a_row_and_stops_no_other():
    makers = {"a": broken, "b": breaks_later, "ours plain": working, "c": working}
    rows = timing.measure(LENET, makers, repeats=4, seconds=10)
    assert [row["implementation"] for row in rows] == list(makers)
    assert rows[0]["error"] == "RuntimeError: no such | thing"
    assert rows[1]["error"] == "StopIteration: no message"
    assert "median_ms" not in rows[0] and "median_ms" not in rows[1]
    for row in rows[2:]:
        assert row["error"] is None
        assert (row["repeats"], row["memory_bytes"], row["first_loss"]) == (4, 7, 0.5)
    table = report.markdown_table(rows).splitlines()
    assert "no such / thing" in table[2]
    assert len({line.count("|") for line in table}) == 1


def test_a_failure_to_measure_memory_leaves_the_times():
    def out_of_memory():
        raise MemoryError("no room")

    makers = {"a": lambda setting: ours.Prepared(lambda: 0.5, out_of_memory)}
    (row,) = timing.measure(LENET, makers, repeats=2, seconds=10)
    assert (row["error"], row["repeats"]) == (None, 2)
    assert row["memory_kind"] == "MemoryError: no room"
    assert "memory_bytes" not in row


def test_what_does_not_fit_into_the_time_is_a_row():
    rows = timing.measure(LENET, {"a": working, "b": working}, repeats=9, seconds=1e-9)
    assert (rows[0]["error"], rows[0]["repeats"]) == (None, timing.LEAST)
    assert rows[1]["error"] == "not run: out of time (--minutes)"


def test_without_pytorch_its_rows_say_so(monkeypatch):
    monkeypatch.delattr(torch_baseline, "prepare", raising=False)
    monkeypatch.setitem(sys.modules, "experiments.torch_baseline.prepare", None)
    makers = {"torch plain": timing.makers("cpu")["torch plain"], "ours plain": working}
    tiny = LENET._replace(image_shape=(8, 8, 1), batch=4, clean_batch=2)
    rows = timing.measure(tiny, makers, repeats=2, seconds=10)
    assert rows[0]["error"].partition(":")[0] in ("ImportError", "ModuleNotFoundError")
    assert rows[1]["error"] is None
    assert timing.environment()["torch"] == rows[0]["error"]


def test_ratios():
    medians = {
        "ours plain": 2.0,
        "ours l2rw forward": 5.0,
        "torch plain": 4.0,
        "torch create_graph": 20.0,
        "torch plain, compiled": 3.0,
        "torch create_graph, compiled": 15.0,
        "torch higher, CUDA graph": 8.0,
    }
    rows = [{"implementation": name, "median_ms": value} for name, value in medians.items()]
    rows.append({"implementation": "torch missing", "error": "gone"})
    rows = {row["implementation"]: row for row in report.add_ratios(rows)}
    assert [row.get("over_plain") for row in rows.values()] == [1, 2.5, 1, 5, 1, 5, 2, None]
    assert [row.get("over_ours") for row in rows.values()] == [0.4, 1, 0.8, 4, 0.6, 3, 1.6, None]
    assert rows["torch create_graph, compiled"]["plain"] == "torch plain, compiled"
    assert rows["torch higher, CUDA graph"]["plain"] == "torch plain"


def test_time_is_kept_for_the_rounds_of_what_is_prepared():
    def slow(setting):
        return ours.Prepared(lambda: time.sleep(0.05) or 0.5)

    rows = timing.measure(LENET, dict.fromkeys("abc", slow), repeats=9, seconds=0.6)
    # Of two, preparing takes 0.2 s and the rounds 0.5 s; the end is at 0.42 s.
    assert rows[0]["error"] is None
    assert rows[2]["error"] == "not run: out of time (--minutes)"


def test_growth(tmp_path):
    rows = [
        {"model": "m", "precision": "float32", "implementation": "ours plain"}
        | {"batch": b, "clean_batch": m, "median_ms": b}
        for b, m in ((100, 10), (50, 50), (25, 25))
    ]
    rows.append(rows[-1] | {"implementation": "torch plain", "median_ms": None})
    report.plot_growth(rows, tmp_path / "growth.png", title="a device")
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_readme_s_table_follows_from_the_committed_run():
    rows = json.loads((ROOT / "results/benchmark-cpu.json").read_text())["rows"]
    assert report.summary_table(rows) in (ROOT / "README.md").read_text()


def test_settings():
    names = [setting.model for setting in settings("cpu", ["float32"])]
    assert names == ["lenet", "wrn-10-2", "resnet-32", "resnet-32"]
    gpu = settings("gpu", ["float32", "tf32"], models=["wrn-28-10"])
    assert [(s.model, s.precision) for s in gpu] == [("wrn-28-10", p) for p in ("float32", "tf32")]
    swept = settings("cpu", ["float32"], models=["resnet-32"], sweep=True)
    assert sorted(s.batch for s in swept if s.batch == s.clean_batch) == [
        *(25, 50, 100, 200, 400, 800, 1600)
    ]
