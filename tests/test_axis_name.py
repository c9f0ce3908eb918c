"""A batch divided over a mapped axis gives what one device gives for the whole of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from l2rw_jax import (
    evidence,
    example_scores,
    example_weights,
    l2rw,
    reweight,
    reweighted_value_and_grad,
)

pytestmark = pytest.mark.usefixtures("strict")

AXIS = "data"
MAPS = ("vmap", "pmap", "shard_map", "shard_map unchecked")
DEVICES = 8
MOMENTUM = problems.LOOKAHEADS["momentum"]
EVIDENCE = evidence((False, True), parts=5)  # each part has examples of several devices


def divided(kind, fn, count=DEVICES):
    """Maps `fn(shared, *batches) -> (whole, parts)` over the axis, the batches divided evenly.

    Returns `whole`, after checking that all devices agree on it, and `parts` put together.
    """
    if kind.startswith("shard_map"):
        return jax.jit(
            jax.shard_map(
                fn,
                mesh=Mesh(np.array(jax.devices()[:count]), (AXIS,)),
                in_specs=(P(), P(AXIS), P(AXIS)),
                out_specs=(P(), P(AXIS)),
                check_vma=kind == "shard_map",
            )
        )
    if kind == "vmap":
        mapped = jax.jit(jax.vmap(fn, (None, 0, 0), axis_name=AXIS))
    else:
        mapped = jax.pmap(fn, AXIS, in_axes=(None, 0, 0), devices=jax.devices()[:count])

    def call(shared, *batches):
        whole, parts = jax.device_get(  # NumPy's slices need no compiling
            mapped(
                shared,
                *jax.tree.map(lambda x: x.reshape(count, len(x) // count, *x.shape[1:]), batches),
            )
        )
        first = jax.tree.map(lambda x: x[0], whole)
        for i in range(1, count):
            problems.assert_equal(jax.tree.map(lambda x, i=i: x[i], whole), first)
        join = lambda x: x.reshape(-1, *x.shape[2:])  # noqa: E731
        return first, jax.tree.map(join, parts)

    return call


def by_reach(fn, state=None):
    """`fn`'s result as (what belongs to the whole batch, what belongs to single examples)."""

    def call(params, batch, clean):
        (loss, aux), grads = fn(params, batch, clean, lookahead_state=state)
        whole = (loss, aux.clean_loss, grads, aux.aux)
        return whole, (aux.weights, aux.scores, aux.losses)

    return call


@functools.cache
def smooth():
    with jax.enable_x64(True):
        problem = problems.mlp(b=24, m=16)
        return problem, problems.lookahead_states(problem)


def weightings():
    """Weightings, each with the name of its look-ahead's state."""
    for mode in ("forward", "reverse"):
        for name in ("none", "momentum", "adam, eps_root"):
            marks = () if name == "momentum" else pytest.mark.slow
            weighting = l2rw(problems.LOOKAHEADS[name], mode=mode)
            yield pytest.param(weighting, name, id=f"{mode}, {name}", marks=marks)
    yield pytest.param(EVIDENCE, "none", id="evidence")


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize(("weighting", "name"), [*weightings()])
def test_value_and_grad_equal_one_device(kind, weighting, name):
    problem, state = smooth()[0], smooth()[1][name]
    make = functools.partial(
        reweighted_value_and_grad, problem.losses, problem.losses, weighting=weighting
    )
    arguments = (problem.params, problem.batch, problem.clean)
    want = jax.jit(by_reach(make(), state))(*arguments)
    got = divided(kind, by_reach(make(axis_name=AXIS), state))(*arguments)
    problems.assert_close(got, want, 1e-10)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(kind, "forward") for kind in MAPS]
    + [("shard_map", "reverse"), ("pmap", "finite_difference")],
)
def test_with_a_mask_micro_batches_and_groups(kind, mode):
    problem, state = smooth()[0], smooth()[1]["momentum"]
    batch = problem.batch | {"source": jnp.arange(24) % 5}  # every device has of several groups
    make = functools.partial(
        reweighted_value_and_grad,
        problem.losses,
        problem.clean_loss,
        weighting=l2rw(
            MOMENTUM,
            mode=mode,
            mask=({"w": True, "b": False}, True),
            groups=lambda batch: batch["source"],
        ),
    )
    arguments = (problem.params, batch, problem.clean)
    want = jax.jit(by_reach(make(), state))(*arguments)
    fn = by_reach(make(axis_name=AXIS, micro_batch_size=1), state)
    got = divided(kind, fn)(*arguments)
    problems.assert_close(got, want, 1e-7 if mode == "finite_difference" else 1e-10)
    sums = np.bincount(batch["source"], want[1][1])
    assert 0 < np.sum(sums > 0) < 5  # some groups are on, some off


