"""Max-pooling whose backward pass is cheap on every backend."""

import functools

import jax
import jax.numpy as jnp


def max_pool(x: jax.Array, window: int = 3, stride: int = 2) -> jax.Array:
    """Max-pools the two spatial axes with SAME padding.

    The maximum over a square is the maximum over rows of the maximum over columns, and each of
    these is an elementwise maximum of strided slices. Values equal `flax.nnx.max_pool`'s, but the
    gradient is made of selects and pads instead of a select-and-scatter, which is slow on CPU.
    Where values tie, the gradient is shared among them instead of going to the first.

    Args:
      x: `[b, h, w, c]`, any floating dtype.
      window: side of the pooled square.
      stride: distance between squares.

    Returns:
      `[b, ceil(h / stride), ceil(w / stride), c]`, the dtype of `x`.

    >>> import jax.numpy as jnp
    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[10.0, 11.0], [14.0, 15.0]]
    """
    for axis in (1, 2):
        size = x.shape[axis]
        out = -(-size // stride)
        last = (out - 1) * stride
        pad = max(last + window - size, 0)
        pads = [(0, 0)] * x.ndim
        pads[axis] = (pad // 2, pad - pad // 2)
        # Zeros would win over negative inputs.
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        slices = [
            jax.lax.slice_in_dim(padded, start, start + last + 1, stride, axis)
            for start in range(window)
        ]
        x = functools.reduce(jnp.maximum, slices)
    return x
