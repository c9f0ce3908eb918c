"""Nothing that happens to a run loses it: it goes on, bit for bit, or says in one line why not."""

import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from l2rw_jax import losses, methods
from l2rw_jax.training import (
    ConfigError,
    Ended,
    RunError,
    default_config,
    loop,
    resolve,
    train_and_evaluate,
    validate,
)
from l2rw_jax.training.checkpoint import open_checkpoints
from l2rw_jax.training.workdir import locked, read_metrics, write_json

ROOT = Path(__file__).parents[2]
# Each chunk is saved, so that a kill finds the run compiling, stepping and saving.
FIELDS = {
    "noise.kind": "uniform",
    "noise.ratio": 0.4,
    "model": "mlp-16",
    "steps": 100,
    "log_every": 5,
    "eval_every": 50,
    "checkpoint_every": 5,
    "clean_size": 100,
    "clean_batch_size": 100,
}
TIMES = ("steps_per_second", "compile_seconds")


def _config(**fields):
    config = default_config()
    config.update_from_flattened_dict(FIELDS | fields)
    return config


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("xla")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Trains, once, the run of some fields that nothing stops; returns its folder."""

    @functools.cache
    def train(**fields):
        workdir = tmp_path_factory.mktemp("whole")
        train_and_evaluate(_config(**fields), workdir)
        return workdir

    return train


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of the same run, stopped by a signal after step 20."""
    workdir = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as monkeypatch:
        _stop_at(monkeypatch, 20)
        with pytest.raises(loop.Stopped):
            train_and_evaluate(_config(), workdir)
    return workdir


def _start(workdir, cache, **fields):
    """Starts the program of this run."""
    flags = [f"--config.{name}={value}" for name, value in (FIELDS | fields).items()]
    flags += ["--config.boundaries=()", "--config.clip_norm=0.0", "--config.weight_decay=0.0"]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "experiments.train", f"--workdir={workdir}"),
            *("--config=configs/digits.py", *flags),
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_until(condition, program):
    deadline = time.monotonic() + 120
    while not condition():
        assert program.poll() is None, program.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _last_line(program):
    errors = program.communicate(timeout=120)[1]
    assert "Traceback" not in errors
    return errors.strip().splitlines()[-1]


def _stop_at(monkeypatch, step, number=signal.SIGTERM):
    """Sends this process a signal after ``step``."""
    append = loop.files.append_metrics

    def append_and_signal(workdir, line):
        append(workdir, line)
        if line["step"] == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(loop.files, "append_metrics", append_and_signal)


def _last_state(workdir):
    args = ocp.args.Composite(state=ocp.args.StandardRestore())
    with open_checkpoints(workdir, 2) as checkpoints:
        restored = checkpoints.restore(max(checkpoints.all_steps()), args=args)["state"]
    return jax.tree.map(np.asarray, restored)


def _assert_same(run, expected):
    """Equal bit for bit: metrics, result, weights, and the last checkpoint."""
    lines = [read_metrics(workdir) for workdir in (run, expected)]
    lines.append([json.loads((workdir / "result.json").read_text()) for workdir in (run, expected)])
    without_times = [
        [{name: line[name] for name in line if name not in TIMES} for line in each]
        for each in lines
    ]
    assert without_times[0] == without_times[1]
    assert without_times[2][0] == without_times[2][1]
    weights = [dict(np.load(workdir / "weights.npz")) for workdir in (run, expected)]
    jax.tree.map(np.testing.assert_array_equal, *weights)
    jax.tree.map(np.testing.assert_array_equal, _last_state(run), _last_state(expected))


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, cache, whole, kills):
    """Kills at some time in each tenth of the run: it compiles, steps, logs or saves."""
    rng, chunks = np.random.default_rng(kills), FIELDS["steps"] // FIELDS["log_every"]
    for kill in range(kills):
        program = _start(tmp_path, cache)
        _wait_until((tmp_path / "config.json").exists, program)
        metrics, lines = tmp_path / "metrics.jsonl", kill * (chunks - 2) // kills
        _wait_until(lambda f=metrics, n=lines: f.exists() and _count(f) >= n, program)
        time.sleep(rng.uniform(0, 0.05))
        program.kill()
        program.communicate()
        assert not (tmp_path / "result.json").exists()
    train_and_evaluate(_config(), tmp_path)
    _assert_same(tmp_path, whole())


