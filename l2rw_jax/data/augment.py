"""Augmentation and index sampling as pure functions of a key, for use inside the compiled step."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from l2rw_jax.data._check import (
    check_array,
    check_bool,
    check_finite,
    check_floating,
    check_integer,
    check_key,
    check_labels,
    known,
)


def augment(key: jax.Array, images: jax.Array, *, pad: int = 0, flip: bool = False) -> jax.Array:
    """Pads, crops each image at random to its old size, and mirrors each with probability 1/2.

    The padding is 0, in uint8 black, which `to_float` maps to `low`: the authors' code too pads
    before it centres the pixels.

    Args:
        key: [] random key, as jax.random.key makes it (or [2] uint32, as jax.random.PRNGKey).
        images: [b, H, W, C] uint8, or floats.
        pad: pixels of padding on each side, at least 0; 0 leaves the position alone.
        flip: whether to mirror left to right at random.

    Returns:
        The same shape and dtype.

    Raises:
        ValueError: key is not a random key, images are not such an array, pad is not such an
            integer, or flip not a bool.

    >>> images = jnp.ones((2, 4, 4, 1), jnp.uint8)
    >>> augment(jax.random.key(0), images, pad=1, flip=True).shape
    (2, 4, 4, 1)
    """
    check_key(key)
    check_array("images", images, "uint8 or floats", "[b, H, W, C]")
    check_bool("flip", flip)
    pad = check_integer("pad", pad, 0)
    crop_key, flip_key = jax.random.split(key)
    if pad:
        padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        corners = jax.random.randint(crop_key, (len(images), 2), 0, 2 * pad + 1)
        images = jax.vmap(
            lambda image, corner: lax.dynamic_slice(image, (*corner, 0), images.shape[1:])
        )(padded, corners)
    if flip:
        mirrored = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return images


def to_float(
    images: jax.Array, *, low: float = 0.0, high: float = 1.0, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Maps uint8 0..255 linearly to low..high; floats, such as features, stay as they are.

    Args:
        images: any shape, uint8 or floats.
        low: value of 0, finite.
        high: value of 255, finite.
        dtype: floating-point type of the result.

    Returns:
        Array of the same shape.

    Raises:
        ValueError: images are neither uint8 nor floats; low or high is no finite number; dtype is
            not floating.

    >>> to_float(jnp.array([0, 255], jnp.uint8), low=-1.0).tolist()
    [-1.0, 1.0]
    """
    check_array("images", images, "uint8 or floats")
    low, high = check_finite("low", low), check_finite("high", high)
    check_floating(dtype)
    if jnp.issubdtype(images.dtype, jnp.floating):
        return images.astype(dtype)
    # At least float32 in between: bfloat16 would round away the smaller grey levels.
    levels = images.astype(jnp.promote_types(dtype, jnp.float32))
    # Unlike low + (high - low) * levels / 255, this hits both ends under a fused multiply-add.
    return ((low * (255 - levels) + high * levels) / 255).astype(dtype)


def sample(key: jax.Array, n: int, size: int) -> jax.Array:
    """Draws indices from range(n) uniformly with replacement.

    Args:
        key: [] random key, as jax.random.key makes it (or [2] uint32, as jax.random.PRNGKey).
        n: number of examples, at least 1.
        size: number of draws, at least 0.

    Returns:
        [size] int32.

    Raises:
        ValueError: key is not a random key, or n or size not such an integer.

    >>> sample(jax.random.key(0), 10, 4).shape
    (4,)
    """
    check_key(key)
    n, size = _check_sizes(n, size)
    return jax.random.randint(key, (size,), 0, n, dtype=jnp.int32)


def sample_balanced(key: jax.Array, labels: jax.Array, counts: jax.Array, size: int) -> jax.Array:
    """Draws indices with replacement so that every class is equally likely.

    Args:
        key: [] random key, as jax.random.key makes it (or [2] uint32, as jax.random.PRNGKey).
        labels: [n] integer classes in 0..K-1, n at least 1.
        counts: [K] integers or floats: how often each class is among them.
        size: number of draws, at least 0.

    Returns:
        [size] int32.

    Raises:
        ValueError: key is not a random key, or size not such an integer; labels or counts have
            another shape or dtype or, where neither is traced, counts are not those of the labels.

    >>> labels = jnp.array([0, 0, 0, 0, 0, 0, 0, 1])
    >>> rows = sample_balanced(jax.random.key(0), labels, jnp.array([7.0, 1.0]), 1000)
    >>> 400 < int((rows == 7).sum()) < 600
    True
    """
    check_key(key)
    check_array("labels", labels, "integers", "[n]")
    check_array("counts", counts, "numbers", "[K]")
    _, size = _check_sizes(len(labels), size)
    if known(labels) and known(counts):
        _check_counts(np.asarray(labels), np.asarray(counts))
    # In integers alone: a stream draws the same rows by another program, which may round otherwise.
    counts = counts.astype(jnp.int32)
    class_key, member_key = jax.random.split(key)
    present = jnp.argsort(counts == 0, stable=True)  # classes without examples last
    drawn = present[jax.random.randint(class_key, (size,), 0, jnp.sum(counts > 0))]
    members = jnp.argsort(labels, stable=True)  # class by class
    first = jnp.cumsum(counts) - counts
    rows = members[first[drawn] + jax.random.randint(member_key, (size,), 0, counts[drawn])]
    return rows.astype(jnp.int32)


