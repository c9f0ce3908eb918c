"""Under `jax.jit`, batches and parameters sharded over devices give one device's result."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from l2rw_jax import evidence, l2rw, reweight, reweighted_value_and_grad

pytestmark = pytest.mark.usefixtures("strict")

DEVICES = 8
MODES = ("forward", "reverse", "finite_difference")
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
OPTIONS = {
    "plain": {},
    "momentum": {"lookahead": optax.sgd(0.3, momentum=0.9)},
    "mask": {"mask": (False, True)},
    "micro-batches": {"micro_batch_size": 8},
    "groups": {"groups": lambda batch: batch["source"]},
}
OPTIONS["everything"] = functools.reduce(dict.__or__, OPTIONS.values())
OPTIONS["evidence"] = {"weighting": evidence((False, True), parts=5)}


@functools.cache
def problem():
    """Two layers with an axis that eight devices can divide, and a source for each example."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        made = problems.mlp(b=16, m=8)

        def layer(n_in, n_out):
            return {
                "w": jnp.asarray(rng.normal(size=(n_in, n_out))),
                "b": jnp.asarray(rng.normal(size=(1, n_out))),
            }

        params = (layer(3, 16), layer(16, 4))
        return made._replace(params=params, batch=made.batch | {"source": jnp.arange(16) % 3})


def shardings(mesh, params, place):
    """Replicated, or each array divided over its largest axis that the devices divide (FSDP)."""

    def spec(x):
        axes = [i for i, n in enumerate(x.shape) if n % DEVICES == 0] if place == "fsdp" else []
        largest = max(axes, key=lambda i: x.shape[i], default=None)
        return P(*("data" if i == largest else None for i in range(x.ndim)))

    return jax.tree.map(lambda x: NamedSharding(mesh, spec(x)), params)


def gathered(loss_fn):
    """On an explicit mesh a loss gathers sharded parameters itself; elsewhere the compiler does."""

    def fn(params, batch):
        return loss_fn(jax.tree.map(lambda p: jax.reshard(p, P(*[None] * p.ndim)), params), batch)

    return fn


def weighted(losses, name, mode):
    """The function of these options, some of which are `l2rw`'s."""
    options = {"mode": mode, **OPTIONS[name]}
    own = {key: options.pop(key) for key in ("micro_batch_size",) if key in options}
    weighting = options.get("weighting") or l2rw(**options)
    return jax.jit(reweighted_value_and_grad(losses, losses, weighting=weighting, **own))


def sharded(kind, place, state, name, mode):
    """`reweighted_value_and_grad` of the problem on a mesh of eight devices."""
    made = problem()
    losses = gathered(made.losses) if kind == "explicit" and place == "fsdp" else made.losses
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(KINDS[kind],))
    with jax.set_mesh(mesh):
        params, state = (jax.device_put(x, shardings(mesh, x, place)) for x in (made.params, state))
        rows = NamedSharding(mesh, P("data"))
        batch, clean = jax.device_put((made.batch, made.clean), rows)
        fn = weighted(losses, name, mode)
        result = fn(params, batch, clean, lookahead_state=state)
        for grad, param in zip(*map(jax.tree.leaves, (result[1], params)), strict=True):
            assert kind == "auto" or grad.sharding == param.sharding
        assert len(result[0][1].weights.sharding.device_set) == DEVICES
        return jax.device_get(result)


@functools.cache
def on_one_device(name, mode):
    made, options = problem(), OPTIONS[name]
    state = options["lookahead"].init(made.params) if "lookahead" in options else None
    fn = weighted(made.losses, name, mode)
    return state, fn(made.params, made.batch, made.clean, lookahead_state=state)


def combinations():
    """In `make test`, nothing and everything at once; one option at a time is slow."""
    for kind in KINDS:
        for place in ("replicated", "fsdp"):
            for name in OPTIONS:
                quick = () if name in ("plain", "everything", "evidence") else pytest.mark.slow
                yield pytest.param(kind, place, name, "forward", marks=quick)
        for mode in MODES[1:]:
            yield kind, "fsdp", "everything", mode
            yield pytest.param(kind, "replicated", "everything", mode, marks=pytest.mark.slow)


