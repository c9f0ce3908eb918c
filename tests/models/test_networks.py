import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from l2rw_jax.models import create_model
from l2rw_jax.models.resnet import _NormReLU

SHAPE = (8, 8, 3)
KEY = jax.random.key(0)


def images(dtype=jnp.float32, count=8):
    return jax.random.normal(jax.random.key(1), (count, *SHAPE), dtype)


def assert_close(got, want, rtol):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol), got, want)


def square_loss(model, params, model_state, x):
    logits, model_state = model.apply(params, model_state, x, train=True)
    return jnp.mean(jnp.square(logits)), model_state


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet-32", 0.464e6),
        ("wrn-28-10", 36.5e6),
        ("lenet", 5 * 5 * (3 * 16 + 16 * 32 + 32 * 64) + 112 + 1024 * 100 + 100 + 1010),
        ("mlp-256-256", 3072 * 256 + 256 * 256 + 2560 + 522),
        # 12 w^2 + 13 w a layer, patches, positions, the last norm, the output.
        ("vit-192-6", 6 * (12 * 192**2 + 13 * 192) + 49 * 192 + 64 * 192 + 384 + 1930),
    ],
)
def test_parameter_counts(name, count):
    model = create_model(name, num_classes=10, image_shape=(32, 32, 3))
    params, _ = jax.eval_shape(model.init, KEY)
    assert sum(p.size for p in jax.tree.leaves(params)) == pytest.approx(count, rel=0.01)


def test_weights_are_called_kernel():
    for name in ("mlp-4", "lenet", "resnet-8", "wrn-10-2", "vit-16-2"):
        model = create_model(name, num_classes=3, image_shape=SHAPE)
        params, _ = jax.eval_shape(model.init, KEY)
        position = params.pop("position", None)  # weighs nothing
        for path, leaf in jax.tree_util.tree_leaves_with_path(params):
            stacked = path[0].key == "blocks"  # with the layers as first axis
            assert (path[-1].key == "kernel") == (leaf.ndim - stacked > 1)
        assert (position is None) == (name != "vit-16-2")


def test_initial_scales():
    params, _ = create_model("resnet-8", num_classes=3, image_shape=SHAPE).init(KEY)
    kernel = params["stage_2_block_0"]["conv_0"]["kernel"]  # 3x3, 32 -> 64
    assert jnp.std(kernel) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    params, _ = create_model("lenet", num_classes=3, image_shape=SHAPE).init(KEY)
    # A normal of deviation 0.1 cut at two deviations has deviation 0.088.
    assert jnp.std(params["conv_2"]["kernel"]) == pytest.approx(0.088, rel=0.02)
    assert jnp.abs(params["conv_2"]["kernel"]).max() <= 0.2


def test_lenet_with_two_classes_is_one_sigmoid_unit():
    model = create_model("lenet", num_classes=2, image_shape=SHAPE)
    params, model_state = model.init(KEY)
    logits, _ = model.apply(params, model_state, images(), train=True)
    assert params["output"]["kernel"].shape == (100, 1)
    np.testing.assert_array_equal(logits[:, 0], 0.0)
    assert jnp.all(logits[:, 1] != 0.0)


def test_shortcut_averages_and_pads_channels():
    # An odd side, where the strided convolution rounds up. With all block outputs zero only the
    # shortcuts speak: 16 channels in the middle of 64.
    model = create_model("resnet-8", num_classes=3, image_shape=(5, 5, 3))
    params, model_state = model.init(KEY)
    for stage in range(3):
        kernel = params[f"stage_{stage}_block_0"]["conv_1"]["kernel"]
        params[f"stage_{stage}_block_0"]["conv_1"]["kernel"] = jnp.zeros_like(kernel)
    apply = jax.jit(functools.partial(model.apply, train=True))
    _, model_state = apply(params, model_state, images()[:, :5, :5])
    moved = model_state["norm"]["mean"] != 0
    np.testing.assert_array_equal(jnp.flatnonzero(moved), jnp.arange(24, 40))


def test_batch_norm_equals_flax():
    x = 3 + 2 * jax.random.normal(KEY, (4, 5, 5, 6))
    ours = _NormReLU(6, axis_name=None, dtype=jnp.float32)
    flax = nnx.BatchNorm(6, momentum=0.9, epsilon=1e-5, rngs=nnx.Rngs(0))
    ours.scale.set_value(jnp.arange(1.0, 7.0))
    flax.scale.set_value(jnp.arange(1.0, 7.0))
    for train in (True, False):
        assert_close(ours(x, train), nnx.relu(flax(x, use_running_average=not train)), 1e-5)
        assert_close(ours.mean[...], flax.mean[...], 1e-6)
        assert_close(ours.var[...], flax.var[...], 1e-6)


def test_batch_norm_running_moments():
    model = create_model("resnet-8", num_classes=3, image_shape=SHAPE)
    params, before = model.init(KEY)
    train = jax.jit(functools.partial(model.apply, train=True))
    evaluate = jax.jit(functools.partial(model.apply, train=False))
    whole, after = train(params, before, images())
    # The first normalisation sees the first convolution.
    y = jax.lax.conv_general_dilated(
        images(),
        params["conv"]["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    norm = after["stage_0_block_0"]["norm_0"]
    assert_close(norm["mean"], 0.1 * y.mean((0, 1, 2)), 1e-5)
    assert_close(norm["var"], 0.9 + 0.1 * y.var((0, 1, 2)), 1e-5)

    logits, same = evaluate(params, after, images())
    jax.tree.map(np.testing.assert_array_equal, same, after)
    # In evaluation an example's logits do not depend on its batch; in training they do.
    assert_close(evaluate(params, after, images()[:2])[0], logits[:2], 1e-5)
    assert jnp.abs(whole[:2] - train(params, after, images()[:2])[0]).max() > 1e-2


def test_batch_norm_axis_gives_the_moments_of_the_whole_batch():
    with jax.enable_x64(True):
        options = dict(num_classes=3, image_shape=SHAPE, dtype=jnp.float64)
        model = create_model("resnet-8", **options)
        sharded = create_model("resnet-8", batch_norm_axis="shard", **options)
        params, model_state = model.init(KEY)
        x = images(jnp.float64)

        def split_loss(params):
            # The state is closed over: constants take another path through XLA than arguments.
            losses, states = jax.vmap(
                lambda x: square_loss(sharded, params, model_state, x), axis_name="shard"
            )(x.reshape(2, 4, *SHAPE))
            return losses.mean(), states

        whole_loss = lambda params: square_loss(model, params, model_state, x)  # noqa: E731
        (want, want_state), want_grad = jax.jit(jax.value_and_grad(whole_loss, has_aux=True))(
            params
        )
        (got, got_states), got_grad = jax.jit(jax.value_and_grad(split_loss, has_aux=True))(params)
        assert_close(got, want, 1e-10)
        assert_close(got_grad, want_grad, 1e-10)
        for state in (jax.tree.map(lambda s, i=i: s[i], got_states) for i in range(2)):
            assert_close(state, want_state, 1e-10)
