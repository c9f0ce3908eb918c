"""The Vision Transformer: its attention, its patches, and that depth costs no compile time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from l2rw_jax import reweighted_value_and_grad
from l2rw_jax.losses import cross_entropy
from l2rw_jax.models import create_model, vit

SHAPE = (4, 4, 3)
KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (6, *SHAPE))
Y = jnp.arange(6) % 3


def make(name, **options):
    model = create_model(name, num_classes=3, image_shape=SHAPE, **options)
    return model, model.init(KEY)[0]


def losses_of(model):
    def losses(params, batch):
        logits, _ = model.apply(params, {}, batch["x"], train=True)
        return cross_entropy(logits, batch["y"])

    return losses


def l2rw_gradient(model):
    losses = losses_of(model)
    fn = reweighted_value_and_grad(losses, lambda *args: losses(*args).mean())
    return lambda params: fn(params, {"x": X, "y": Y}, {"x": X[::-1], "y": Y[::-1]})


def assert_close(got, want, tolerance=1e-4):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-5), got, want
    )


def test_attention_equals_jax_s_own():
    dense = functools.partial(nnx.Linear, rngs=nnx.Rngs(0))
    block = vit._Block(128, 5, dtype=jnp.float32, dense=dense)
    qkv = jax.random.normal(KEY, (2 * 5, 3 * 128))
    q, k, v = (each.reshape(2, 5, 2, 64) for each in jnp.split(qkv, 3, -1))
    want = jax.nn.dot_product_attention(q, k, v).reshape(2 * 5, 128)
    np.testing.assert_allclose(block.attend(qkv), want, rtol=1e-4, atol=1e-5)


def test_layer_norm_equals_flax():
    x = 3 + 2 * jax.random.normal(KEY, (4, 6))
    ours, flax = vit._LayerNorm(6, dtype=jnp.float32), nnx.LayerNorm(6, rngs=nnx.Rngs(0))
    for norm in (ours, flax):
        norm.scale.set_value(jnp.arange(1.0, 7.0))
    np.testing.assert_allclose(ours(x), flax(x), rtol=1e-4, atol=1e-5)


def test_patches_are_squares_of_the_image():
    network = vit.ViT(
        *(8, 1), num_classes=2, image_shape=(16, 20, 3), dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    images = jax.random.normal(KEY, (2, 16, 20, 3))
    patches = network.cut(images).reshape(2, 4, 5, -1)
    np.testing.assert_array_equal(patches[1, 2, 3], images[1, 8:12, 12:16].ravel())
    assert network.position.shape == (20, 8)


@functools.cache
def two_layers():
    model, params = make("vit-8-2")
    return jax.jit(l2rw_gradient(model)), params


@pytest.mark.slow
def test_remat_and_the_loop_over_layers_change_nothing(monkeypatch):
    want, params = two_layers()
    want = want(params)
    monkeypatch.setattr(vit, "_UNROLLED", 1)
    model, _ = make("vit-8-2", remat=True)
    assert_close(jax.jit(l2rw_gradient(model))(params), want)


@pytest.mark.slow
def test_seeds_are_networks_of_their_own(monkeypatch):
    want, params = two_layers()
    stacked = jax.tree.map(lambda x: jnp.stack([x, 1.5 * x]), params)
    want = want(jax.tree.map(lambda x: x[1], stacked))
    monkeypatch.setattr(vit, "_UNROLLED", 1)  # quicker to compile
    got = jax.jit(jax.vmap(l2rw_gradient(make("vit-8-2")[0])))(stacked)
    assert_close(jax.tree.map(lambda x: x[1], got), want)


def test_a_deep_network_s_program_does_not_grow_with_its_depth():
    def lines(layers):
        model = create_model(f"vit-8-{layers}", num_classes=3, image_shape=SHAPE)
        params = jax.eval_shape(lambda: model.init(KEY)[0])
        return len(jax.jit(l2rw_gradient(model)).lower(params).as_text().splitlines())

    # A layer has hundreds of lines; shapes that happen to be equal share a few.
    assert lines(60) == pytest.approx(lines(20), rel=0.01)


@pytest.mark.parametrize(
    ("shape", "side"), [((9, 8, 1), 2), ((1, 8, 1), 2), ((30, 32, 3), 4), ((28, 33, 1), 4)]
)
def test_patches_must_divide_the_image(shape, side):
    with pytest.raises(ValueError) as error:
        create_model("vit-8-1", num_classes=3, image_shape=shape)
    assert str(error.value) == (
        f"image_shape: got {shape} for 'vit-8-1'; allowed: sides that its patches of {side} x "
        f"{side} pixels divide; crop or pad the images"
    )