@pytest.mark.parametrize(("kind", "place", "name", "mode"), [*combinations()])
def test_sharded_arrays_give_one_device_s_result(kind, place, name, mode):
    state, want = on_one_device(name, mode)
    got = sharded(kind, place, state, name, mode)
    problems.assert_close(got, want, 1e-7 if mode == "finite_difference" else 1e-12)


def test_the_transform_keeps_the_shardings_of_parameters_and_state():
    made = problem()
    tx = optax.chain(reweight(l2rw(optax.sgd(0.1, momentum=0.9))), optax.adam(0.1))

    def two_steps(params, state, batch, clean):
        for _ in range(2):
            updates, state = tx.update(
                None,
                state,
                params,
                per_example_loss_fn=lambda p: made.losses(p, batch),
                clean_loss_fn=lambda p: made.clean_loss(p, clean),
            )
            params = optax.apply_updates(params, updates)
        return params, state

    want = jax.jit(two_steps)(made.params, tx.init(made.params), made.batch, made.clean)
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    places = shardings(mesh, made.params, "fsdp")
    params = jax.device_put(made.params, places)
    state_places = shardings(mesh, jax.eval_shape(tx.init, params), "fsdp")
    state = jax.jit(tx.init, out_shardings=state_places)(params)
    rows = NamedSharding(mesh, P("data"))
    batch, clean = jax.device_put((made.batch, made.clean), rows)
    step = jax.jit(two_steps, out_shardings=(places, state_places), donate_argnums=(0, 1))
    got = step(params, state, batch, clean)
    assert got[0][0]["w"].addressable_shards[0].data.shape == (3, 2)
    assert got[1][0].lookahead_state[0].trace[0]["w"].addressable_shards[0].data.shape == (3, 2)
    problems.assert_close(jax.device_get(got), want, 1e-6)  # info is float32


def test_the_collectives_of_an_fsdp_step():
    """Read off the compiled text.

    Each parameter is gathered once, for both passes. Summed over devices are the clean gradient and
    the update's, and three scalars: the scores' maximum, their sum, and the loss. No activation and
    no batch is moved.
    """
    width, rows = 64, 1024  # activations are by far larger than parameters
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    params = [jnp.zeros((width, width)), jnp.zeros((width, width))]
    divided = NamedSharding(mesh, P("data"))

    def losses(params, batch):
        whole = [jax.lax.with_sharding_constraint(p, NamedSharding(mesh, P())) for p in params]
        hidden = jnp.tanh(batch @ whole[0])
        return jnp.sum((hidden @ whole[1]) ** 2, axis=1)

    fn = reweighted_value_and_grad(losses, lambda p, x: losses(p, x).mean())

    def step(params, batch, clean):
        (loss, _), grads = fn(params, batch, clean)
        return jax.tree.map(lambda p, g: p - g, params, grads), loss

    like = lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)  # noqa: E731
    batch = like(jnp.zeros((rows, width)), divided)
    compiled = jax.jit(step, out_shardings=([divided] * 2, None)).lower(
        [like(p, divided) for p in params], batch, batch
    )
    text = compiled.compile().as_text()
    collectives = re.findall(
        r"= (\(?\w+\[.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
        r"(?:-start)?\(",
        text,
    )
    sizes = {"all-gather": [], "all-reduce": [], "reduce-scatter": []}
    for shapes, name in collectives:
        for dims in re.findall(r"\[([\d,]*)\]", shapes):
            sizes[name].append(int(np.prod([int(n) for n in dims.split(",") if n])))
    assert sizes["all-gather"] == [width * width] * 2
    sums = sorted(sizes["all-reduce"] + sizes["reduce-scatter"])
    assert sums == [1] * 3 + [width * width] * 4
