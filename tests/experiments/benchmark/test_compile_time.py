"""The size of the reweighted step's program: it does not grow with the depth of a scan."""

import functools
import json

import pytest
from programs import run_program

from experiments.benchmark import ours
from experiments.benchmark.compile_time import instructions, lower, problem


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
    arguments = [f"--output={output}", "--models=mlp-8", "--rounds=1"]
    done = run_program("benchmark.compile_time", arguments, required=())
    assert done.status == 0, done.errors
    rows = json.loads(output.with_suffix(".json").read_text())["rows"]
    assert [(row["model"], row["step"]) for row in rows] == [("mlp-8", "plain"), ("mlp-8", "l2rw")]
    assert all(row["trace_seconds"] > 0 and row["compile_seconds"] > 0 for row in rows)
    assert rows[1]["over_plain"] > 0
    assert done.out.strip() == output.with_suffix(".md").read_text().strip()


@pytest.mark.parametrize("name", ["mlpp-8", "scan-8", "scan-a-2"])
def test_an_unknown_model_is_one_line(tmp_path, name):
    done = run_program(
        "benchmark.compile_time", [f"--output={tmp_path}/x", f"--models={name}"], required=()
    )
    assert done.status == 2
    assert done.errors.startswith(f"error: --models={name}: ") and done.errors.count("\n") == 1