def _count(path):
    return path.read_bytes().count(b"\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"seeds": 2},
        {"stream": True},
        {"parallel": "pmap", "batch_size": 80, "clean_batch_size": 80},
        {"parallel": "jit", "fsdp": True, "batch_size": 80, "clean_batch_size": 80},
    ],
    ids=["seeds", "stream", "pmap", "fsdp"],
)
def test_killed_runs_of_every_kind_go_on_bit_for_bit(tmp_path, cache, whole, fields):
    for lines in (3, 9, 15):
        program = _start(tmp_path, cache, **fields)
        metrics = tmp_path / "metrics.jsonl"
        _wait_until(
            lambda: metrics.exists() and metrics.read_text().count("\n") >= lines,  # noqa: B023
            program,
        )
        program.kill()
        program.communicate()
    train_and_evaluate(_config(**fields), tmp_path)
    _assert_same(tmp_path, whole(**fields))


@pytest.mark.parametrize(
    ("number", "fields"),
    [
        pytest.param(signal.SIGTERM, {}, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, {"seeds": 2}, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, {"stream": True}, marks=pytest.mark.slow),
    ],
    ids=["SIGTERM", "SIGINT with seeds", "SIGTERM with a stream"],
)
def test_a_signal_stops_a_run_that_then_goes_on(tmp_path, cache, whole, number, fields):
    program = _start(tmp_path, cache, **fields)
    metrics = tmp_path / "metrics.jsonl"
    _wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 3, program)
    program.send_signal(number)
    line = _last_line(program)
    assert program.returncode == 75
    step = read_metrics(tmp_path)[-1]["step"]
    assert 15 <= step < 100
    assert (
        line == f"stopped after step {step} of 100, saved in {tmp_path}; the same command goes on."
    )
    train_and_evaluate(_config(**fields), tmp_path)
    _assert_same(tmp_path, whole(**fields))


@pytest.mark.slow
def test_a_signal_while_the_run_compiles_stops_it_after_the_first_steps(tmp_path, cache, whole):
    program = _start(tmp_path, cache)
    _wait_until((tmp_path / "config.json").exists, program)
    program.send_signal(signal.SIGTERM)
    assert _last_line(program).startswith("stopped after step 5 of 100")
    assert program.returncode == 75
    assert [line["step"] for line in read_metrics(tmp_path)] == [5]
    train_and_evaluate(_config(), tmp_path)
    _assert_same(tmp_path, whole())


def _delete(path):
    path.unlink()


def _truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


# All tears of a checkpoint are in test_checkpoint.py.
@pytest.mark.parametrize(
    "tear", [*(pytest.param(t, marks=pytest.mark.slow) for t in (_delete, _truncate)), _flip]
)
def test_a_torn_checkpoint_is_passed_over_aloud(tmp_path, stopped, whole, caplog, tear):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    files = [path for path in (tmp_path / "checkpoints/20/state").rglob("*") if path.is_file()]
    tear(max(files, key=lambda path: path.stat().st_size))
    train_and_evaluate(_config(), tmp_path)
    assert "checkpoint 20 cannot be read" in caplog.text
    _assert_same(tmp_path, whole())


