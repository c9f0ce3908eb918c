"""Pre-activation residual networks for small images, narrow and wide."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from l2rw_jax.models.networks import wide_dtype


def _moments(x: jax.Array) -> jax.Array:
    """The means `[2, c]` of x and of x^2 over all axes of `[b, h, w, c]` but the last.

    E[x^2] - E[x]^2 reads x once and needs one collective. Behind a convolution the mean is of the
    order of the deviation, so the difference keeps its digits.
    """

    def by_dots(x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1])
        share = jnp.full(len(rows), 1 / len(rows), x.dtype)
        return jnp.stack([share @ rows, jnp.einsum("nc,nc->c", rows, rows) / len(rows)])

    def by_sums(x: jax.Array) -> jax.Array:
        return jnp.stack([x.mean((0, 1, 2)), jnp.square(x).mean((0, 1, 2))])

    # On a CPU, ResNet-32's step takes a sixth less time with dot products than with sums; an
    # accelerator would round them to TF32 or bfloat16.
    return jax.lax.platform_dependent(x, cpu=by_dots, default=by_sums)


class _NormReLU(nnx.Module):
    """Batch normalisation in at least float32, then ReLU, then back to the compute dtype.

    `nnx.BatchNorm` would keep float32 moments in a float64 model, round running moments to
    bfloat16, and update them by a scatter wherever the model state is a closed-over constant.
    """

    def __init__(self, channels: int, *, axis_name: str | None, dtype: jax.typing.DTypeLike):
        wide = wide_dtype(dtype)
        self.scale = nnx.Param(jnp.ones(channels, wide))
        self.bias = nnx.Param(jnp.zeros(channels, wide))
        self.mean = nnx.BatchStat(jnp.zeros(channels, wide))
        self.var = nnx.BatchStat(jnp.ones(channels, wide))
        self.axis_name, self.dtype = axis_name, dtype

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = x.astype(wide_dtype(self.dtype))
        if train:
            moments = _moments(x)
            if self.axis_name is not None:
                moments = jax.lax.pmean(moments, self.axis_name)
            mean = moments[0]
            var = jnp.maximum(moments[1] - jnp.square(mean), 0.0)
            self.mean.set_value(0.9 * self.mean[...] + 0.1 * mean)
            self.var.set_value(0.9 * self.var[...] + 0.1 * var)
        else:
            mean, var = self.mean[...], self.var[...]
        scale = self.scale[...] * jax.lax.rsqrt(var + 1e-5)
        y = x * scale + (self.bias[...] - mean * scale)  # one multiplication and addition of x
        return nnx.relu(y).astype(self.dtype)


class _Block(nnx.Module):
    """x + conv(dropout(relu(norm(conv(relu(norm(x))))))), with a shortcut free of parameters."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        stride: int,
        *,
        dropout: float,
        norm: Callable[..., Any],
        conv: Callable[..., Any],
    ):
        self.stride, self.grow = stride, n_out - n_in
        self.norm_0 = norm(n_in)
        self.conv_0 = conv(n_in, n_out, strides=stride)
        self.norm_1 = norm(n_out)
        self.dropout = nnx.Dropout(dropout)
        self.conv_1 = conv(n_out, n_out)

    def __call__(self, x: jax.Array, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        y = self.conv_0(self.norm_0(x, train))
        y = self.dropout(self.norm_1(y, train), deterministic=not train, rngs=rngs)
        y = self.conv_1(y)
        if self.stride > 1:
            side = (self.stride, self.stride)
            # SAME, so that an odd side rounds up as the strided convolution does.
            x = nnx.avg_pool(x, side, side, padding="SAME", count_include_pad=False)
        before = self.grow // 2
        return y + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, self.grow - before)))


def _call(block: _Block, x: jax.Array, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
    return block(x, train, rngs)


_call_again = nnx.remat(_call, static_argnums=2)


class ResNet(nnx.Module):
    """Pre-activation residual network for small images; wide ones have larger `filters`.

    `filters` are those of the first convolution and of the three stages.
    """

    def __init__(
        self,
        blocks_per_stage: int,
        filters: Sequence[int],
        *,
        num_classes: int,
        image_shape: tuple[int, int, int],
        dtype: jax.typing.DTypeLike,
        rngs: nnx.Rngs,
        dropout: float = 0.0,
        batch_norm_axis: str | None = None,
        remat: bool = False,
    ):
        norm = functools.partial(_NormReLU, axis_name=batch_norm_axis, dtype=dtype)
        conv = functools.partial(
            nnx.Conv,
            kernel_size=(3, 3),
            use_bias=False,
            kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
            dtype=dtype,
            param_dtype=wide_dtype(dtype),
            rngs=rngs,
        )
        self.conv = conv(image_shape[-1], filters[0])
        names, width = [], filters[0]
        for stage, n_out in enumerate(filters[1:]):
            for i in range(blocks_per_stage):
                stride = 2 if stage > 0 and i == 0 else 1
                block = _Block(width, n_out, stride, dropout=dropout, norm=norm, conv=conv)
                names.append(f"stage_{stage}_block_{i}")
                setattr(self, names[-1], block)
                width = n_out
        self.blocks = tuple(names)
        self.remat = remat
        self.norm = norm(width)
        wide = wide_dtype(dtype)
        self.output = nnx.Linear(width, num_classes, dtype=wide, param_dtype=wide, rngs=rngs)

    def features(self, images: jax.Array, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        """What the last layer sees of a batch; `rngs` is read by dropout alone."""
        x = self.conv(images)
        for name in self.blocks:
            block = getattr(self, name)
            x = _call_again(block, x, train, rngs) if self.remat else block(x, train, rngs)
        x = self.norm(x, train).astype(self.output.dtype)
        return x.mean((1, 2))

    def head(self, features: jax.Array) -> jax.Array:
        """Logits of a batch."""
        return self.output(features)
