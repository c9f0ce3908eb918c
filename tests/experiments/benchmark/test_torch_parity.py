"""One step and ten in both frameworks, from equal parameters on equal batches."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2rw_jax import l2rw, reweighted_value_and_grad
from l2rw_jax.losses import cross_entropy
from l2rw_jax.methods import get_method, output_layer
from l2rw_jax.models import create_model
from l2rw_jax.training.optimizers import kernels
from l2rw_jax.training.state import split_weighting

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")

from experiments.benchmark.ours import by_method  # noqa: E402
from experiments.benchmark.torch_baseline import (  # noqa: E402
    convert,
    meta_weight_net,
    models,
    steps,
)

# The methods of ours that PyTorch's forms have to equal; that of all others is l2rw.
METHODS = {"plain": "baseline", "evidence": "evidence", "head": "head"}
METHODS |= {"mwnet_create_graph": "mwnet", "mwnet_forward_ad": "mwnet"}
CHEAP = [form for form in METHODS if form != "plain"]
REWEIGHTED = ["create_graph", "forward_ad_shared", "forward_ad_separate", "higher"]
TINY = {"resnet-8": (8, 8, 3), "lenet": (12, 12, 1), "wrn-10-1": (8, 8, 3), "mlp-16": (4, 4, 1)}
TINY["vit-128-2"] = (4, 4, 3)  # two heads
FULL = {"resnet-32": (32, 32, 3), "lenet": (28, 28, 1), "vit-192-6": (32, 32, 3)}
DECAY = 2e-4
# Of each array's largest entry, after so many steps: the same sums in another order, whose rounding
# training with a large learning rate lets grow.
TOLERANCE = {"float64": {1: 1e-8, 10: 1e-8}, "float32": {1: 1e-4, 10: 2e-2}}


def batches(shape, dtype, b=12, m=6, classes=2):
    rng = np.random.default_rng(0)
    return [
        [
            {
                "image": rng.normal(size=(n, *shape)).astype(dtype),
                "label": rng.integers(0, classes, n).astype(np.int32),
            }
            for n in (b, m)
        ]
        for _ in range(10)
    ]


@functools.cache
def initial(name, shape, dtype, method=""):
    with jax.enable_x64(dtype == "float64"):
        model = create_model(name, num_classes=2, image_shape=shape, dtype=dtype)
        params, model_state = jax.device_get(jax.jit(model.init)(jax.random.key(0)))
        if method == "mwnet":
            phi = get_method("mwnet").init_weighting(jax.random.key(1), 2)
            params["weighting"] = jax.tree.map(lambda x: np.asarray(x, dtype), phi)
        return model, params, model_state


def make_network(name, shape, dtype, method=""):
    _, params, model_state = initial(name, shape, dtype, method)
    network = models.create_network(name, num_classes=2, image_shape=shape)
    if method == "mwnet":
        network = meta_weight_net.add_weighting(network)
    network = network.to(getattr(torch, dtype), memory_format=torch.channels_last)
    return convert.to_torch(params, model_state, network)


@functools.cache
def ours(method, name, shape, dtype):
    """After each of ten steps: parameters, running moments, weights, loss."""
    model, params, model_state = initial(name, shape, dtype, method)
    tx = optax.chain(
        optax.add_decayed_weights(DECAY, mask=kernels), optax.sgd(rate(name), momentum=0.9)
    )

    @jax.jit
    def step(params, model_state, opt_state, batch, clean):
        def losses_fn(params, batch):
            logits, state = model.apply(params, model_state, batch["image"], train=True)
            return cross_entropy(logits, batch["label"]), {"state": state}

        weighting = l2rw(mask=output_layer) if method == "head" else by_method(method)(rate(name))
        value_and_grad = reweighted_value_and_grad(
            losses_fn,
            lambda *args: losses_fn(*args)[0],
            weighting=weighting,
            has_aux=True,
        )
        both = split_weighting(params) if method == "mwnet" else params
        (loss, aux), grads = value_and_grad(both, batch, clean)
        grads = grads[0] | {"weighting": grads[1]} if method == "mwnet" else grads
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return params, aux.aux["state"], opt_state, aux.weights, loss

    with jax.enable_x64(dtype == "float64"):
        opt_state, history = tx.init(jax.tree.map(jnp.asarray, params)), []
        for pair in batches(shape, dtype):
            params, model_state, opt_state, *output = step(params, model_state, opt_state, *pair)
            history.append(jax.device_get((params, model_state, *output)))
        return history


def rate(name):
    return 0.01 if name == "lenet" else 0.1


def theirs(form, name, shape, dtype, count=10):
    """The same by PyTorch."""
    if form == "higher":
        pytest.importorskip("higher", reason="higher, of the extra `torch`, is not installed")
    method = METHODS.get(form, "l2rw")
    network = make_network(name, shape, dtype, method)
    optimizer = steps.make_optimizer(network, rate=rate(name), weight_decay=DECAY)
    step = steps.make_step(form, network, optimizer)
    _, params, model_state = initial(name, shape, dtype, method)
    history = []
    for pair in batches(shape, dtype)[:count]:
        weights, loss = step(*(array for batch in pair for array in to_torch(batch)))
        trees = [convert.to_jax(network, tree) for tree in (params, model_state)]
        history.append((*trees, weights.numpy(), loss.numpy()))
    return history


def to_torch(batch):
    image = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2)
    return image, torch.from_numpy(batch["label"]).long()


def assert_close(got, want, tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = np.max(np.abs(b), initial=0)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(scale, 1e-3))


def check(form, name, shape, dtype):
    method = METHODS.get(form, "l2rw")
    want = ours(method, name, shape, dtype)
    got = theirs(form, name, shape, dtype)
    for count, tolerance in TOLERANCE[dtype].items():
        params, model_state, weights, loss = got[count - 1]
        want_params, want_state, want_weights, want_loss = want[count - 1]
        assert_close(loss, want_loss, tolerance)
        assert_close(weights, want_weights, tolerance)
        assert_close(params, want_params, tolerance)
        assert_close(means(model_state), means(want_state), tolerance)
    if method in ("l2rw", "head"):  # some weights are zero and some are not
        weights = np.stack([weights for _, _, weights, _ in want])
        assert (weights > 0).mean() > 0.1 and (weights == 0).mean() > 0.1


def means(model_state):
    """The running means; the running variances follow another convention, see `convert`."""
    found = jax.tree_util.tree_leaves_with_path(model_state)
    return [leaf for path, leaf in found if path[-1].key == "mean"]


# The reweighted forms are held against ResNet's layers.
REPEATED = [
    *((form, "lenet") for form in ("forward_ad_separate", "forward_ad_shared", "higher")),
    *(("create_graph", "lenet"), ("higher", "resnet-8"), ("plain", "resnet-8"), ("plain", "lenet")),
]


@pytest.mark.parametrize(
    ("form", "name"),
    [
        pytest.param(*pair, marks=[pytest.mark.slow] * (pair in REPEATED))
        for pair in itertools.product(["plain", *REWEIGHTED], ["resnet-8", "lenet"])
    ],
)
def test_float64(form, name):
    check(form, name, TINY[name], "float64")


@pytest.mark.parametrize(
    ("form", "name"),
    [
        *((form, "mlp-16") for form in ("plain", "forward_ad_separate", *CHEAP)),
        *(pytest.param(form, "resnet-8", marks=pytest.mark.slow) for form in CHEAP),
        *(pytest.param(form, "lenet", marks=pytest.mark.slow) for form in CHEAP),
        *(
            pytest.param(form, "vit-128-2", marks=pytest.mark.slow)
            for form in ("plain", *REWEIGHTED, *CHEAP)
        ),
    ],
)
def test_cheap_steps_and_transformers(form, name):
    check(form, name, TINY[name], "float64")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["create_graph", "forward_ad_shared"])
def test_float32(form):
    check(form, "resnet-8", TINY["resnet-8"], "float32")


@pytest.mark.parametrize("name", ["resnet-8", "lenet"])
def test_odd_sides(name):
    shape = (7, 5, 3)
    model, params, model_state = initial(name, shape, "float32")
    image = np.random.default_rng(0).normal(size=(4, *shape)).astype("f")
    want, _ = jax.jit(functools.partial(model.apply, train=True))(params, model_state, image)
    network = make_network(name, shape, "float32")
    got = network(torch.from_numpy(image).permute(0, 3, 1, 2)).detach()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
@pytest.mark.parametrize("form", ["plain", *REWEIGHTED, *CHEAP])
def test_full_size(form, name):
    check(form, name, FULL[name], "float64")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["plain", "create_graph", "forward_ad_shared"])
def test_compiled(form):
    shape = TINY["resnet-8"]
    arrays = [array for batch in batches(shape, "float32")[0] for array in to_torch(batch)]
    results = []
    for compiled in (False, True):
        network = make_network("resnet-8", shape, "float32")
        optimizer = steps.make_optimizer(network, rate=0.1, weight_decay=DECAY)
        outputs = steps.make_step(form, network, optimizer, compiled=compiled)(*arrays)
        results.append([*(o.numpy() for o in outputs), *(p.numpy() for p in tensors(network))])
    assert_close(results[1], results[0], TOLERANCE["float32"][1])


def tensors(network):
    return [tensor.detach() for tensor in network.state_dict().values()]


@pytest.mark.parametrize("name", TINY)
def test_conversion_there_and_back_is_the_identity(name):
    _, params, model_state = initial(name, TINY[name], "float32")
    rng = np.random.default_rng(0)
    params, model_state = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32), (params, model_state)
    )
    network = models.create_network(name, num_classes=2, image_shape=TINY[name])
    assert sum(p.numel() for p in network.parameters()) == sum(
        map(np.size, jax.tree.leaves(params))
    )
    convert.to_torch(params, model_state, network)
    jax.tree.map(np.testing.assert_array_equal, convert.to_jax(network, params), params)
    jax.tree.map(np.testing.assert_array_equal, convert.to_jax(network, model_state), model_state)


def test_evaluation_uses_the_running_moments():
    shape = TINY["resnet-8"]
    model, params, model_state = initial("resnet-8", shape, "float32")
    rng = np.random.default_rng(0)
    model_state = jax.tree.map(lambda x: rng.uniform(0.5, 2, x.shape).astype("f"), model_state)
    batch = batches(shape, "float32")[0][0]
    evaluate = jax.jit(functools.partial(model.apply, train=False))
    want, _ = evaluate(params, model_state, batch["image"])
    network = convert.to_torch(params, model_state, make_network("resnet-8", shape, "float32"))
    with torch.no_grad():
        got = network.eval()(to_torch(batch)[0])
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", REWEIGHTED)
def test_running_variance(form):
    shape = TINY["resnet-8"]
    ((_, got, *_),) = theirs(form, "resnet-8", shape, "float64", count=1)
    _, want, *_ = ours("l2rw", "resnet-8", shape, "float64")[0]
    n = 12 * 2 * 2  # b h w of the last norm: PyTorch's follows the unbiased variance
    unbiased = 0.9 + (want["norm"]["var"] - 0.9) * n / (n - 1)
    np.testing.assert_allclose(got["norm"]["var"], unbiased, rtol=1e-8)


def test_an_unknown_network():
    with pytest.raises(ValueError, match=r"takes mlp-H1-\.\.\., lenet, resnet-D"):
        models.create_network("resnt-8", num_classes=2, image_shape=(8, 8, 3))
