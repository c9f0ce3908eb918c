"""From scores to example weights: rectify, then normalise (paper Eqs. 7-8)."""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jax.typing import ArrayLike

from l2rw_jax import _validate
from l2rw_jax._types import AxisName, at_least_float32


@_validate.renamed(num_groups=None)
def example_weights(
    scores: ArrayLike,
    *,
    min_weight: ArrayLike = 0.0,
    groups: ArrayLike | None = None,
    axis_name: AxisName = None,
) -> jax.Array:
    r"""Rectifies and normalises scores into example weights that sum to one.

    .. math:: w_i = \tilde w_i / (\textstyle\sum_j \tilde w_j + \delta(\sum_j \tilde w_j)),
              \quad \tilde w_i = \max(u_i, \text{min\_weight})   \qquad \text{(Eqs. 7-8)}

    with :math:`\delta(0) = 1`: if no score is above zero, all weights are zero. With ``groups``,
    :math:`u_i` is the sum of the scores in the group of example i, so a group shares one weight.
    An example with a non-finite score gets weight zero and does not change the other weights.

    Args:
      scores: ``[b]`` floating, the scores :math:`u_i` (see ``example_scores``).
      min_weight: the least rectified score, at least 0, in the unit of the scores; 0 is the paper.
        Where its value is traced, it cannot be refused: below 0 and NaN count as 0, infinity as
        the largest float.
      groups: ``[b]`` integers of any size: the source, annotator or class of each example. They
        are compared with each other, which takes ``b`` times ``b`` comparisons.
      axis_name: mapped axis (or a tuple of them) that divides the batch; the weights of all its
        parts together sum to one.

    Returns:
      ``[b]`` weights in the scores' dtype, but at least float32: bfloat16 would not sum to one.

    Raises:
      ValueError: ``scores`` is not ``[b]`` or is empty, ``min_weight`` is negative, ``groups`` does
        not fit the scores, or ``axis_name`` is not a mapped axis.
      TypeError: ``scores`` is not floating or ``groups`` not integer.

    >>> import jax.numpy as jnp
    >>> print(example_weights(jnp.array([3.0, -1.0, 1.0, jnp.nan])))
    [0.75 0.   0.25 0.  ]
    >>> print(example_weights(jnp.array([-1.0, 0.0])))
    [0. 0.]
    >>> print(example_weights(jnp.array([1.0, 2.0, -4.0, 3.0]), groups=jnp.array([0, 0, 1, 1])))
    [0.5 0.5 0.  0. ]
    """
    _validate.check_min_weight(min_weight)
    _validate.check_axis_name(axis_name)
    scores = _validate.check_per_example("scores", jnp.asarray(scores))
    finite = jnp.isfinite(scores)
    values = at_least_float32(jnp.where(finite, scores, 0))
    least = jnp.nan_to_num(jnp.asarray(min_weight, values.dtype))
    least = jnp.maximum(least, 0)
    if groups is not None:
        # A mean over the batch in place of the sum cannot overflow, and the factor cancels.
        size = scores.size if axis_name is None else scores.size * jax.lax.axis_size(axis_name)
        values = _group_sums(values / size, _validate.check_groups(groups, scores), axis_name)
        least = least / size
    rectified = jnp.where(finite, jnp.maximum(values, least), 0)
    largest = jnp.max(rectified)
    if axis_name is not None:
        largest = jax.lax.pmax(largest, axis_name)
    # Divided by the largest, or huge scores' sum would overflow. Compilers divide by multiplying
    # with the reciprocal: it must be no subnormal number, which processors take for zero.
    scale = jnp.where(largest > 1, 2.0**-8, 2.0**8).astype(values.dtype)
    rectified = rectified * scale / jnp.where(largest > 0, largest * scale, 1)
    total = jnp.sum(rectified)
    if axis_name is not None:
        total = jax.lax.psum(total, axis_name)
    return rectified / jnp.where(total > 0, total, 1)


def _group_sums(values: jax.Array, groups: jax.Array, axis_name: AxisName) -> jax.Array:
    """The sum of ``values`` in each example's own group, ``[b]``."""
    # A masked sum: a scatter would need to be told its sharding on an explicit mesh.
    everyone = _replicated((groups, values))
    if axis_name is not None:
        everyone = jax.lax.all_gather(everyone, axis_name, tiled=True)
    member = groups[:, None] == everyone[0][None, :]
    return jnp.sum(jnp.where(member, everyone[1][None, :], 0), axis=1)


def _replicated(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """The arrays ``[b]``, whole on every device of an explicit mesh; else the compiler does it."""

    def whole(x: jax.Array) -> jax.Array:
        explicit = AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types
        return jax.reshard(x, PartitionSpec(None)) if explicit else x

    return tuple(map(whole, arrays))
