"""The paper's networks as Flax NNX modules; `create_model` makes pure functions of them.

Every network is called as `network(images, train, rngs)` with `images` `[b, h, w, c]` and returns
logits `[b, num_classes]`. Convolutions and hidden layers compute in `dtype`; batch normalisation
and the last layer compute in at least float32, because rounding moments and logits would cost more
than it saves.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from l2rw_jax.models.pooling import max_pool


def wide_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype of parameters, moments and logits: float32, or float64 if `dtype` is float64.

    Args:
      dtype: the compute dtype.

    >>> import jax.numpy as jnp
    >>> wide_dtype(jnp.bfloat16)
    dtype('float32')
    """
    return jnp.promote_types(dtype, jnp.float32)


class MLP(nnx.Module):
    """Flattened image, hidden layers with ReLU, linear output."""

    def __init__(
        self,
        hidden: Sequence[int],
        *,
        num_classes: int,
        image_shape: tuple[int, int, int],
        dtype: jax.typing.DTypeLike,
        rngs: nnx.Rngs,
    ):
        dense = functools.partial(
            nnx.Linear,
            kernel_init=nnx.initializers.he_normal(),
            param_dtype=wide_dtype(dtype),
            rngs=rngs,
        )
        self.hidden = tuple(f"hidden_{i}" for i in range(len(hidden)))
        width = math.prod(image_shape)
        for name, n_out in zip(self.hidden, hidden, strict=True):
            setattr(self, name, dense(width, n_out, dtype=dtype))
            width = n_out
        self.output = dense(width, num_classes, dtype=wide_dtype(dtype))

    def features(self, images: jax.Array, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        """What the last layer sees of a batch; `train` and `rngs` change nothing."""
        x = images.reshape(len(images), -1)
        for name in self.hidden:
            x = nnx.relu(getattr(self, name)(x))
        return x

    def head(self, features: jax.Array) -> jax.Array:
        """Logits of a batch."""
        return self.output(features)


class LeNet(nnx.Module):
    """Three 5x5 convolutions with max-pooling, one hidden layer, one sigmoid unit for 2 classes."""

    def __init__(
        self,
        *,
        num_classes: int,
        image_shape: tuple[int, int, int],
        dtype: jax.typing.DTypeLike,
        rngs: nnx.Rngs,
    ):
        height, width, channels = image_shape
        options: dict[str, Any] = {
            "kernel_init": nnx.initializers.truncated_normal(0.1),
            "dtype": dtype,
            "param_dtype": wide_dtype(dtype),
            "rngs": rngs,
        }
        self.conv_0 = nnx.Conv(channels, 16, (5, 5), **options)
        self.conv_1 = nnx.Conv(16, 32, (5, 5), **options)
        self.conv_2 = nnx.Conv(32, 64, (5, 5), **options)
        # Three poolings with stride 2, each rounding up.
        flat = 64 * math.ceil(height / 8) * math.ceil(width / 8)
        self.hidden = nnx.Linear(flat, 100, **options)
        units = 1 if num_classes == 2 else num_classes
        self.output = nnx.Linear(100, units, **options | {"dtype": wide_dtype(dtype)})

    def features(self, images: jax.Array, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        """What the last layer sees of a batch; `train` and `rngs` change nothing."""
        x = images
        for conv in (self.conv_0, self.conv_1, self.conv_2):
            x = nnx.relu(max_pool(conv(x)))
        return nnx.relu(self.hidden(x.reshape(len(x), -1)))

    def head(self, features: jax.Array) -> jax.Array:
        """Logits of a batch."""
        z = self.output(features)
        # softmax((0, z)) = (1 - sigmoid(z), sigmoid(z)).
        return jnp.pad(z, ((0, 0), (1, 0))) if z.shape[1] == 1 else z
