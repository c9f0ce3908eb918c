"""However a run is spread over devices, seeds or micro-batches, it is the same run."""

import functools
import re
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from l2rw_jax.training import default_config, resolve, train_and_evaluate
from l2rw_jax.training.checkpoint import open_checkpoints


def _config(**fields):
    config = default_config()
    defaults = {
        "dataset": "synthetic-8x8x3-4",
        "noise.kind": "uniform",
        "noise.ratio": 0.4,
        "clean_size": 24,
        "batch_size": 32,
        "clean_batch_size": 16,
        "pad": 1,
        "flip": True,
        "weight_decay": 1e-3,
        "boundaries": (2,),
        "model": "mlp-16",
    }
    every = dict.fromkeys(("steps", "log_every", "eval_every", "checkpoint_every"), 3)
    config.update_from_flattened_dict(defaults | every | fields)
    return config


@functools.cache
def _prepare(dtype, **fields):
    """The run, its compiled chunk (one step where there are convolutions) and the arguments."""
    with jax.enable_x64(dtype == "float64"):
        run = resolve(_config(dtype=dtype, **fields))
        state, others = run.engine.init(run.create), run.engine.put((run.data, run.key))
        return run, run.engine.compile(run.chunk, state, *others), (state, *others)


@functools.cache
def _train(dtype="float64", **fields):
    """State and metrics after some steps, on the host."""
    run, chunk, arguments = _prepare(dtype, **fields)
    with jax.enable_x64(dtype == "float64"):
        return run.engine.get(chunk(*arguments))


def _assert_equal(got, want, tolerance=1e-10):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


PMAP, JIT, FSDP = {"parallel": "pmap"}, {"parallel": "jit"}, {"parallel": "jit", "fsdp": True}


@pytest.mark.parametrize(
    ("method", "engine"),
    [
        ("l2rw", PMAP),
        ("l2rw", JIT),
        ("l2rw", FSDP),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (
                *(
                    ("random", PMAP),
                    ("random", JIT),
                    ("hard_mining", PMAP),
                    ("hard_mining", JIT),
                    ("baseline", PMAP),
                ),
                ("baseline", JIT),
                *(("resample", PMAP), ("resample", JIT), ("s_model", FSDP), ("clean_only", FSDP)),
                *(
                    ("mwnet", PMAP),
                    ("mwnet", JIT),
                    ("mwnet", FSDP),
                    ("groups", PMAP),
                    ("groups", JIT),
                    ("groups", FSDP),
                ),
                *(("evidence", PMAP), ("evidence", JIT), ("evidence", FSDP)),
                *(("inverse_loss", PMAP), ("inverse_loss", JIT)),
            )
        ),
    ],
)
def test_devices_that_share_a_batch_are_one_device(method, engine):
    _assert_equal(_train(method=method, **engine), _train(method=method))


@pytest.mark.slow
@pytest.mark.parametrize("engine", [JIT, PMAP | {"batch_norm": "global"}, FSDP])
@pytest.mark.parametrize("method", ["l2rw", "baseline"])
def test_batch_normalisation_over_all_devices_is_one_device_s(method, engine):
    want = _train(method=method, model="resnet-8")
    _assert_equal(_train(method=method, model="resnet-8", **engine), want)


@pytest.mark.slow
def test_batch_normalisation_of_each_device_is_another():
    pmap, whole = (_train(model="resnet-8", **engine) for engine in (PMAP, {}))
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), pmap[0].params, whole[0].params)
    assert max(jax.tree.leaves(difference)) > 1e-6


def test_fsdp_divides_the_state():
    """But not what is of each training example: here, too, the devices would divide it."""
    _, _, (state, *_) = _prepare("float64", method="l2rw", **FSDP)
    devices = jax.device_count()
    assert len(state.weight_sum) % devices == 0
    assert state.weight_sum.sharding.is_fully_replicated
    assert state.margin_sum.sharding.is_fully_replicated
    assert state.weight_count.sharding.is_fully_replicated
    for tree in (state.params, state.opt_state):
        large = [leaf for leaf in jax.tree.leaves(tree) if leaf.size >= 64]
        assert large
        for leaf in large:
            part = leaf.sharding.shard_shape(leaf.shape)
            assert np.prod(part) == leaf.size // devices
            assert part[np.argmax(leaf.shape)] == max(leaf.shape) // devices


@pytest.mark.parametrize(
    "method",
    [
        *("l2rw", "random"),
        *(
            pytest.param(method, marks=pytest.mark.slow)
            for method in ("baseline", "clean_only", "mwnet", "groups", "evidence", "inverse_loss")
        ),
    ],
)
def test_micro_batches_are_the_whole_batch(method):
    _assert_equal(_train(method=method, micro_batches=4), _train(method=method))


L2RW_OPTIONS = {"l2rw.lookahead": "sgd(momentum=0.9)", "l2rw.mask": "output/*"}
L2RW_OPTIONS |= {"l2rw.min_weight": 1e-3, "clean_smoothing": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize("engine", [PMAP, JIT])
def test_l2rw_s_options_are_those_of_the_whole_batch(engine):
    got = _train(method="l2rw", **L2RW_OPTIONS, **engine)
    _assert_equal(got, _train(method="l2rw", **L2RW_OPTIONS))


def test_micro_batches_on_devices_are_the_whole_batch_on_one():
    got = _train(method="l2rw", micro_batches=2, **JIT)
    _assert_equal(got, _train(method="l2rw"))


@pytest.mark.slow
def test_blocks_that_are_computed_again_are_the_same():
    want = _train(method="l2rw", model="resnet-8")
    _assert_equal(_train(method="l2rw", model="resnet-8", remat=True), want)


@pytest.mark.parametrize(
    "method",
    [
        "l2rw",
        *(
            pytest.param(method, marks=pytest.mark.slow)
            for method in ("random", "s_model_conf", "mwnet", "groups", "evidence", "inverse_loss")
        ),
    ],
)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float64", 1e-10), pytest.param("float32", 2e-4, marks=pytest.mark.slow)],
)
def test_one_of_several_seeds_is_it_alone(method, dtype, tolerance):
    together, metrics = _train(dtype, method=method, seeds=3, seed=5)
    for i in range(3):
        alone, alone_metrics = _train(dtype, method=method, seed=5 + i)
        got = jax.tree.map(lambda x, i=i: x[i], (together, metrics))
        _assert_equal(got, (alone, alone_metrics), tolerance)