@pytest.mark.parametrize(
    ("kind", "weighting", "name"),
    [
        (AxisType.Auto, l2rw(MOMENTUM), "momentum"),
        (AxisType.Explicit, l2rw(MOMENTUM), "momentum"),
        (AxisType.Explicit, EVIDENCE, "none"),
    ],
    ids=["auto", "explicit", "explicit, evidence"],
)
def test_inside_a_mesh_that_is_set(kind, weighting, name):
    """The check of `lookahead` makes arrays of its own, which must not be of the mesh."""
    problem, state = smooth()[0], smooth()[1][name]
    make = functools.partial(
        reweighted_value_and_grad, problem.losses, problem.losses, weighting=weighting
    )
    arguments = (problem.params, problem.batch, problem.clean)
    want = jax.jit(by_reach(make(), state))(*arguments)
    mesh = jax.make_mesh((DEVICES,), (AXIS,), axis_types=(kind,))
    with jax.set_mesh(mesh):
        rows = jax.sharding.NamedSharding(mesh, P(AXIS))
        arguments = arguments[0], *jax.device_put(arguments[1:], rows)
        mapped = jax.shard_map(
            by_reach(make(axis_name=AXIS), state),
            in_specs=(P(), P(AXIS), P(AXIS)),
            out_specs=(P(), P(AXIS)),
        )
        problems.assert_close(jax.device_get(jax.jit(mapped)(*arguments)), want, 1e-10)


