import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2rw_jax.models import create_model

SHAPE = (8, 8, 3)
NAMES = ("mlp-8", "lenet", "resnet-8", "wrn-10-1", "vit-16-2")
KEY = jax.random.key(0)


def images(dtype=jnp.float32):
    return jax.random.normal(jax.random.key(1), (4, *SHAPE), dtype)


def shapes(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_dtypes_and_state_structure(name, dtype):
    wide = jnp.float64 if dtype == "float64" else jnp.float32
    with jax.enable_x64(dtype == "float64"):
        model = create_model(name, num_classes=3, image_shape=SHAPE, dtype=dtype)
        params, model_state = jax.eval_shape(model.init, KEY)
        assert {x.dtype for x in jax.tree.leaves((params, model_state))} == {jnp.dtype(wide)}
        assert bool(model_state) == name.startswith(("resnet", "wrn"))
        x = jax.ShapeDtypeStruct((4, *SHAPE), wide)
        for train in (True, False):
            apply = lambda p, s, x, train=train: model.apply(p, s, x, train=train)  # noqa: E731
            logits, after = jax.eval_shape(apply, params, model_state, x)
            assert (logits.shape, logits.dtype) == ((4, 3), wide)
            assert shapes(after) == shapes(model_state)
            assert jax.tree.structure(after) == jax.tree.structure(model_state)
        text = str(jax.make_jaxpr(apply)(params, model_state, x))
        assert ("bf16" in text) == (dtype == "bfloat16")


def test_bfloat16_is_near_float32():
    logits = []
    for dtype in ("float32", "bfloat16"):
        model = create_model("resnet-8", num_classes=3, image_shape=SHAPE, dtype=dtype)
        apply = jax.jit(functools.partial(model.apply, train=True))
        logits.append(apply(*model.init(KEY), images())[0])
    np.testing.assert_allclose(*logits, atol=0.1)
    assert not np.array_equal(*logits)


@pytest.mark.slow
def test_forward_over_reverse_equals_finite_differences():
    with jax.enable_x64(True):
        model = create_model("resnet-8", num_classes=3, image_shape=SHAPE, dtype=jnp.float64)
        params, model_state = model.init(KEY)
        x = images(jnp.float64)

        def loss(params):
            return jnp.mean(jnp.square(model.apply(params, model_state, x, train=True)[0]))

        @jax.jit
        def derivatives(params, tangent):
            _, linear = jax.linearize(loss, params)
            _, (slope, curve) = jax.jvp(jax.value_and_grad(loss), (params,), (tangent,))
            return linear(tangent), slope, curve

        tangent = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size)).reshape(p.shape), params)
        linear, slope, curve = derivatives(params, tangent)
        step = 1e-7  # short, so that no ReLU switches within it
        value_and_grad = jax.jit(jax.value_and_grad(loss))
        above, below = (
            value_and_grad(jax.tree.map(lambda p, v: p + t * v, params, tangent))  # noqa: B023
            for t in (step, -step)
        )
        np.testing.assert_allclose(linear, slope, rtol=1e-9)
        for got, up, down in zip(
            *map(jax.tree.leaves, ((slope, curve), above, below)), strict=True
        ):
            np.testing.assert_allclose(got, (up - down) / (2 * step), rtol=1e-3, atol=1e-5)


def test_scan_carry_and_several_seeds():
    model = create_model("resnet-8", num_classes=3, image_shape=SHAPE)
    replicate = lambda x: jnp.stack([x, 1.5 * x])  # noqa: E731
    params, model_states = jax.tree.map(replicate, model.init(KEY))

    @jax.jit
    def step(model_state, x, params):
        logits, model_state = model.apply(params, model_state, x, train=True)
        return model_state, logits

    def run(params, model_state):
        batches = jnp.stack([images(), 2 * images()])
        return jax.lax.scan(lambda s, x: step(s, x, params), model_state, batches)

    final, logits = jax.jit(jax.vmap(run))(params, model_states)
    assert logits.shape == (2, 2, 4, 3)
    alone = jax.tree.map(lambda x: x[1], (params, model_states))
    want, _ = step(alone[1], images(), alone[0])
    want, last = step(want, 2 * images(), alone[0])
    np.testing.assert_allclose(logits[1, 1], last, rtol=1e-3, atol=1e-4)
    close = lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-3, atol=1e-4)  # noqa: E731
    jax.tree.map(close, final, want)