@pytest.mark.parametrize(
    ("fields", "passes"),
    [
        (PMAP, 0),
        (JIT, 0),
        pytest.param(PMAP | {"model": "resnet-8"}, 1, marks=pytest.mark.slow),
        pytest.param(JIT | {"model": "resnet-8"}, 5, marks=pytest.mark.slow),
    ],
)
def test_a_step_moves_no_more_than_it_must(fields, passes):
    """Two sums of parameter size, some scalars, and moments: read off the compiled program."""
    run, chunk, (state, *_) = _prepare("float64", method="l2rw", **fields)
    collectives = _collectives(chunk.as_text())
    copies = jax.device_count() if run.config.parallel == "pmap" else 1
    params, moments = (_elements_of(x) // copies for x in (state.params, state.model_state))
    reduced = [sum(shapes) for kind, shapes in collectives if kind == "all-reduce"]
    # The clean gradient and the update's, and scalars: a loss with each, the weights' maximum and
    # sum, figures. Then the running moments, once, or each normalisation's moments in each of five
    # passes: the clean loss and its gradient, the losses, their tangents, the update's gradient.
    assert 0 <= sum(reduced) - 2 * params - passes * moments <= 16
    # The weights and margins of the batch, and for pmap the scores and each device's accuracy.
    gathered = [sum(shapes) for kind, shapes in collectives if kind != "all-reduce"]
    assert sum(gathered) <= 4 * run.batches.batch_size + jax.device_count()


def test_fsdp_gathers_the_parameters_once():
    _, chunk, (state, *_) = _prepare("float64", method="l2rw", **FSDP)
    gathered = [
        sum(shapes) for kind, shapes in _collectives(chunk.as_text()) if kind == "all-gather"
    ]
    params = _elements_of(state.params)
    assert params <= sum(gathered) < 1.1 * params  # biases a second time


def _collectives(text):
    """``(kind, [elements of each operand])`` of all collectives in a compiled program."""
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    found = re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text)
    return [
        (kind, [_elements(dims) for dims in re.findall(r"\w+\[([\d,]*)\]", shapes)])
        for shapes, kind in found
    ]


def _elements(dims):
    return int(np.prod([int(d) for d in dims.split(",") if d], initial=1))


def _elements_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@functools.cache
def _run_files(folder, **engine):
    """Trains a whole run; returns its result and its checkpoint's arrays."""
    config = _config(
        method="l2rw", steps=12, eval_every=6, checkpoint_every=6, val_size=50, ema=0.5, **engine
    )
    config.batch_size = 40
    result = train_and_evaluate(config, folder)
    with open_checkpoints(folder, 2) as checkpoints:
        args = ocp.args.Composite(state=ocp.args.StandardRestore())
        state = checkpoints.restore(12, args=args)["state"]
    return config, result, jax.tree.map(np.asarray, state)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return _run_files(tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize(
    "engine",
    [pytest.param(PMAP, marks=pytest.mark.slow), pytest.param(JIT, marks=pytest.mark.slow), FSDP],
    ids=["pmap", "jit", "fsdp"],
)
def test_a_divided_run_is_the_run_on_one_device_and_goes_on_bit_for_bit(engine, whole, tmp_path):
    """Its files, its evaluation on all devices, and its checkpoints."""
    _, alone, alone_state = whole
    config, result, state = _run_files(tmp_path / "run", **engine)
    for name in ("test_accuracy", "val_accuracy", "ema_test_accuracy", "bad_steps"):
        np.testing.assert_allclose(result[name], alone[name], atol=0.01)  # float32: a few images
    _assert_equal(state, alone_state, 2e-3)
    assert (result["device"].split()[1], alone["device"].split()[1]) == ("x8", "x1")

    stopped = shutil.copytree(tmp_path / "run", tmp_path / "stopped")
    (stopped / "result.json").unlink()
    shutil.rmtree(stopped / "checkpoints/12")
    again = train_and_evaluate(config, stopped)
    differ = dict.fromkeys(("steps_per_second", "compile_seconds"))
    assert again | differ == result | differ
    with open_checkpoints(stopped, 2) as checkpoints:
        args = ocp.args.Composite(state=ocp.args.StandardRestore())
        restored = checkpoints.restore(12, args=args)["state"]
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, restored), state)


@pytest.mark.slow
def test_fsdp_goes_on_with_another_number_of_devices(tmp_path, monkeypatch):
    config, result, _ = _run_files(tmp_path / "run", **FSDP)
    (tmp_path / "run/result.json").unlink()
    shutil.rmtree(tmp_path / "run/checkpoints/12")
    devices = jax.devices()[:4]
    monkeypatch.setattr(jax, "devices", lambda *args: devices)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    again = train_and_evaluate(config, tmp_path / "run")
    for name in ("test_accuracy", "val_accuracy", "noise_auroc"):
        np.testing.assert_allclose(again[name], result[name], atol=0.01)
