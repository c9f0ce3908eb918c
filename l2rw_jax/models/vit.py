"""The Vision Transformer for small images: no class token, the mean over patches is classified."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from l2rw_jax.models.networks import wide_dtype

# Up to here the layers are compiled one by one, and a step is a tenth quicker on a CPU; deeper
# networks are a loop over the layers, and compiling takes as long for 60 layers as for one.
_UNROLLED = 12


def patch_side(image_shape: tuple[int, int, int]) -> int:
    """Side of a patch in pixels: 4, or 2 in an image with a side below 16.

    Args:
      image_shape: `(h, w, c)`.

    >>> patch_side((32, 32, 3)), patch_side((8, 8, 1))
    (4, 2)
    """
    return 4 if min(image_shape[:2]) >= 16 else 2


def num_heads(width: int) -> int:
    """Attention heads of a network of that width: one for each 64 units, at least one.

    Args:
      width: units of a token.

    >>> num_heads(192), num_heads(16)
    (3, 1)
    """
    return max(1, width // 64)


class _LayerNorm(nnx.Module):
    """Normalises each token, in at least float32, then back to the compute dtype."""

    def __init__(self, width: int, *, dtype: jax.typing.DTypeLike):
        self.scale = nnx.Param(jnp.ones(width, wide_dtype(dtype)))
        self.bias = nnx.Param(jnp.zeros(width, wide_dtype(dtype)))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(wide_dtype(self.dtype))
        centred = x - x.mean(-1, keepdims=True)
        deviation = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
        return (centred * deviation * self.scale[...] + self.bias[...]).astype(self.dtype)


class _Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Tokens come as `[b * t, width]`: the gradient of a matrix product with three axes costs XLA's
    CPU compiler a transposed copy of what it multiplies.
    """

    def __init__(
        self, width: int, tokens: int, *, dtype: jax.typing.DTypeLike, dense: Callable[..., Any]
    ):
        self.width, self.tokens = width, tokens
        self.norm_0 = _LayerNorm(width, dtype=dtype)
        self.qkv = dense(width, 3 * width)
        self.out = dense(width, width)
        self.norm_1 = _LayerNorm(width, dtype=dtype)
        self.up = dense(width, 4 * width)
        self.down = dense(4 * width, width)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.out(self.attend(self.qkv(self.norm_0(x))))
        return x + self.down(nnx.gelu(self.up(self.norm_1(x))))

    def attend(self, qkv: jax.Array) -> jax.Array:
        """Softmax attention of the heads, from `[b * t, 3 * width]` to `[b * t, width]`."""
        size = self.width // num_heads(self.width)
        q, k, v = qkv.reshape(-1, self.tokens, 3, self.width // size, size).transpose(2, 0, 3, 1, 4)
        scores = (q * size**-0.5) @ k.swapaxes(-1, -2)
        shares = nnx.softmax(scores.astype(wide_dtype(qkv.dtype))).astype(qkv.dtype)
        return (shares @ v).swapaxes(1, 2).reshape(-1, self.width)


class ViT(nnx.Module):
    """Patches, learned positions, pre-norm blocks, and the mean over patches (Beyer et al. 2022).

    The parameters of all blocks are stacked, with the layers as first axis.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        *,
        num_classes: int,
        image_shape: tuple[int, int, int],
        dtype: jax.typing.DTypeLike,
        rngs: nnx.Rngs,
        remat: bool = False,
    ):
        height, breadth, channels = image_shape
        self.side = patch_side(image_shape)
        tokens = height // self.side * (breadth // self.side)
        wide = wide_dtype(dtype)
        dense = functools.partial(nnx.Linear, dtype=dtype, param_dtype=wide)

        @nnx.split_rngs(splits=layers)
        @nnx.vmap
        def make_blocks(rngs: nnx.Rngs) -> _Block:
            return _Block(width, tokens, dtype=dtype, dense=functools.partial(dense, rngs=rngs))

        self.patch = dense(self.side**2 * channels, width, rngs=rngs)
        self.position = nnx.Param(0.02 * jax.random.normal(rngs.params(), (tokens, width), wide))
        self.blocks = make_blocks(rngs)
        self.norm = _LayerNorm(width, dtype=dtype)
        self.output = nnx.Linear(width, num_classes, dtype=wide, param_dtype=wide, rngs=rngs)
        self.layers, self.remat = layers, remat

    def features(self, images: jax.Array, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        """What the last layer sees of a batch; `train` and `rngs` change nothing."""
        (tokens, width), batch = self.position.shape, len(images)
        x = self.patch(self.cut(images)).reshape(batch, tokens, width)
        x = (x + self.position[...].astype(x.dtype)).reshape(batch * tokens, width)
        graph, stacked = nnx.split(self.blocks)

        def layer(x: jax.Array, params: Any) -> tuple[jax.Array, None]:
            return nnx.merge(graph, params)(x), None

        unroll = self.layers if self.layers <= _UNROLLED else 1
        call = jax.checkpoint(layer) if self.remat else layer
        x, _ = jax.lax.scan(call, x, stacked, unroll=unroll)
        x = self.norm(x).astype(self.output.dtype)
        return x.reshape(batch, tokens, width).mean(1)

    def cut(self, images: jax.Array) -> jax.Array:
        """The patches of a batch `[b, h, w, c]`, flattened, `[b * t, side * side * c]`."""
        b, h, w, c = images.shape
        rows = images.reshape(b, h // self.side, self.side, w // self.side, self.side, c)
        return rows.swapaxes(2, 3).reshape(-1, self.side**2 * c)

    def head(self, features: jax.Array) -> jax.Array:
        """Logits of a batch."""
        return self.output(features)