def test_dropout():
    model = create_model("wrn-10-1", num_classes=3, image_shape=SHAPE, dropout=0.3)
    params, model_state = model.init(KEY)

    @jax.jit
    def logits(key):
        return model.apply(params, model_state, images(), train=True, rng=key)[0]

    keys = jax.random.split(KEY)
    np.testing.assert_array_equal(logits(keys[0]), logits(keys[0]))
    assert not np.array_equal(logits(keys[0]), logits(keys[1]))
    with pytest.raises(
        ValueError, match=r"^rng: got None; training with dropout 0\.3 needs a key$"
    ):
        model.apply(params, model_state, images(), train=True)
    still = create_model("wrn-10-1", num_classes=3, image_shape=SHAPE)
    evaluate = jax.jit(functools.partial(model.apply, train=False))
    want, _ = jax.jit(functools.partial(still.apply, train=False))(params, model_state, images())
    np.testing.assert_array_equal(evaluate(params, model_state, images())[0], want)
    np.testing.assert_array_equal(evaluate(params, model_state, images(), rng=KEY)[0], want)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet-33", "resnet-32"),
        ("resnet-2", "resnet-8"),
        ("resnet-1208", "resnet-1202"),
        ("resnet-100001", "resnet-1202"),
        ("resnet", "resnet-32"),
        ("ResNet-32", "resnet-32"),
        ("wrn-28", "wrn-28-10"),
        ("wrn-29-10", "wrn-28-10"),
        ("wrn-28-65", "wrn-28-64"),
        ("wrn-28-100000", "wrn-28-64"),
        ("wrn-3000004-1", "wrn-1198-1"),
        ("mlp", "mlp-256-256"),
        ("mlp-", "mlp-256-256"),
        ("mlp-0", "mlp-256-256"),
        ("mlp--1", "mlp-256-256"),
        ("mlp-016", "mlp-256-256"),
        ("mlp-\N{SUPERSCRIPT TWO}", "mlp-256-256"),
        ("mlp-1\N{ARABIC-INDIC DIGIT THREE}", "mlp-256-256"),
        ("mlp-16\n", "mlp-256-256"),
        ("mlp-65537-8", "mlp-65536-8"),
        ("mlp-9999999", "mlp-65536"),
        ("lenet-5", "lenet"),
        ("vit-0-2", "vit-192-6"),
        ("vit-10-x", "vit-192-6"),
        ("vit-192", "vit-192-6"),
        ("vit-193-6", "vit-192-6"),
        ("vit-65537-6", "vit-65536-6"),
        ("vit-192-65", "vit-192-64"),
        (None, "lenet"),
        (32, "resnet-32"),
    ],
)
def test_unknown_names(name, nearest):
    with pytest.raises(ValueError) as error:
        create_model(name, num_classes=3, image_shape=SHAPE)
    assert str(error.value) == (
        f"name: got {name!r}; allowed: mlp-H1-H2-... of up to 64 layers of 1 to 65536 units, "
        "lenet, resnet-D with D = 6n + 2, wrn-D-K with D = 6n + 4 and K up to 64 (n > 0, D up to "
        "1202), vit-W-L of width W up to 65536, a multiple of its W // 64 heads, and L up to 64; "
        f"nearest: {nearest!r}"
    )


@pytest.mark.parametrize("name", ["mlp" + 1000 * "-8", "mlp-" + 5000 * "9", 5000 * "x"])
def test_a_long_name_is_refused_in_a_short_line(name):
    with pytest.raises(ValueError, match=r"^name: got '.{,30}'; allowed: .*up to 64 layers.*"):
        create_model(name, num_classes=3, image_shape=SHAPE)


def test_names_at_their_limits_are_known():
    for name in ("mlp" + 64 * "-1", "mlp-65536", "wrn-10-64", "resnet-8", "vit-1-64"):
        create_model(name, num_classes=3, image_shape=SHAPE)


@pytest.mark.parametrize(
    ("argument", "values", "allowed"),
    [
        ("num_classes", [0, 1, -3, True, 2.0, "3", None, np.array(3)], "an integer of 2 or more"),
        (
            "image_shape",
            [(8, 8), (0, 8, 1), (-8, 8, 1), (1,) * 7, (8.0, 8, 1), (True, 8, 1), 8, "888", None],
            "(h, w, c), each 1 or more",
        ),
        (
            "dropout",
            [float("nan"), 1, 1.5, -0.1, "0.1", None, True, np.array(0.1)],
            "0 <= dropout < 1",
        ),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(argument, values, allowed):
    for value in values:
        with pytest.raises(ValueError) as error:
            create_model("wrn-10-1", **{"num_classes": 3, "image_shape": SHAPE} | {argument: value})
        assert str(error.value) == f"{argument}: got {value!r}; allowed: {allowed}"


@pytest.mark.parametrize(
    "dtype", ["x", "", None, int, "int8", "float16", 5, [1], object(), "f4,f4"]
)
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match=r"^dtype: got '.*'; allowed: bfloat16, float32, and floa"):
        create_model("mlp-8", num_classes=3, image_shape=SHAPE, dtype=dtype)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 0.1}, "dropout: got 0.1 for 'lenet'; allowed: 0, except for wrn-D-K"),
        (
            {"remat": True},
            "remat: got True for 'lenet'; allowed: False, except for resnet, wrn and vit",
        ),
        (
            {"dtype": "float16"},
            "dtype: got 'float16'; allowed: bfloat16, float32, and float64 under jax_enable_x64; "
            "nearest: 'bfloat16'",
        ),
        (
            {"dtype": "single32"},
            "dtype: got 'single32'; allowed: bfloat16, float32, and float64 under "
            "jax_enable_x64; nearest: 'float32'",
        ),
    ],
)
def test_bad_options(options, message):
    with jax.enable_x64(False), pytest.raises(ValueError) as error:
        create_model("lenet", **{"num_classes": 3, "image_shape": SHAPE} | options)
    assert str(error.value) == message


def test_float64_needs_x64():
    with jax.enable_x64(False), pytest.raises(ValueError, match="got 'float64'"):
        create_model("lenet", num_classes=3, image_shape=SHAPE, dtype=jnp.float64)


def test_images_of_another_shape():
    model = create_model("resnet-8", num_classes=3, image_shape=SHAPE)
    with pytest.raises(
        ValueError, match=r"^images: got shape \(2, 9, 8, 3\); allowed: \(b, 8, 8, 3\)$"
    ):
        model.apply(*model.init(KEY), jnp.ones((2, 9, 8, 3)), train=False)
