"""The size of the reweighted step's program: it does not grow with the depth of a scan."""

import functools
import json

import forked
import pytest

from experiments.benchmark import ours
from experiments.benchmark.lowered import instructions, lower, problem


@functools.cache
def size(depth, form):
    return instructions(lower(problem(f"scan-16-{depth}", batch=8), form))


@pytest.mark.parametrize("form", [ours.forward, ours.reverse])
def test_the_program_does_not_grow_with_the_layers_of_a_scan(form):
    assert size(24, form) == size(8, form)
    assert size(8, form) == pytest.approx(size(2, form), rel=0.02)  # JAX shortens a scan of two


def test_the_reweighted_program_is_at_most_three_plain_ones():
    # The clean batch's gradient, the tangent and the reweighted gradient: 8 passes to 3.
    assert 2 * size(8, ours.plain) < size(8, ours.forward) < 3 * size(8, ours.plain)


def test_program(tmp_path):
    output = tmp_path / "compile"
    start = [f"--output={output}", "--models=mlp-8", "--rounds=1"]
    ((status, out, errors),) = forked.run("benchmark.compile_time", [start], tmp_path / "done")
    assert status == 0, errors
    rows = json.loads(output.with_suffix(".json").read_text())["rows"]
    assert [(row["model"], row["step"]) for row in rows] == [("mlp-8", "plain"), ("mlp-8", "l2rw")]
    assert all(row["trace_seconds"] > 0 and row["compile_seconds"] > 0 for row in rows)
    assert rows[1]["over_plain"] > 0
    assert out.strip() == output.with_suffix(".md").read_text().strip()


def test_unknown_models_are_one_line(tmp_path):
    mistakes = {
        f"--output={tmp_path}/x --models={name}": f"error: --models={name}: "
        for name in ("mlpp-8", "scan-8", "scan-a-2")
    }
    forked.check_refusals({"benchmark.compile_time": mistakes}, tmp_path)
