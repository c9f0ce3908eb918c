"""The benchmark on tiny sizes: what it writes, and that a failure is a row."""

import json
import sys

import forked
import pytest

from experiments.benchmark import implementations, ours, report, timing, torch_baseline
from experiments.benchmark.setting import LENET, MLP, settings

ONLY = ("ours plain", "ours l2rw forward", "torch plain", "torch forward_ad_separate")
TIMES_OF_A_ROW = {"median_ms": 2.0, "q1_ms": 1.0, "q3_ms": 3.0, "compile_seconds": 1.0}
TIMES = ("median_ms", "q1_ms", "q3_ms", "compile_seconds", "over_plain")


def test_smoke(tmp_path):
    output = tmp_path / "out" / "bench"
    start = ["--smoke", f"--output={output}", "--repeats=3", "--minutes=4", "--device=cpu"]
    start.append(f"--only={','.join(ONLY)}")
    ((status, out, errors),) = forked.run("benchmark", [start], tmp_path / "done")
    assert status == 0, errors
    written = json.loads(output.with_suffix(".json").read_text())
    assert "--repeats=3" in written["command"]
    assert written["device"] and written["versions"]["jax"]
    rows = {row["implementation"]: row for row in written["rows"]}
    assert tuple(rows) == ONLY
    for name, row in rows.items():
        assert (row["model"], row["batch"], row["clean_batch"]) == ("mlp-8", 4, 2)
        if row["error"] is None:
            assert all(row[name] > 0 for name in TIMES)
            assert row["q1_ms"] <= row["median_ms"] <= row["q3_ms"]
            assert row["rounds"] == 3
        else:
            assert not name.startswith("ours") and f"| {row['error']} |" in out
        assert f"| {name} |" in out
    for name in ONLY[:2]:
        assert rows[name]["flops"] > 0 and rows[name]["memory_bytes"] > 0
    for mine, torch in zip(ONLY[:2], ONLY[2:], strict=True):
        if rows[torch]["error"] is None:  # they do the same work
            assert rows[torch]["first_loss"] == pytest.approx(rows[mine]["first_loss"], rel=1e-4)
    assert output.with_suffix(".md").read_text().strip() == out.strip()
    compared = all(rows[torch]["error"] is None for torch in ONLY[2:])
    assert output.with_suffix(".png").exists() == compared


def test_without_pytorch_its_rows_say_so(monkeypatch):
    monkeypatch.delattr(torch_baseline, "prepare", raising=False)
    monkeypatch.setitem(sys.modules, "experiments.benchmark.torch_baseline.prepare", None)

    def working(setting):
        return timing.Ready(lambda: 0.5)

    makers = {"torch plain": implementations.makers("cpu")["torch plain"], "ours plain": working}
    tiny = MLP._replace(model="mlp-8", image_shape=(4, 4, 1), batch=4, clean_batch=2)
    rows = implementations.measure(tiny, makers, repeats=2, seconds=10)
    assert rows[0]["error"].partition(":")[0] in ("ImportError", "ModuleNotFoundError")
    assert (rows[1]["implementation"], rows[1]["error"]) == ("ours plain", None)
    assert rows[1]["batch"] == 4
    assert implementations.about()["torch"] == rows[0]["error"]
    table = report.table([rows[0] | {"error": "no such | thing"}, rows[1] | TIMES_OF_A_ROW])
    assert "no such / thing" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_first_step_is_that_of_compiling():
    losses = iter([0.7, 0.6, 0.5])

    def memory():
        return {"memory_bytes": 7}

    made = implementations.prepare(
        lambda setting: ours.Prepared(lambda: next(losses), memory, {"flops": 3}), LENET
    )
    assert made.about["first_loss"] == 0.7 and made.about["compile_seconds"] > 0
    assert made.about["flops"] == 3 and made.measure_memory is memory
    assert made.turn() > 0 and next(losses) == 0.5


def test_quick_steps_follow_each_other():
    taken = []
    made = implementations.prepare(lambda setting: ours.Prepared(lambda: taken.append(0)), LENET)
    made.turn()  # finds out how quick they are
    before = len(taken)
    assert 0 < made.turn() < 0.05 and len(taken) - before > 1


def test_ratios():
    medians = {
        "ours plain": 2.0,
        "ours l2rw forward": 5.0,
        "torch plain": 4.0,
        "torch create_graph": 20.0,
        "torch plain, compiled": 3.0,
        "torch create_graph, compiled": 15.0,
        "torch higher": 8.0,
    }
    rows = [{"implementation": name, "median_ms": value} for name, value in medians.items()]
    rows.append({"implementation": "torch missing", "error": "gone"})
    rows = {row["implementation"]: row for row in report.add_ratios(rows)}
    assert [row.get("over_plain") for row in rows.values()] == [1, 2.5, 1, 5, 1, 5, 2, None]
    ours = [row.get("over_ours") for row in rows.values()]
    assert ours == [None, None, 2, 4, 1.5, 3, 1.6, None]
    assert rows["torch create_graph, compiled"]["plain"] == "torch plain, compiled"
    assert rows["torch higher"]["plain"] == "torch plain"


