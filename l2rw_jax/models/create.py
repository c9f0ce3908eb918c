"""From a network's name to its pure `init` and `apply`."""

import functools
import numbers
import re
import reprlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from l2rw_jax._messages import nearest
from l2rw_jax.models.networks import MLP, LeNet
from l2rw_jax.models.resnet import ResNet
from l2rw_jax.models.vit import ViT, num_heads, patch_side

# Limits far above any published network, so that a slip of the hand is told from a wish.
_WIDTH, _LAYERS, _DEPTH, _WIDENING = 65536, 64, 1202, 64
_FORMS = (
    f"mlp-H1-H2-... of up to {_LAYERS} layers of 1 to {_WIDTH} units, lenet, resnet-D with "
    f"D = 6n + 2, wrn-D-K with D = 6n + 4 and K up to {_WIDENING} (n > 0, D up to {_DEPTH}), "
    f"vit-W-L of width W up to {_WIDTH}, a multiple of its W // 64 heads, and L up to {_LAYERS}"
)
_DTYPES = ("bfloat16", "float32", "float64")


class Model(NamedTuple):
    """A network as two pure functions over plain nested dicts of arrays.

    Attributes:
      init: `init(key) -> (params, model_state)`; weights are called `kernel`, and `model_state`
        holds the running moments, `{}` in a network without batch normalisation.
      apply: `apply(params, model_state, images, *, train, rng=None) -> (logits, model_state)`;
        images `[b, h, w, c]`, logits `[b, num_classes]` float32 (float64 in a float64 model). With
        `train` the batch's own moments normalise and the returned state has moved towards them.
    """

    init: Callable[[jax.Array], tuple[dict[str, Any], dict[str, Any]]]
    apply: Callable[..., tuple[jax.Array, dict[str, Any]]]


