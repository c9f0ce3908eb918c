"""The benchmark of the trainer on tiny sizes: what it writes, and that a failure is a row."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import comparisons, throughput_report, virtual_devices

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_smoke(tmp_path):
    output = tmp_path / "out" / "throughput"
    command = [sys.executable, "-m", "experiments.throughput", "--smoke", f"--output={output}"]
    done = subprocess.run(
        [*command, "--minutes=0.1"],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(output.with_suffix(".json").read_text())
    assert "--minutes=0.1" in written["command"]
    assert written["device"].startswith("cpu") and written["versions"]["jax"]
    rows = {(row["comparison"], row["setting"]): row for row in written["rows"]}
    assert list(rows) == [
        *(("steps a call", f"K = {k}") for k in (1, 10)),
        *(("replicas", str(count)) for count in (1, 2)),
        *(("precision", dtype) for dtype in ("float32", "bfloat16")),
        *(("images", where) for where in ("resident", "streamed")),
        *(("checkpoints", every) for every in ("only at the end", "every 10 steps")),
    ]
    for (_, setting), row in rows.items():
        assert row["error"] is None, row
        assert 0 < row["q1_ms"] <= row["median_ms"] <= row["q3_ms"] and row["rounds"] >= 1
        assert f"| {setting} |" in done.stdout
    assert rows["replicas", "2"]["replicas"] == 2
    assert rows["precision", "bfloat16"]["dtype"] == "bfloat16"
    assert rows["images", "streamed"]["stream"] and not rows["images", "resident"]["stream"]
    one, two = written["devices"]
    assert (one["devices"], one["collectives"], two["devices"]) == (1, 0, 2)
    assert one["error"] is two["error"] is None
    # Two gradients, four scalars; each example's weight and score, each device's accuracy.
    scalars = 4 + 2 * 80 + 2
    assert two["collective_bytes"] == 2 * two["parameter_bytes"] + 4 * scalars
    assert output.with_suffix(".md").read_text().strip() == done.stdout.strip()


def prepared(seconds, steps=1):
    turns = iter(seconds)
    return lambda stack: comparisons.Ready(lambda: next(turns), steps, {})


def broken(stack):
    raise RuntimeError("no such | thing\nand more")


def test_a_failure_is_a_row_and_stops_no_other():
    makers = {"a": broken, "b": prepared([1, 1]), "c": prepared([9, 4, 4, 4], 8)}
    rows = comparisons.measure("n", "m", makers, seconds=0)
    assert [row["setting"] for row in rows] == list("abc")
    assert rows[0]["error"] == "RuntimeError: no such | thing"
    assert rows[1]["error"] == "StopIteration: no message"
    assert "median_ms" not in rows[0] and "median_ms" not in rows[1]
    assert (rows[2]["error"], rows[2]["rounds"], rows[2]["median_ms"]) == (None, 3, 500.0)
    assert "ratio" not in rows[2]  # what it would be compared with failed
    table = throughput_report.table(rows, []).splitlines()
    assert "no such / thing" in table[2]
    assert len({line.count("|") for line in table[:5]}) == 1


def test_ratios_are_of_turns_in_the_same_round():
    first, second = [9.0, 2.0, 20.0, 2.0], [9.0, 6.0, 40.0, 8.0]  # the first turn is not timed
    one, other = comparisons.measure(
        "n", "m", {"one": prepared(first), "other": prepared(second, 2)}, seconds=0
    )
    assert (one["ratio"], one["median_ms"], one["steps_per_second"]) == (1.0, 2000.0, 0.5)
    assert (other["ratio"], other["median_ms"]) == (1.5, 4000.0)
    assert (other["ratio_q1"], other["ratio_q3"]) == (1.25, 1.75)


def test_share_of_peak():
    rows = {"a": {"flops": 6e9, "peak": 4e12}}
    (row,) = throughput_report.summarize(rows, {"a": [0.003, 0.003]})
    assert row["peak_share"] == pytest.approx(0.5)
    row |= {"comparison": "n", "model": "m", "setting": "a", "error": None}
    table = throughput_report.table([row], [])
    assert "of peak" in table.splitlines()[0] and "| 50.0% |" in table


def test_another_loss_than_one_device_s_is_an_error():
    def row(devices, loss, error=None):
        return {"model": "m", "devices": devices, "loss": loss, "error": error}

    rows = [row(1, 2.0), row(2, 2.0 + 2e-5), row(4, 2.1), row(8, float("nan"))]
    rows = virtual_devices.compare_losses([*rows, row(8, None, "gone")])
    assert [row["error"] for row in rows[:2]] == [None, None]
    assert rows[1]["loss_difference"] == pytest.approx(1e-5)
    assert rows[2]["error"] == "loss is 2.1, on one device 2"
    assert rows[3]["error"] == "loss is nan, on one device 2"
    assert rows[4]["error"] == "gone"


def test_collectives():
    text = """
  %all-reduce.1 = (f32[2,3]{1,0}, bf16[4]{0}, pred[]) all-reduce(%a, %b, %c), channel_id=1
  %x = f32[7]{0} get-tuple-element(%all-reduce.1), index=0
  ROOT %g = s32[8]{0} all-gather(%x), dimensions={0}
"""
    found = virtual_devices.collectives(text)
    assert found == {"collectives": 2, "collective_bytes": 24 + 8 + 1 + 32}