def test_with_every_checkpoint_torn_a_run_ends_and_deletes_nothing(tmp_path, stopped):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    for step in (15, 20):
        _delete(tmp_path / f"checkpoints/{step}/about/metadata")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=r"none of the checkpoints \[20, 15\] can be read"):
        train_and_evaluate(_config(), tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own, of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_line_and_costs_nothing(small_disk, cache, stopped, whole):
    workdir = shutil.copytree(stopped, small_disk / "run")
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk)
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - 40_000))  # a save needs 100,000
    program = _start(workdir, cache)
    errors = [line for line in program.communicate(timeout=120)[1].splitlines() if "device" in line]
    assert program.returncode == 1
    assert len(errors) == 1
    assert errors[0].startswith("error: ") and "No space left on device" in errors[0]
    assert "earlier checkpoints are kept" in errors[0]
    ballast.unlink()
    train_and_evaluate(_config(), workdir)
    _assert_same(workdir, whole())


def test_a_log_that_cannot_be_written_is_one_line(small_disk, tmp_path):
    """Of TensorBoard's; that of a thread would wait for ever."""
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
    (tmp_path / "run").mkdir()
    config = validate(_config(tensorboard=True))
    write_json(tmp_path / "run/config.json", config.to_dict())
    (tmp_path / "run/tensorboard").symlink_to(small_disk)
    free = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_frsize - 8_000))
    with pytest.raises(RunError, match=r"tensorboard cannot be written: No space left on device"):
        train_and_evaluate(config, tmp_path / "run")


@pytest.mark.slow
def test_a_file_that_cannot_grow_is_one_line_and_costs_nothing(tmp_path, cache, stopped, whole):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    program = _start(tmp_path, cache)
    resource.prlimit(program.pid, resource.RLIMIT_FSIZE, (8_000, 8_000))  # a quota of sorts
    line = _last_line(program)
    assert program.returncode == 1
    assert line.startswith("error: ") and "File too large" in line
    assert "earlier checkpoints are kept" in line
    train_and_evaluate(_config(), tmp_path)
    _assert_same(tmp_path, whole())


def test_a_folder_that_cannot_be_written_is_one_line(cache):
    program = _start("/proc/run", cache)  # where not even root can make a folder
    assert _last_line(program).startswith("error: workdir: /proc/run cannot be written: ")
    assert program.returncode == 2


def test_a_folder_in_use_is_refused_and_free_afterwards(tmp_path):
    config = _config(steps=10, eval_every=10)
    with locked(tmp_path), pytest.raises(ConfigError, match=r"is in use by another process"):
        train_and_evaluate(config, tmp_path)
    assert train_and_evaluate(config, tmp_path)["steps"] == 10


def _bad_where(bad, name="baseline", good=losses.cross_entropy):
    """The method with a loss that is ``bad(labels)`` wherever that is not 0."""

    def loss(logits, labels):
        values = good(logits, labels)
        return jnp.where(bad(labels) != 0, bad(labels), values)

    return methods.METHODS[name]._replace(loss=loss)


def test_a_step_with_a_nan_is_skipped_and_counted(tmp_path, monkeypatch):
    """Of those whose batch begins with an 8 every loss is NaN."""

    def bad(labels):
        return jnp.where(labels[0] == 8, jnp.nan, 0) * jnp.ones(len(labels))

    monkeypatch.setitem(methods.METHODS, "baseline", _bad_where(bad))
    config = _config(method="baseline", steps=20, log_every=1, eval_every=20, checkpoint_every=1)
    config.keep_checkpoints = 21
    result = train_and_evaluate(config, tmp_path)
    lines = read_metrics(tmp_path)
    skipped = [line["step"] for line in lines if line["bad_steps"]]
    assert 0 < len(skipped) < 10
    assert result["bad_steps"] == len(skipped)
    assert [line["step"] for line in lines if line["loss"] is None] == skipped

    args = ocp.args.Composite(state=ocp.args.StandardRestore())
    with open_checkpoints(tmp_path, 21) as checkpoints:
        states = {step: checkpoints.restore(step, args=args)["state"] for step in range(1, 21)}
    kernels = {step: np.concatenate(_flat(states[step]["params"])) for step in states}
    counts = {step: np.asarray(states[step]["weight_count"]).sum() for step in states}
    for step in range(2, 21):
        unchanged = np.array_equal(kernels[step], kernels[step - 1])
        assert unchanged == (step in skipped), step
        assert counts[step] - counts[step - 1] == (0 if step in skipped else 100)
        assert np.isfinite(kernels[step]).all()