def create_model(
    name: str,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    dtype: jax.typing.DTypeLike = jnp.float32,
    dropout: float = 0.0,
    batch_norm_axis: str | None = None,
    remat: bool = False,
) -> Model:
    """Creates a network by name.

    Args:
      name: `mlp-H1-H2-...` (up to 64 hidden sizes of up to 65536), `lenet`, `resnet-D` with
        D = 6n + 2, `wrn-D-K` with D = 6n + 4, D up to 1202 and K up to 64, or `vit-W-L`, a Vision
        Transformer of width W and L layers with a head for each 64 units; its patches of 4 x 4
        pixels, in images with a side below 16 of 2 x 2, must divide the image.
      num_classes: number of logits, at least 2. LeNet with 2 has one sigmoid unit z and returns
        (0, z).
      image_shape: `(h, w, c)`, each at least 1.
      dtype: compute dtype, bfloat16, float32 or float64. Parameters are float32, or float64 for
        float64.
      dropout: rate in [0, 1), between the convolutions of a wrn's blocks; needs `rng` in training.
      batch_norm_axis: mapped axis over which batch normalisation averages its moments.
      remat: whether the backward pass computes a block's activations again instead of keeping them
        (`jax.checkpoint`), in a resnet, wrn or vit.

    Returns:
      The `Model`.

    Raises:
      ValueError: an unknown name or dtype, a size or rate beyond its limits, dropout without a wrn,
        remat without blocks; and from `apply`, images of another shape, or training with dropout
        and no `rng`.

    >>> import jax
    >>> model = create_model("mlp-8", num_classes=3, image_shape=(4, 4, 1))
    >>> params, model_state = model.init(jax.random.key(0))
    >>> jax.tree.map(lambda p: p.shape, params["hidden_0"])
    {'bias': (8,), 'kernel': (16, 8)}
    >>> logits, model_state = model.apply(
    ...     params, model_state, jax.numpy.ones((5, 4, 4, 1)), train=True
    ... )
    >>> logits.shape, model_state
    ((5, 3), {})
    """
    _check(name, num_classes, image_shape, dtype, dropout)
    if remat and not name.startswith(("resnet-", "wrn-", "vit-")):
        raise ValueError(
            f"remat: got {remat} for {name!r}; allowed: False, except for resnet, wrn and vit"
        )
    build = functools.partial(
        _constructor(name, dropout, batch_norm_axis, remat),
        num_classes=num_classes,
        image_shape=image_shape,
        dtype=dtype,
    )
    graph = nnx.graphdef(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))

    def init(key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        network = build(rngs=nnx.Rngs(key))
        params, model_state = (
            nnx.to_pure_dict(nnx.state(network, kind)) for kind in (nnx.Param, nnx.BatchStat)
        )
        return params, model_state

    def apply(
        params: optax.Params,
        model_state: dict[str, Any],
        images: jax.Array,
        *,
        train: bool,
        rng: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        if images.shape[1:] != tuple(image_shape):
            allowed = ", ".join(map(str, image_shape))
            raise ValueError(f"images: got shape {images.shape}; allowed: (b, {allowed})")
        if train and dropout and rng is None:
            raise ValueError(f"rng: got None; training with dropout {dropout} needs a key")
        network = nnx.merge(graph, params, model_state)
        features = network.features(images, train, None if rng is None else nnx.Rngs(dropout=rng))
        logits = network.head(features)
        moments = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
        return logits, moments

    return Model(init, apply)


def _constructor(
    name: str, dropout: float, batch_norm_axis: str | None, remat: bool
) -> Callable[..., Any]:
    """The network class with all that `name` says; raises ValueError if it says nothing known."""
    family, *digits = name.split("-")
    if not all(re.fullmatch("[1-9][0-9]{0,9}", number) for number in digits):
        raise _name_error(name)
    sizes = [int(number) for number in digits]
    match family, len(sizes):
        case "lenet", 0:
            return LeNet
        case "mlp", count if count:
            if count > _LAYERS or max(sizes) > _WIDTH:
                raise _name_error(name, "mlp", *(min(size, _WIDTH) for size in sizes[:_LAYERS]))
            return functools.partial(MLP, sizes)
        case "vit", 2:
            width, layers = min(sizes[0], _WIDTH), min(sizes[1], _LAYERS)
            width -= width % num_heads(width)
            if [width, layers] != sizes:
                raise _name_error(name, "vit", width, layers)
            return functools.partial(ViT, width, layers, remat=remat)
        case "resnet", 1:
            depth, widening, rest = sizes[0], 1, 2
        case "wrn", 2:
            depth, widening, rest = *sizes, 4
        case _:
            raise _name_error(name)
    blocks = min(max(1, round((depth - rest) / 6)), (_DEPTH - rest) // 6)
    nearest = [6 * blocks + rest, min(widening, _WIDENING)]
    if nearest != [depth, widening]:
        raise _name_error(name, family, *nearest[: len(sizes)])
    filters = (16, 16 * widening, 32 * widening, 64 * widening)
    return functools.partial(
        ResNet,
        blocks,
        filters,
        dropout=dropout,
        batch_norm_axis=batch_norm_axis,
        remat=remat,
    )


def _name_error(name: Any, *parts: str | int) -> ValueError:
    known = ("mlp-256-256", "lenet", "resnet-32", "wrn-28-10", "vit-192-6")
    near = "-".join(map(str, parts)) or nearest(str(name)[:80].lower(), known)
    got, near = reprlib.repr(name), reprlib.repr(near)  # what is long is cut in the middle
    return ValueError(f"name: got {got}; allowed: {_FORMS}; nearest: {near}")


def _check(
    name: str,
    num_classes: int,
    image_shape: tuple[int, int, int],
    dtype: jax.typing.DTypeLike,
    dropout: float,
) -> None:
    if not isinstance(name, str):
        raise _name_error(name)
    if not _is_integer(num_classes, 2):
        raise ValueError(f"num_classes: got {num_classes!r}; allowed: an integer of 2 or more")
    shaped = isinstance(image_shape, tuple | list) and len(image_shape) == 3
    if not shaped or not all(_is_integer(size, 1) for size in image_shape):
        raise ValueError(f"image_shape: got {image_shape!r}; allowed: (h, w, c), each 1 or more")
    try:
        got = str(dtype) if dtype is None else jnp.dtype(dtype).name
    except (TypeError, ValueError):
        got = str(dtype)
    # Without x64, jax would quietly compute in float32.
    allowed = _DTYPES if jax.config.read("jax_enable_x64") else _DTYPES[:2]
    if got not in allowed:
        raise ValueError(
            f"dtype: got {got!r}; allowed: bfloat16, float32, and float64 under jax_enable_x64; "
            f"nearest: {nearest(got, allowed)!r}"
        )
    side = patch_side(image_shape)
    if name.startswith("vit-") and (image_shape[0] % side or image_shape[1] % side):
        raise ValueError(
            f"image_shape: got {tuple(image_shape)} for {name!r}; allowed: sides that its patches "
            f"of {side} x {side} pixels divide; crop or pad the images"
        )
    number = isinstance(dropout, numbers.Real) and not isinstance(dropout, bool)
    if not number or not 0 <= dropout < 1:
        raise ValueError(f"dropout: got {dropout!r}; allowed: 0 <= dropout < 1")
    if dropout and not name.startswith("wrn-"):
        raise ValueError(f"dropout: got {dropout} for {name!r}; allowed: 0, except for wrn-D-K")


def _is_integer(value: Any, least: int) -> bool:
    return (
        isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= least
    )
