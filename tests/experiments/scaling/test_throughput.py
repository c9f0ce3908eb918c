"""The benchmark of the trainer on tiny sizes: what it writes, and that a failure is a row."""

import json
import os
import subprocess
import sys
from pathlib import Path

import forked
import pytest

from experiments.benchmark.timing import Ready
from experiments.scaling import comparisons, exchange, throughput_report, virtual_devices

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_smoke(tmp_path):
    output = tmp_path / "out" / "throughput"
    command = [sys.executable, "-m", "experiments.scaling.throughput", "--smoke", "--minutes=4"]
    done = subprocess.run(
        [*command, f"--output={output}"],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(output.with_suffix(".json").read_text())
    assert "--minutes=4" in written["command"]
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
    # Two gradients, each example's weight and score, and some scalars.
    rest = two["collective_bytes"] - 2 * two["parameter_bytes"]
    assert 0 <= rest <= 4 * (2 * 80 + 16)
    assert output.with_suffix(".md").read_text().strip() == done.stdout.strip()


def test_ratios_are_of_turns_in_the_same_round():
    def prepared(seconds, steps=1):
        turns = iter(seconds)
        return lambda stack: Ready(lambda: next(turns), steps=steps)

    first, second = [9.0, 2.0, 20.0, 2.0], [9.0, 6.0, 40.0, 8.0]  # the first turn is not timed
    makers = {"one": prepared(first), "other": prepared(second, 2)}
    one, other = comparisons.measure("n", "m", makers, seconds=60, most=3)
    assert (one["comparison"], one["model"], other["setting"]) == ("n", "m", "other")
    assert (one["ratio"], one["median_ms"], one["steps_per_second"]) == (1.0, 2000.0, 0.5)
    assert (other["ratio"], other["median_ms"]) == (1.5, 4000.0)
    assert (other["ratio_q1"], other["ratio_q3"]) == (1.25, 1.75)


def test_without_the_first_setting_there_are_no_ratios():
    def broken(stack):
        raise RuntimeError("no such | thing")

    makers = {"one": broken, "other": lambda stack: Ready(lambda: 0.5)}
    rows = comparisons.measure("n", "m", makers, seconds=60, most=1)
    assert rows[0]["error"] and "ratio" not in rows[1]
    table = throughput_report.table(rows, []).splitlines()
    assert "no such / thing" in table[2]
    assert len({line.count("|") for line in table[:4]}) == 1


def test_share_of_peak():
    about = {"flops": 6e9, "peak": 4e12}
    makers = {"a": lambda stack: Ready(lambda: 0.003, about)}
    (row,) = comparisons.measure("n", "m", makers, seconds=60, most=1)
    assert row["peak_share"] == pytest.approx(0.5)
    table = throughput_report.table([row], [])
    assert "of peak" in table.splitlines()[0] and "| 50.0% |" in table


def test_another_loss_than_one_device_s_is_an_error():
    def row(devices, loss, error=None):
        return {"model": "m", "devices": devices, "loss": loss, "error": error}

    rows = [row(1, 2.0), row(2, 2.0 + 2e-5), row(4, 2.1), row(8, float("nan"))]
    rows = exchange.compare_losses([*rows, row(8, None, "gone")])
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


MISTAKES = {
    "scaling": {
        "--benchmark=nope.json": "--benchmark: got nope.json; takes the JSON file of exper",
        "--benchmark=README.md": "--benchmark: got README.md; takes the JSON file",
        "--benchmark=results/throughput-cpu.json": "--benchmark: got results/throughput-cpu.json",
        "--output=/dev/null/x": "--output: ",
    },
    "scaling.throughput": {
        "--minutes=nan": "--minutes: got nan; takes a positive number",
        "--minutes=-inf": "--minutes: got -inf",
        "--output=/dev/null/x": "--output: ",
        "--config=configs/digits.py": "--config: this program takes none",
    },
    "scaling.virtual_devices": {
        "--models=mlp": "--models=mlp: name: got 'mlp'",
        "--models=": "--models: got",
    },
}


def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path):
    forked.check_refusals(MISTAKES, tmp_path, ["experiments.scaling.comparisons"])
