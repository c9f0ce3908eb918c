"""The program on tiny sizes: what it writes, and that a failure is a row."""

import json
import subprocess

import forked
import pytest

from experiments.benchmark.timing import Ready
from experiments.scaling import options, report, virtual_devices


@pytest.mark.slow
def test_smoke(tmp_path):
    output = tmp_path / "out" / "scaling"
    start = ["--smoke", "--minutes=4", f"--output={output}"]
    done = forked.run("scaling", [start], tmp_path / "done", JAX_PLATFORMS="cpu")
    ((status, out, errors),) = done
    assert status == 0, errors
    written = json.loads(output.with_suffix(".json").read_text())
    assert "--minutes=4" in written["command"]
    assert written["device"].startswith("cpu") and written["versions"]["jax"]
    rows = {(row["comparison"], row["setting"]): row for row in written["rows"]}
    assert list(rows) == [
        *(("steps a call", f"K = {k}") for k in (1, 10)),
        *(("seeds side by side", str(count)) for count in (1, 2)),
        *(("precision", dtype) for dtype in ("float32", "bfloat16")),
        *(("images", where) for where in ("resident", "streamed")),
        *(("checkpoints", every) for every in ("only at the end", "every 10 steps")),
    ]
    for (_, setting), row in rows.items():
        assert row["error"] is None, row
        assert 0 < row["q1_ms"] <= row["median_ms"] <= row["q3_ms"] and row["rounds"] >= 1
        assert f"| {setting} |" in out
    assert rows["seeds side by side", "2"]["seeds"] == 2
    assert rows["precision", "bfloat16"]["dtype"] == "bfloat16"
    assert rows["images", "streamed"]["stream"] and not rows["images", "resident"]["stream"]
    one, two = written["devices"]
    assert (one["devices"], one["collectives"], two["devices"]) == (1, 0, 2)
    assert one["error"] is two["error"] is None
    # Two gradients; each example's weight, score and margin; the clean batch's draw; some scalars.
    rest = two["collective_bytes"] - 2 * two["parameter_bytes"]
    assert 0 <= rest <= 4 * (4 * 80 + 16)
    assert {row["model"] for row in written["model"]["rows"]} == {"resnet-8"}
    assert output.with_suffix(".md").read_text().strip() == out.strip()
    assert output.with_suffix(".png").stat().st_size > 10_000


def test_ratios_are_of_turns_in_the_same_round():
    def prepared(seconds, steps=1):
        turns = iter(seconds)
        return lambda stack: Ready(lambda: next(turns), steps=steps)

    first, second = [9.0, 2.0, 20.0, 2.0], [9.0, 6.0, 40.0, 8.0]  # the first turn is not timed
    makers = {"one": prepared(first), "other": prepared(second, 2)}
    one, other = options.measure("n", "m", makers, seconds=60, most=3)
    assert (one["comparison"], one["model"], other["setting"]) == ("n", "m", "other")
    assert (one["ratio"], one["median_ms"], one["steps_per_second"]) == (1.0, 2000.0, 0.5)
    assert (other["ratio"], other["median_ms"]) == (1.5, 4000.0)
    assert (other["ratio_q1"], other["ratio_q3"]) == (1.25, 1.75)


def test_without_the_first_setting_there_are_no_ratios():
    def broken(stack):
        raise RuntimeError("no such | thing")

    makers = {"one": broken, "other": lambda stack: Ready(lambda: 0.5)}
    rows = options.measure("n", "m", makers, seconds=60, most=1)
    assert rows[0]["error"] and "ratio" not in rows[1]
    table = report.timed(rows).splitlines()
    assert "no such / thing" in table[2]
    assert len({line.count("|") for line in table[:4]}) == 1


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


def test_a_process_that_fails_is_a_row(monkeypatch):
    def run(command, env, **options):
        assert command[-1] == "mlp-8" and env["XLA_FLAGS"].endswith("=2")
        return subprocess.CompletedProcess(command, 1, "", "Traceback:\nTypeError: no\n")

    monkeypatch.setattr(subprocess, "run", run)
    rows = virtual_devices.measure(["mlp-8"], [2])
    assert rows == [{"model": "-", "devices": 2, "error": "TypeError: no"}]


MISTAKES = {
    "--minutes=nan": "--minutes: got nan; takes a positive number",
    "--minutes=-inf": "--minutes: got -inf",
    "--output=/dev/null/x": "--output: ",
    "--config=configs/digits.py": "--config: this program takes none",
}


def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path):
    forked.check_refusals({"scaling": MISTAKES}, tmp_path, ["experiments.scaling.options"])