def test_a_name_that_is_no_axis_is_refused():
    problem = smooth()[0]
    fn = reweighted_value_and_grad(problem.losses, problem.clean_loss, axis_name="dta")
    arguments = (problem.params, problem.batch, problem.clean)
    match = "axis_name: got 'dta', which is no mapped axis here; takes the axis_name of the pmap"
    with pytest.raises(ValueError, match=match):
        divided("shard_map", by_reach(fn))(*arguments)
    for call in (
        lambda: fn(*arguments),
        lambda: example_weights(jnp.ones(2), axis_name=("dta",)),
        lambda: example_scores(lambda w: w, jnp.sum, jnp.ones(2), axis_name="dta"),
        lambda: reweight(axis_name="dta").update(
            None,
            reweight().init(jnp.ones(2)),
            jnp.ones(2),
            per_example_loss_fn=lambda w: w,
            clean_loss_fn=jnp.sum,
        ),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.parametrize("kind", MAPS)
def test_weights_that_are_all_zero_on_some_devices_only(kind):
    """Half the devices hold only contradictions: the whole batch's sum still divides."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 2)))
    sign = jnp.repeat(jnp.array([1.0, -1.0]), 8)
    batch, clean = {"x": x, "y": sign}, {"x": x[:8], "y": jnp.ones(8)}

    def losses(w, batch):
        # The gradient of every example is along y, so the clean batch judges by y alone.
        return -batch["y"] * w * (1 + batch["x"][:, 0] ** 2)

    make = functools.partial(reweighted_value_and_grad, losses, lambda *a: losses(*a).mean())
    want = jax.jit(by_reach(make()))(jnp.zeros(()), batch, clean)
    got = divided(kind, by_reach(make(axis_name=AXIS)))(jnp.zeros(()), batch, clean)
    weights = got[1][0]
    assert np.all(weights[:8] > 0) and np.all(weights[8:] == 0)
    problems.assert_close(got, want, 1e-12)


@pytest.mark.parametrize("kind", MAPS)
def test_weights_and_scores_alone(kind):
    problem = smooth()[0]

    def parts(params, batch, clean, axis_name=AXIS):
        scores = example_scores(
            lambda p: problem.losses(p, batch),
            lambda p: problem.clean_loss(p, clean),
            params,
            axis_name=axis_name,
        )
        return (), (scores, example_weights(scores, min_weight=0.1, axis_name=axis_name))

    arguments = (problem.params, problem.batch, problem.clean)
    got = divided(kind, parts)(*arguments)
    want = jax.jit(functools.partial(parts, axis_name=None))(*arguments)
    problems.assert_close(got, want, 1e-10)


@pytest.mark.parametrize(
    ("kind", "weighting"),
    [*((kind, l2rw(MOMENTUM)) for kind in MAPS), ("shard_map", EVIDENCE)],
    ids=[*MAPS, "shard_map, evidence"],
)
def test_the_transform_in_a_chain(kind, weighting):
    problem = smooth()[0]

    def two_steps(params, batch, clean, axis_name=AXIS):
        tx = optax.chain(reweight(weighting, axis_name=axis_name), optax.adam(0.01))
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(
                None,
                state,
                params,
                per_example_loss_fn=lambda p: problem.losses(p, batch),
                clean_loss_fn=lambda p: problem.losses(p, clean),
            )
            params = optax.apply_updates(params, updates)
        return (params, state), ()

    arguments = (problem.params, problem.batch, problem.clean)
    want = jax.jit(functools.partial(two_steps, axis_name=None))(*arguments)
    problems.assert_close(divided(kind, two_steps)(*arguments), want, 1e-6)  # info is float32


def test_two_axes_at_once():
    problem, states = smooth()
    axes = ("pod", "chip")
    arguments = (problem.params, problem.batch, problem.clean)
    for weighting, name in (
        (l2rw(MOMENTUM), "momentum"),
        (l2rw(MOMENTUM, mode="reverse"), "momentum"),
        (EVIDENCE, "none"),
    ):
        make = functools.partial(
            reweighted_value_and_grad, problem.losses, problem.losses, weighting=weighting
        )
        mapped = jax.shard_map(
            by_reach(make(axis_name=axes), states[name]),
            mesh=Mesh(np.array(jax.devices()).reshape(4, 2), axes),
            in_specs=(P(), P(axes), P(axes)),
            out_specs=(P(), P(axes)),
        )
        want = jax.jit(by_reach(make(), states[name]))(*arguments)
        problems.assert_close(jax.jit(mapped)(*arguments), want, 1e-10)


@pytest.mark.parametrize(
    ("kind", "weighting"),
    [
        *((kind, l2rw()) for kind in MAPS),
        ("shard_map", l2rw(mode="reverse")),
        *(
            pytest.param(kind, l2rw(mode="reverse"), marks=pytest.mark.slow)
            for kind in MAPS
            if kind != "shard_map"
        ),
        ("shard_map", evidence(parts=5)),
    ],
    ids=[
        *(f"{kind}, forward" for kind in MAPS),
        "shard_map, reverse",
        *(f"{kind}, reverse" for kind in MAPS if kind != "shard_map"),
        "evidence",
    ],
)
def test_losses_that_know_each_other_across_devices(kind, weighting):
    """Normalised predictions, as under batch normalisation: gradients cross the devices too."""
    rng = np.random.default_rng(0)
    batch = {"x": jnp.asarray(rng.normal(size=(24, 3))), "y": jnp.asarray(rng.normal(size=24))}
    clean = jax.tree.map(lambda x: x[:16] + 0.5, batch)

    def losses(w, batch, axis_name):
        z = batch["x"] @ w
        moments = jnp.stack([z.mean(), (z**2).mean()])
        if axis_name is not None:
            moments = jax.lax.pmean(moments, axis_name)
        return ((z - moments[0]) / jnp.sqrt(moments[1] - moments[0] ** 2) - batch["y"]) ** 2

    def make(axis_name):
        per_example = functools.partial(losses, axis_name=axis_name)
        return by_reach(
            reweighted_value_and_grad(
                per_example, per_example, weighting=weighting, axis_name=axis_name
            )
        )

    arguments = (jnp.asarray(rng.normal(size=3)), batch, clean)
    want = jax.jit(make(None))(*arguments)
    problems.assert_close(divided(kind, make(AXIS))(*arguments), want, 1e-10)


@pytest.mark.slow
def test_batch_norm_of_a_residual_net_over_the_axis():
    with jax.numpy_rank_promotion("allow"):
        whole, parts = problems.residual(), problems.residual(batch_norm_axis=AXIS)
        arguments = (whole.params, whole.batch, whole.clean)
        make = functools.partial(reweighted_value_and_grad, has_aux=True)
        want = jax.jit(by_reach(make(whole.losses, whole.clean_loss)))(*arguments)
        fn = by_reach(make(parts.losses, parts.clean_loss, axis_name=AXIS))
        problems.assert_close(divided("shard_map", fn, 2)(*arguments), want, 1e-9)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_parameters_that_vary_over_the_axis_already_are_fine(strict, mode):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    spec = jax.sharding.PartitionSpec("data")

    def losses(params, batch):
        return (params * batch) ** 2

    def clean(params, batch):
        return losses(params, batch).mean()

    batch, params = jnp.arange(1.0, 5.0), jnp.full(2, 0.5)

    def grads(params, batch):
        fn = reweighted_value_and_grad(losses, clean, weighting=l2rw(mode=mode), axis_name="data")
        return fn(params[0], batch, batch)[1]

    mapped = jax.jit(
        jax.shard_map(
            grads, mesh=mesh, in_specs=(spec, spec), out_specs=jax.sharding.PartitionSpec()
        )
    )(params, batch)
    fn = jax.jit(reweighted_value_and_grad(losses, clean, weighting=l2rw(mode=mode)))
    whole = fn(params[0], batch, batch)[1]
    np.testing.assert_allclose(mapped, whole, rtol=1e-12)