def test_settings():
    names = [setting.model for setting in settings("cpu", ["float32"])]
    assert names == 2 * ["mlp-256-256", "lenet", "wrn-10-2", "resnet-32", "vit-192-6"]
    gpu = settings("gpu", ["float32", "tf32"])
    assert [s.precision for s in gpu if s.model == "wrn-28-10"] == [
        *("float32", "float32", "tf32", "tf32")
    ]


@pytest.mark.slow
def test_every_method_s_step():
    pytest.importorskip("torch", reason="the extra `torch` is not installed")
    made = implementations.makers("cpu")
    tiny = MLP._replace(model="mlp-8", image_shape=(4, 4, 1), batch=8, clean_batch=4)
    for name in ("mlp-8", "vit-8-1"):
        makers = {name: made[name] for name in report.IN_TABLE}
        rows = implementations.measure(
            tiny._replace(model=name), makers, repeats=1, seconds=300, memory=False
        )
        assert [row["error"] for row in rows] == len(makers) * [None]
        losses = {row["implementation"]: row["first_loss"] for row in rows}
        for theirs, mine in report.COUNTERPARTS.items():
            assert losses[theirs] == pytest.approx(losses[mine], rel=1e-4)


def test_where_both_batches_are_equal_what_does_not_depend_on_it_is_left_out():
    makers = dict.fromkeys(("ours evidence", "ours plain"), lambda setting: timing.Ready(lambda: 1))
    rows = implementations.measure(LENET._replace(clean_batch=100), makers, repeats=1, seconds=1)
    assert [row["implementation"] for row in rows] == ["ours plain"]


MISTAKES = {
    "benchmark": {
        "--models=lenet,resnet-23": "--models: got 'resnet-23'; takes 'mlp-256-256', "
        "'lenet', 'wrn-10-2', 'resnet-32', 'vit-192-6'; did you mean 'resnet-32'?",
        "--models=": "--models: got",
        "--models=lenet,lenet": "--models: got 'lenet,lenet'; takes one or more",
        "--only=": "--only: got",
        "--only=our": "did you mean 'ours'?",
        "--only='torch plain, compiled'": "--only: got 'compiled'; takes 'ours', 'torch'",
        "--precisions=bf16": "--precisions: got 'bf16'; takes 'float32', 'bfloat16'; did you mean "
        "'bfloat16'?",
        "--precisions=tf32": "--precisions: got 'tf32'; takes 'float32', 'bfloat16'",
        "--device=gpu": "--device: got gpu, and JAX finds a cpu alone; takes auto or cpu.",
        "--device=tpu": "--device=tpu",
        "--minutes=nan": "--minutes: got nan; takes a positive number",
        "--minutes=inf": "--minutes: got inf",
        "--minutes=-1": "--minutes: got -1",
        "--minutes=0": "--minutes: got 0",
        "--minutes=soon": "--minutes=soon",
        "--repeats=0": "--repeats=0",
        "--output=/dev/null/x": "--output: ",
        "--output=/proc/x": "--output: /proc/x.json cannot be written",
        "--output=": "--output: got",
        "--output=results/": "--output: got 'results/'; takes the start",
        "--config=configs/digits.py": "--config: this program takes none; leave it out.",
        "--workdir=x": "--workdir: this program takes none",
    },
    "benchmark.modes": {
        "--model=resnt-8": "--model=resnt-8: name: got 'resnt-8'",
        "--model=attention": "--model=attention: name: got 'attention'",
        "--seeds=0": "--seeds=0",
        "--output=/dev/null/x": "--output: ",
    },
    "benchmark.optimizers": {"--wirte": "wirte", "--write=3": "--write=3"},
}
OF_BOTH = {
    "": "--config",
    "--config=configs/digits.py --workdir=x --nodistributed": "--distributed: this program takes",
    "--config=configs/digits.py": "--workdir",
    "--config=configs/digits.py:smoke --workdir=/dev/null/x --config.model=lenet": "--workdir: ",
    "--config=configs/digits.py --workdir=x --methods=l2wr": "--methods: got 'l2wr'; takes "
    "'baseline', 'random', 'l2rw'; did you mean 'l2rw'?",
    "--config=configs/digits.py --workdir=x --methods=": "--methods: got",
    "--config=configs/digits.py --workdir=x --seeds=0": "--seeds=0",
    "--config=configs/digits.py --workdir=x --config.model=mpl-8": "nearest",
    "--config=configs/digits.py --config.model=lenet --workdir=README.md": "README.md",
}


def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path):
    imported = ["experiments.benchmark.implementations", "sklearn.datasets"]
    forked.check_refusals(MISTAKES, tmp_path, imported)


@pytest.mark.slow
def test_a_mistake_of_both_frameworks_is_one_line_and_leaves_nothing(tmp_path):
    pytest.importorskip("torch", reason="the extra `torch` is not installed")
    forked.check_refusals({"benchmark.side_by_side": OF_BOTH}, tmp_path, ["torch"])
