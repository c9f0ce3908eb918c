r"""Weights by evidence: how sure is it that an example agrees with the clean ones?

The paper's score of an example is its gradient's product with the mean gradient of one clean batch,
however noisy that is. For the last layer alone, the product of two examples' gradients needs no
backward pass: with features :math:`h` and residuals :math:`r = p - y`,

.. math:: U_{ij} = (h_i \cdot h_j + 1) (r_i \cdot r_j)

so every clean example votes for the price of its forward pass, and the votes' spread says how much
their mean is worth. With mean :math:`\bar u_i` and standard error :math:`s_i` over the clean
examples, :math:`\Phi(\bar u_i / s_i + 2)` is near one unless the votes are clearly against an
example: with little evidence the weights become equal, which is ordinary training.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jax.typing import ArrayLike

from l2rw_jax._types import AxisName, at_least_float32

# Standard errors that the votes must be against an example before it counts for half.
_BENEFIT_OF_DOUBT = 2.0
# How much less an unlikely label counts; docs/explanation/choosing.md says what other values do.
_SHARPNESS = 1.5


def agreement(
    features: jax.Array,
    residuals: jax.Array,
    clean_features: jax.Array,
    clean_residuals: jax.Array,
    *,
    axis_name: AxisName = None,
) -> tuple[jax.Array, jax.Array]:
    r"""The mean product of each example's last-layer gradient with the clean ones', and its error.

    .. math:: \bar u_i = \frac{1}{m} \sum_j U_{ij}, \qquad
              s_i^2 = \frac{1}{m (m - 1)} \sum_j (U_{ij} - \bar u_i)^2

    Args:
      features: ``[b, d]`` what the last layer sees, :math:`h`.
      residuals: ``[b, k]`` the loss's gradient by the logits, :math:`r`; of cross-entropy the
        softmax minus the one-hot label.
      clean_features: ``[m, d]`` those of the clean examples, m at least 2.
      clean_residuals: ``[m, k]``.
      axis_name: mapped axis (or a tuple of them) that divides both batches evenly; all clean
        examples vote on every example.

    Returns:
      Mean and standard error, ``[b]`` each.

    Raises:
      ValueError: shapes do not fit, or there are fewer than two clean examples.

    >>> import jax.numpy as jnp
    >>> ones = jnp.ones((2, 1))
    >>> mean, error = agreement(ones, jnp.array([[1.0], [-1.0]]), ones, jnp.array([[1.0], [0.5]]))
    >>> print(mean, error.round(2))
    [ 1.5 -1.5] [0.5 0.5]
    """
    _check(features, residuals, clean_features, clean_residuals)
    if axis_name is not None:
        clean_features, clean_residuals = jax.lax.all_gather(
            (clean_features, clean_residuals), axis_name, tiled=True
        )
    m = len(clean_features)
    if m < 2:
        raise ValueError(f"clean_features: got {m} example; takes at least 2, for their spread.")
    votes = (features @ clean_features.T + 1) * (residuals @ clean_residuals.T)
    return votes.mean(1), votes.std(1, ddof=1) / m**0.5


def evidence_weights(
    logits: jax.Array,
    labels: ArrayLike,
    features: jax.Array,
    clean_logits: jax.Array,
    clean_labels: ArrayLike,
    clean_features: jax.Array,
    *,
    axis_name: AxisName = None,
) -> tuple[jax.Array, jax.Array]:
    r"""Weights by the clean examples' votes and by how far the label is from the model's guess.

    .. math:: w_i \propto \frac{\Phi(\bar u_i / s_i + 2)}{1 + 1.5 d_i E / L^2}, \qquad
              d_i = \max_k \log p_{ik} - \log p_{i y_i}, \qquad E = \max(\bar \ell - L, 0)

    They sum to one. :math:`L` is the mean loss of the clean batch, :math:`\bar \ell` that of the
    batch. A label that the model would give itself has :math:`d_i = 0`. How much less another one
    counts depends on the excess :math:`E`: if all labels are right there is none, and the weights
    are nearly equal, as in ordinary training. docs/explanation/choosing.md has what else was tried.

    Args:
      logits: ``[b, k]`` floating.
      labels: ``[b]`` integer classes in [0, k).
      features: ``[b, d]`` what the last layer sees.
      clean_logits: ``[m, k]`` floating, of the clean examples, m at least 2.
      clean_labels: ``[m]`` integer classes.
      clean_features: ``[m, d]``.
      axis_name: mapped axis (or a tuple of them) that divides both batches evenly.

    Returns:
      Weights and scores :math:`\bar u_i / s_i`, ``[b]`` float32 at least; constants to a gradient.

    Raises:
      ValueError: shapes do not fit, or there are fewer than two clean examples.

    >>> import jax.numpy as jnp
    >>> logits, features = jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.ones((2, 3))
    >>> weights, scores = evidence_weights(
    ...     logits, jnp.array([0, 1]), features, logits, jnp.array([0, 0]), features
    ... )
    >>> print(weights.round(2), scores)  # the second label is wrong
    [1. 0.] [ inf -inf]
    """
    logits, features, clean_logits, clean_features = jax.lax.stop_gradient(
        jax.tree.map(at_least_float32, (logits, features, clean_logits, clean_features))
    )
    if clean_logits.shape[1:] != logits.shape[1:]:
        raise ValueError(
            f"clean_logits: got shape {clean_logits.shape}; takes (m, {logits.shape[-1]}), as the "
            "logits have."
        )
    log_p, clean_log_p = jax.nn.log_softmax(logits), jax.nn.log_softmax(clean_logits)
    own, clean_own = (
        jax.nn.one_hot(y, logits.shape[-1], dtype=logits.dtype) for y in (labels, clean_labels)
    )
    mean, error = agreement(
        features,
        jnp.exp(log_p) - own,
        clean_features,
        jnp.exp(clean_log_p) - clean_own,
        axis_name=axis_name,
    )
    scores = jnp.where(mean == 0, 0, mean / error)
    own_log_p = jnp.sum(log_p * own, -1)
    loss, clean_loss = -own_log_p.mean(), -jnp.sum(clean_log_p * clean_own, -1).mean()
    if axis_name is not None:
        loss, clean_loss = jax.lax.pmean((loss, clean_loss), axis_name)
    excess, tiny = jnp.maximum(loss - clean_loss, 0), jnp.finfo(logits.dtype).eps
    distance = log_p.max(-1) - own_log_p
    doubt = _SHARPNESS * distance * excess / (clean_loss**2 + tiny)
    raw = ndtr(scores + _BENEFIT_OF_DOUBT) / (1 + doubt)
    total = raw.sum() if axis_name is None else jax.lax.psum(raw.sum(), axis_name)
    return raw / jnp.where(total > 0, total, 1), scores


def _check(*arrays: jax.Array) -> None:
    names = ("features", "residuals", "clean_features", "clean_residuals")
    shapes = [jnp.shape(x) for x in arrays]
    for name, shape in zip(names, shapes, strict=True):
        if len(shape) != 2:
            raise ValueError(f"{name}: got shape {shape}; takes a row for each example.")
    (b, d), (rows, k), (m, clean_d), (clean_rows, clean_k) = shapes
    for name, got, wanted in (
        ("residuals", (rows, k), (b, k)),
        ("clean_features", (m, clean_d), (m, d)),
        ("clean_residuals", (clean_rows, clean_k), (m, k)),
    ):
        if got != wanted:
            raise ValueError(f"{name}: got shape {got}; takes {wanted}, as the other arrays have.")