def draw_bounds(shares: np.ndarray) -> np.ndarray:
    """Where each example's part of the integers 0..2**32-1 ends, for ``sample_by_share``.

    Args:
        shares: [..., n] how often to draw each, at least 0, in any unit; one at least above 0.

    Returns:
        [..., n] uint32. A share below 2**-32 of all may be drawn never.

    Raises:
        ValueError: a share is negative or not finite, or all are zero.

    >>> draw_bounds(np.array([1.0, 0.0, 3.0])).tolist()
    [1073741824, 1073741824, 4294967295]
    """
    ends = np.cumsum(shares, axis=-1, dtype=np.float64)
    if not (np.all(np.asarray(shares) >= 0) and np.isfinite(ends).all() and np.all(ends[..., -1])):
        raise ValueError("shares: got one below 0, not finite, or zeros alone; takes numbers >= 0")
    ends /= ends[..., -1:]
    return np.minimum(np.round(ends * 2.0**32), 2**32 - 1).astype(np.uint32)


def sample_by_share(key: jax.Array, bounds: jax.Array, size: int) -> jax.Array:
    """Draws indices with replacement, each as often as its share says.

    Args:
        key: [] random key, as jax.random.key makes it (or [2] uint32, as jax.random.PRNGKey).
        bounds: [n] uint32, as ``draw_bounds`` has them.
        size: number of draws, at least 0.

    Returns:
        [size] int32.

    Raises:
        ValueError: key is not a random key, or bounds or size not such integers.

    >>> bounds = draw_bounds(np.array([1.0, 0.0, 3.0]))
    >>> rows = sample_by_share(jax.random.key(0), bounds, 1000)
    >>> [200 < int((rows == 0).sum()) < 300, int((rows == 1).sum())]
    [True, 0]
    """
    check_key(key)
    check_array("bounds", bounds, "integers", "[n]")
    _, size = _check_sizes(len(bounds), size)
    # The last bound stands for 2**32, which uint32 has not.
    drawn = jnp.minimum(jax.random.bits(key, (size,), jnp.uint32), jnp.uint32(2**32 - 2))
    return jnp.searchsorted(jnp.asarray(bounds), drawn, side="right").astype(jnp.int32)


def sample_without_replacement(key: jax.Array, n: int, size: int) -> jax.Array:
    """Draws distinct indices from range(n) uniformly, in random order.

    Args:
        key: [] random key, as jax.random.key makes it (or [2] uint32, as jax.random.PRNGKey).
        n: number of examples, at least 1.
        size: number of draws, 0..n.

    Returns:
        [size] int32.

    Raises:
        ValueError: key is not a random key, or n or size not such an integer.

    >>> sorted(sample_without_replacement(jax.random.key(0), 4, 4).tolist())
    [0, 1, 2, 3]
    """
    check_key(key)
    n, size = _check_sizes(n, size)
    if size > n:
        raise ValueError(f"size is {size}: give at most n={n} when drawing without replacement")
    # The largest of n random numbers: far cheaper per step than jax.random.choice, which sorts
    # all n several times.
    return lax.top_k(jax.random.uniform(key, (n,)), size)[1]


def _check_sizes(n: int, size: int) -> tuple[int, int]:
    most = np.iinfo(np.int32).max  # indices are int32
    return check_integer("n", n, 1, most), check_integer("size", size, 0, most)


def _check_counts(labels: np.ndarray, counts: np.ndarray) -> None:
    found = np.bincount(check_labels(labels, len(counts)), minlength=len(counts))
    if not np.array_equal(counts, found):
        label = np.flatnonzero(counts != found)[0]
        raise ValueError(
            f"counts has {counts[label]} examples of class {label}, labels hold {found[label]}: "
            "give how often each class is among the labels"
        )
