"""However a run is spread over devices, replicas or micro-batches, it is the same run."""

import functools
import re

import jax
import numpy as np
import pytest

from l2rw_jax.models import create_model
from l2rw_jax.training import default_config, validate
from l2rw_jax.training.loop import initial_state
from l2rw_jax.training.parallel import AXIS, make_engine
from l2rw_jax.training.prepare import prepare_replicas
from l2rw_jax.training.state import make_optimizer
from l2rw_jax.training.step import make_chunk, make_step


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
        "model": "mlp-12",
    }
    config.update_from_flattened_dict(defaults | fields)
    validate(config)
    return config


@functools.cache
def _prepare(dtype, **fields):
    """The compiled chunk of a config's fields; of one step where there are convolutions."""
    config = _config(**fields)
    with jax.enable_x64(dtype == "float64"):
        return config, *_compile(config, dtype, 3 if config.model.startswith("mlp") else 1)


def _compile(config, dtype, steps):
    run_data, num_classes = prepare_replicas(config)
    model = create_model(
        config.model,
        num_classes=num_classes,
        image_shape=run_data.images.shape[1:],
        dtype=dtype,
        batch_norm_axis=AXIS if config.batch_norm == "global" else None,
        remat=config.remat,
    )
    optimizer = make_optimizer(config)
    state, key = initial_state(config, model, optimizer, run_data)
    engine = make_engine(config, num_steps=steps)
    step = make_step(config, model, optimizer, axis_name=engine.axis_name)
    average_over = None if config.batch_norm == "global" else engine.axis_name
    arguments = engine.put((state, run_data, key))
    chunk = make_chunk(step, steps, average_over=average_over)
    return engine, engine.compile(chunk, *arguments), arguments


@functools.cache
def _train(dtype="float64", **fields):
    """State and metrics after some steps, on the host."""
    _, engine, chunk, arguments = _prepare(dtype, **fields)
    with jax.enable_x64(dtype == "float64"):
        return engine.get(chunk(*arguments))


def _assert_equal(got, want, tolerance=1e-10):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def _slow(value):
    """A value whose test proves what another's does, on other compiled programs."""
    return [pytest.param(value, marks=pytest.mark.slow)]


BOTH = ["shard_map", pytest.param("pmap", marks=pytest.mark.slow)]


@pytest.mark.parametrize(
    ("method", "parallel"),
    [
        ("l2rw", "pmap"),
        ("l2rw", "shard_map"),
        ("random", "shard_map"),
        ("hard_mining", "pmap"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (
                ("random", "pmap"),
                ("hard_mining", "shard_map"),
                ("baseline", "pmap"),
                ("baseline", "shard_map"),
                ("resample", "pmap"),
                ("resample", "shard_map"),
            )
        ),
    ],
)
def test_devices_that_share_a_batch_are_one_device(method, parallel):
    want = _train(method=method)
    got = _train(method=method, parallel=parallel)
    _assert_equal(got, want)


@pytest.mark.parametrize("parallel", BOTH)
@pytest.mark.parametrize("method", ["l2rw", *_slow("baseline")])
def test_batch_normalisation_over_all_devices_is_one_device_s(method, parallel):
    want = _train(method=method, model="resnet-8")
    got = _train(method=method, model="resnet-8", parallel=parallel, batch_norm="global")
    _assert_equal(got, want)


@pytest.mark.slow
def test_batch_normalisation_per_device_is_the_same_under_pmap_and_shard_map():
    pmap, shard_map = (_train(model="resnet-8", parallel=p) for p in ("pmap", "shard_map"))
    _assert_equal(pmap, shard_map)
    whole = _train(model="resnet-8")
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), pmap[0].params, whole[0].params)
    assert max(jax.tree.leaves(difference)) > 1e-6  # it is another normalisation


@pytest.mark.parametrize("method", ["l2rw", "random", *_slow("baseline"), *_slow("clean_only")])
def test_micro_batches_are_the_whole_batch(method):
    _assert_equal(_train(method=method, micro_batches=4), _train(method=method))


def test_micro_batches_on_devices_are_the_whole_batch_on_one():
    got = _train(method="l2rw", micro_batches=2, parallel="shard_map")
    _assert_equal(got, _train(method="l2rw"))


def test_blocks_that_are_computed_again_are_the_same():
    want = _train(method="l2rw", model="resnet-8")
    _assert_equal(_train(method="l2rw", model="resnet-8", remat=True), want)


@pytest.mark.parametrize(
    "method",
    ["l2rw", *(pytest.param(m, marks=pytest.mark.slow) for m in ("random", "s_model_conf"))],
)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float64", 1e-10), pytest.param("float32", 2e-4, marks=pytest.mark.slow)],
)
def test_a_replica_is_its_seed_alone(method, dtype, tolerance):
    together, metrics = _train(dtype, method=method, replicas=3, seed=5)
    for i in range(3):
        alone, alone_metrics = _train(dtype, method=method, seed=5 + i)
        got = jax.tree.map(lambda x, i=i: x[i], (together, metrics))
        _assert_equal(got, (alone, alone_metrics), tolerance)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "resnet-8", "parallel": "shard_map", "batch_norm": "global"},
        {"parallel": "shard_map"},
        pytest.param({"model": "resnet-8", "parallel": "shard_map"}, marks=pytest.mark.slow),
    ],
    ids=["global", "no batch normalisation", "device"],
)
def test_a_step_moves_no_more_than_it_must(fields):
    """Two sums of parameter size, scalars, and moments: read off the compiled program."""
    config, _, chunk, arguments = _prepare("float64", method="l2rw", **fields)
    collectives = _collectives(chunk.as_text())
    state = arguments[0]
    params, moments = _elements_of(state.params), _elements_of(state.model_state)
    reduced = [sum(shapes) for kind, shapes in collectives if kind == "all-reduce"]
    # The clean gradient and the update's, a loss with each, the weights' maximum and sum; then the
    # running moments, or each normalisation's moments once in each of five passes: the clean loss
    # and its gradient, the losses, their tangents, and the update's gradient.
    passes = 1 if config.batch_norm == "device" else 5
    assert sum(reduced) == 2 * params + 4 + passes * moments
    if config.batch_norm == "device":  # else the compiler merges them with the gradients
        assert sum(size >= params for size in reduced) == 2 and len(reduced) <= 5
    # The weights and scores of the batch, and each device's accuracy: 2 b / D + 1 a device.
    devices = jax.device_count()
    assert [shapes for kind, shapes in collectives if kind != "all-reduce"] == [
        [devices * (2 * config.batch_size // devices + 1)]
    ]


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