def _flat(tree):
    return [np.ravel(leaf) for leaf in jax.tree.leaves(tree)]


def test_a_signal_in_the_last_chunk_is_not_lost(tmp_path, monkeypatch):
    config = _config(method="baseline", steps=10, eval_every=10)
    _stop_at(monkeypatch, config.steps)
    with pytest.raises(loop.Stopped, match=r"^stopped after the last step; the result is in "):
        train_and_evaluate(config, tmp_path)
    monkeypatch.undo()
    result = json.loads((tmp_path / "result.json").read_text())
    assert train_and_evaluate(config, tmp_path) == result


def test_too_many_bad_steps_end_a_run_and_keep_the_last_good_state(tmp_path, monkeypatch):
    config = _config(method="baseline", steps=40, log_every=10, eval_every=10, max_bad_steps=3)
    config.checkpoint_every = 20
    _stop_at(monkeypatch, 10)
    with pytest.raises(loop.Stopped):
        train_and_evaluate(config, tmp_path)
    monkeypatch.undo()
    before = _last_state(tmp_path)
    monkeypatch.setitem(
        methods.METHODS, "baseline", _bad_where(lambda labels: jnp.full(len(labels), jnp.nan))
    )
    for again in ("", ".* That run has ended; remove .* to start it anew", ".* has ended"):
        with pytest.raises(RunError, match=rf"step 11: .* for 3 steps in a row .*{again}"):
            train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "result.json").exists()
    (tmp_path / "ended.json").unlink()  # its checkpoint knows
    with pytest.raises(Ended, match=r"step 11: .* That run has ended; take another workdir"):
        train_and_evaluate(config, tmp_path)
    after = _last_state(tmp_path)
    for name in ("params", "opt_state", "weight_sum", "weight_count"):
        jax.tree.map(np.testing.assert_array_equal, after[name], before[name])
    assert after["step"] == 20 and after["bad_steps"] == 10


def test_scores_that_are_not_finite_get_weight_zero_in_a_good_step(tmp_path, monkeypatch):
    """Of every 3, the loss is finite but grows too steeply for its score."""

    def loss(logits, labels):
        steep = jnp.where(labels == 3, 1e38, 0)
        return losses.cross_entropy(logits, labels) + steep * (
            1e30 * (logits.sum(-1) - jax.lax.stop_gradient(logits.sum(-1)))
        )

    monkeypatch.setitem(methods.METHODS, "l2rw", methods.METHODS["l2rw"]._replace(loss=loss))
    result = train_and_evaluate(_config(steps=20, eval_every=20), tmp_path)
    assert result["bad_steps"] == 0
    weights = np.load(tmp_path / "weights.npz")
    assert (weights["mean_weight"] > 0).any()
    threes = resolve(_config(steps=20, eval_every=20)).data.train.label == 3
    assert weights["count"][threes].sum() > 0
    assert not weights["mean_weight"][threes].any()


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.\nstack"),
        MemoryError("Unable to allocate 9 TiB"),
    ],
)
def test_out_of_memory_is_one_line(tmp_path, monkeypatch, error):
    def compiled(*args):
        raise error

    monkeypatch.setattr(loop, "compiled", compiled)
    with pytest.raises(RunError, match=r"^config.model=mlp-16: out of memory \(.*\); try") as told:
        train_and_evaluate(_config(), tmp_path)
    assert "\n" not in str(told.value)


def test_another_error_of_the_device_goes_its_way(tmp_path, monkeypatch):
    def compiled(*args):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(loop, "compiled", compiled)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        train_and_evaluate(_config(), tmp_path)
