"""From scores to example weights: rectify, then normalise (paper Eqs. 7-8)."""

import jax
import jax.numpy as jnp

from l2rw_jax import _validate


def example_weights(scores, *, min_weight=0.0, axis_name=None):
    r"""Rectifies and normalises scores into example weights that sum to one.

    .. math:: w_i = \tilde w_i / (\textstyle\sum_j \tilde w_j + \delta(\sum_j \tilde w_j)),
              \quad \tilde w_i = \max(u_i, \text{min\_weight})   \qquad \text{(Eqs. 7-8)}

    with :math:`\delta(0) = 1`, so a batch that nothing speaks for stays all zero. A non-finite
    score gets weight zero, whatever ``min_weight`` is; the others are weighted as without it.

    Args:
      scores: ``[b]`` floating, the scores :math:`u_i` (see ``example_scores``).
      min_weight: the least rectified score, at least 0, in the unit of the scores; 0 is the paper.
      axis_name: mapped axis (or a tuple of them) that divides the batch, whose weights sum to one.

    Returns:
      ``[b]`` weights in the scores' dtype.

    Raises:
      ValueError, TypeError: ``scores`` is not ``[b]``, not floating, or ``min_weight`` negative.

    >>> import jax.numpy as jnp
    >>> print(example_weights(jnp.array([3.0, -1.0, 1.0, jnp.nan])))
    [0.75 0.   0.25 0.  ]
    >>> print(example_weights(jnp.array([-1.0, 0.0])))
    [0. 0.]
    """
    _validate.check_min_weight(min_weight)
    scores = _validate.check_per_example("scores", jnp.asarray(scores))
    rectified = jnp.maximum(scores, jnp.asarray(min_weight, scores.dtype))
    rectified = jnp.where(jnp.isfinite(scores), rectified, 0)
    largest = jnp.max(rectified, initial=0)
    if axis_name is not None:
        largest = jax.lax.pmax(largest, axis_name)
    rectified /= jnp.where(largest > 0, largest, 1)  # or the sum of huge scores would overflow
    total = jnp.sum(rectified)
    if axis_name is not None:
        total = jax.lax.psum(total, axis_name)
    return rectified / jnp.where(total > 0, total, 1)
