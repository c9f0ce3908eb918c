"""The size of the reweighted step's program: beyond 12 layers it does not grow with depth."""

import functools
import json

import forked
import pytest

from experiments.benchmark import ours
from experiments.benchmark.lowered import instructions, lower, problem


@functools.cache
def size(depth, name):
    return instructions(lower(problem(f"vit-16-{depth}", batch=8), ours.FORMS[name]))


@pytest.mark.parametrize("name", ["plain", "l2rw forward", "l2rw reverse"])
def test_the_program_does_not_grow_with_the_layers(name):
    assert size(24, name) == size(13, name)


def test_the_reweighted_program_is_at_most_three_plain_ones():
    # The clean batch's gradient, the tangent and the reweighted gradient: 8 passes to 3.
    plain = size(13, "plain")
    assert 2 * plain < size(13, "l2rw forward") < 3 * plain


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
        for name in ("mlpp-8", "vit-8", "vit-193-2")
    }
    forked.check_refusals({"benchmark.compile_time": mistakes}, tmp_path)
