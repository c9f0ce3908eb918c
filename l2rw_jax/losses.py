"""Per-example losses ``[b]`` of logits ``[b, k]`` and integer labels ``[b]``, S-Model's layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from l2rw_jax._messages import known


def cross_entropy(logits: jax.Array, labels: ArrayLike) -> jax.Array:
    r"""Cross-entropy of the softmax, per example.

    .. math:: \ell_i = -\log \mathrm{softmax}(z_i)_{y_i}

    Args:
      logits: ``[b, k]`` floating, k at least 2, :math:`z_i`.
      labels: ``[b]`` integer classes in [0, k), :math:`y_i`. Under ``jax.jit`` their values are not
        checked: one in [-k, 0) counts from the last class, as an index does; any other has the loss
        NaN, but a finite gradient (the softmax), and so a finite score.

    Returns:
      ``[b]`` losses in nats, in the logits' dtype.

    Raises:
      ValueError: logits or labels have another shape or dtype, or a known label is no class.

    >>> import jax.numpy as jnp
    >>> print(cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3])))
    [1.3862944 1.3862944]
    """
    _check_labels(logits, labels)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def expected(
    loss: Callable[[jax.Array, jax.Array], jax.Array], logits: jax.Array, targets: jax.Array
) -> jax.Array:
    r"""The mean of a loss over each example's probable labels.

    .. math:: \ell_i = \textstyle\sum_k q_{ik} \, \ell(z_i, k)

    Args:
      loss: ``(logits, labels) -> [b]``, such as ``cross_entropy``.
      logits: ``[b, k]`` floating, k at least 2, :math:`z_i`.
      targets: ``[b, k]`` floating, the labels' probabilities :math:`q_i`.

    Returns:
      ``[b]`` losses, in the logits' dtype.

    Raises:
      ValueError: logits or targets have another shape or dtype.

    >>> import jax.numpy as jnp
    >>> print(expected(cross_entropy, jnp.zeros((1, 4)), jnp.array([[0.5, 0.5, 0.0, 0.0]])))
    [1.3862944]
    """
    k = _check_logits(logits)
    if not _is_array(targets, 2, jnp.floating) or targets.shape != logits.shape:
        raise ValueError(
            f"targets: got {_describe(targets)}; takes a floating array of shape {logits.shape}."
        )
    if loss is cross_entropy:  # without k passes
        return optax.softmax_cross_entropy(logits, targets)
    labels = jnp.arange(k)[:, None] * jnp.ones(len(logits), int)[None]
    each = jax.vmap(lambda labels: loss(logits, labels), out_axes=1)(labels)
    return jnp.sum(jnp.where(targets > 0, targets * each, 0), 1)


def margin(logits: jax.Array, labels: ArrayLike) -> jax.Array:
    r"""How far each label's logit is above the largest other one; below zero where it is not.

    .. math:: m_i = z_{i y_i} - \max_{k \ne y_i} z_{ik}

    Its mean over the training tells wrong labels from right ones (Pleiss et al., NeurIPS 2020).

    Args:
      logits: ``[b, k]`` floating, k at least 2, :math:`z_i`.
      labels: ``[b]`` integer classes in [0, k), :math:`y_i`.

    Returns:
      ``[b]`` in the logits' dtype.

    Raises:
      ValueError: logits or labels have another shape or dtype, or a known label is no class.

    >>> import jax.numpy as jnp
    >>> print(margin(jnp.array([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]]), jnp.array([0, 2])))
    [ 2. -3.]
    """
    _check_labels(logits, labels)
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
    return jnp.max(logits, -1, where=own, initial=-jnp.inf) - jnp.max(
        logits, -1, where=~own, initial=-jnp.inf
    )


def reed(logits: jax.Array, labels: ArrayLike, *, beta: float, hard: bool) -> jax.Array:
    r"""Reed's bootstrapping: cross-entropy against the label mixed with the model's prediction.

    .. math:: \ell_i = -\textstyle\sum_k (\beta [k = y_i] + (1 - \beta) q_{ik}) \log p_{ik},
              \quad p_i = \mathrm{softmax}(z_i)

    The prediction q is p (soft) or the one-hot arg-max of p (hard). The soft target is not held
    constant: its gradient flows, as in the objective by Reed et al., where that term is the
    prediction's entropy.

    Args:
      logits: ``[b, k]`` floating, k at least 2, :math:`z_i`.
      labels: ``[b]`` integer classes in [0, k), :math:`y_i`. Under ``jax.jit`` their values are not
        checked: any other label leaves only the prediction's term of the loss.
      beta: share of the label, in [0, 1]; 1 is cross-entropy. Reed et al. take 0.95 (soft) and 0.8
        (hard).
      hard: whether the prediction is the arg-max.

    Returns:
      ``[b]`` losses in nats, in the logits' dtype.

    Raises:
      ValueError: logits or labels have another shape or dtype, a known label is no class, or beta
        is outside [0, 1].

    >>> import jax.numpy as jnp
    >>> print(reed(jnp.array([[0.0, 2.0]]), jnp.array([0]), beta=0.8, hard=True))
    [1.7269281]
    """
    _check_labels(logits, labels)
    _check_share("beta", beta)
    log_p = jax.nn.log_softmax(logits)
    num_classes = logits.shape[-1]
    if hard:
        predicted = jax.nn.one_hot(jnp.argmax(logits, -1), num_classes, dtype=logits.dtype)
    else:
        predicted = jnp.exp(log_p)
    target = beta * jax.nn.one_hot(labels, num_classes, dtype=logits.dtype)
    return -jnp.sum((target + (1 - beta) * predicted) * log_p, -1)


def smoothed_cross_entropy(logits: jax.Array, labels: ArrayLike, *, smoothing: float) -> jax.Array:
    r"""Cross-entropy against the label mixed with the uniform distribution (label smoothing).

    .. math:: \ell_i = -(1 - s) \log p_{i y_i} - \tfrac{s}{k} \textstyle\sum_j \log p_{ij},
              \quad p_i = \mathrm{softmax}(z_i)

    Args:
      logits: ``[b, k]`` floating, k at least 2, :math:`z_i`.
      labels: ``[b]`` integer classes in [0, k), :math:`y_i`.
      smoothing: share s of the uniform distribution, in [0, 1]; 0 is cross-entropy.

    Returns:
      ``[b]`` losses in nats, in the logits' dtype.

    Raises:
      ValueError: logits or labels have another shape or dtype, a known label is no class, or
        smoothing is outside [0, 1].

    >>> import jax.numpy as jnp
    >>> print(smoothed_cross_entropy(jnp.zeros((1, 4)), jnp.array([0]), smoothing=0.1).round(3))
    [1.386]
    """
    _check_labels(logits, labels)
    _check_share("smoothing", smoothing)
    log_p = jax.nn.log_softmax(logits)
    k = logits.shape[1]
    target = (1 - smoothing) * jax.nn.one_hot(labels, k, dtype=logits.dtype) + smoothing / k
    return -jnp.sum(target * log_p, -1)


def generalized_cross_entropy(logits: jax.Array, labels: ArrayLike, *, q: float) -> jax.Array:
    r"""Generalized cross-entropy (Zhang, Sabuncu, NeurIPS 2018): from cross-entropy to the error.

    .. math:: \ell_i = (1 - p_{i y_i}^q) / q, \quad p_i = \mathrm{softmax}(z_i)

    Its gradient is that of cross-entropy times :math:`p_{i y_i}^q`: the less likely the model finds
    a label, the less it counts.

    Args:
      logits: ``[b, k]`` floating, k at least 2, :math:`z_i`.
      labels: ``[b]`` integer classes in [0, k), :math:`y_i`.
      q: in [0, 1]; 1 is the probability of an error, 0 the limit, cross-entropy. The authors take
        0.7.

    Returns:
      ``[b]`` losses in the logits' dtype.

    Raises:
      ValueError: logits or labels have another shape or dtype, a known label is no class, or q is
        outside [0, 1].

    >>> import jax.numpy as jnp
    >>> print(generalized_cross_entropy(jnp.zeros((1, 4)), jnp.array([0]), q=0.5))
    [1.]
    """
    _check_labels(logits, labels)
    _check_share("q", q)
    losses = cross_entropy(logits, labels)
    return -jnp.expm1(-q * losses) / q if q else losses


def s_model_logits(logits: jax.Array, transition: jax.Array) -> jax.Array:
    r"""S-Model: log-probabilities of the noisy label behind a layer of label transitions.

    .. math:: \log q_{ij} = \log \textstyle\sum_k \mathrm{softmax}(z_i)_k T_{kj},
              \quad T_k = \mathrm{softmax}(t_k)

    Args:
      logits: ``[b, k]`` floating, k at least 2, :math:`z_i`, of the true label.
      transition: ``[k, k]`` floating, :math:`t`: row true label, column noisy label.

    Returns:
      ``[b, k]``; their softmax is :math:`q`, their cross-entropy S-Model's loss. A transition that
      is the identity gives the logits' log-softmax.

    Raises:
      ValueError: logits or transition have another shape or dtype.

    >>> import jax.numpy as jnp
    >>> flip = jnp.array([[0.0, -jnp.inf], [0.0, 0.0]])  # label 1 turns into 0 half of the time
    >>> print(jnp.exp(s_model_logits(jnp.zeros((1, 2)), flip)))
    [[0.75 0.25]]
    """
    k = _check_logits(logits)
    if not _is_array(transition, 2, jnp.floating) or transition.shape != (k, k):
        raise ValueError(
            f"transition: got {_describe(transition)}; takes a floating array of shape {(k, k)}."
        )
    log_p, log_t = jax.nn.log_softmax(logits), jax.nn.log_softmax(transition, axis=1)
    return jax.nn.logsumexp(log_p[:, :, None] + log_t[None], axis=1)


def transition_logits(matrix: ArrayLike, eps: float = 0.01) -> jax.Array:
    r"""S-Model's initial transition, of a matrix of probabilities.

    .. math:: t_{kj} = \log((1 - \epsilon) M_{kj} + \epsilon / K)

    An entry of probability zero has a logit of minus infinity and no gradient: it could never be
    learned. Hence the share eps of the uniform matrix.

    Args:
      matrix: ``[K, K]`` probabilities, rows that sum to one, such as the identity or the noise's
        confusion: row true label, column noisy label.
      eps: share of the uniform matrix, in [0, 1].

    Returns:
      ``[K, K]`` float32.

    Raises:
      ValueError: the matrix has another shape, or known entries that are no such probabilities, or
        eps is outside [0, 1].

    >>> import jax, numpy as np
    >>> np.round(jax.nn.softmax(transition_logits(np.eye(2), eps=0.2), axis=1), 3).tolist()
    [[0.9..., 0.1...], [0.1..., 0.9...]]
    """
    matrix = jnp.asarray(matrix, jnp.float32)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise ValueError(f"matrix: got shape {matrix.shape}; takes (K, K) with K at least 2.")
    if known(matrix):
        values = np.asarray(matrix)
        fits = (values >= 0).all(1) & np.isclose(values.sum(1), 1, atol=1e-3)
        if not fits.all():
            row = values[np.argmin(fits)].tolist()
            raise ValueError(f"matrix: got a row {row}; takes probabilities that sum to 1.")
    _check_share("eps", eps)
    return jnp.log((1 - eps) * matrix + eps / len(matrix))


def _check_logits(logits: Any) -> int:
    """Returns the number of classes k; raises unless logits are ``[b, k]`` floating, k >= 2."""
    if not _is_array(logits, 2, jnp.floating) or logits.shape[1] < 2:
        raise ValueError(
            f"logits: got {_describe(logits)}; takes a floating array [b, k] with k at least 2."
        )
    return int(logits.shape[1])


def _check_labels(logits: Any, labels: Any) -> None:
    """Raises unless labels are a class of each example, as far as their values are known."""
    k, b = _check_logits(logits), len(logits)
    if not _is_array(labels, 1, jnp.integer) or len(labels) != b:
        raise ValueError(
            f"labels: got {_describe(labels)}; takes an integer array of shape ({b},)."
        )
    if known(labels):
        values = np.asarray(labels)
        if (wrong := values[(values < 0) | (values >= k)]).size:
            raise ValueError(f"labels: got {wrong[0]}; takes classes in [0, {k}), as logits have.")


def _check_share(argument: str, share: Any) -> None:
    """Raises unless a share, where its value is known, is a number in [0, 1]."""
    number = isinstance(share, float | int | np.floating) or _is_array(share, 0, jnp.floating)
    if known(share) and not (number and 0 <= share <= 1):
        raise ValueError(f"{argument}: got {share!r}; takes a number in [0, 1].")


def _is_array(value: Any, ndim: int, kind: Any) -> bool:
    return (
        hasattr(value, "dtype") and value.ndim == ndim and bool(jnp.issubdtype(value.dtype, kind))
    )


def _describe(value: Any) -> str:
    if hasattr(value, "dtype"):
        return f"{value.dtype} of shape {value.shape}"
    return type(value).__name__
