"""Per-example losses ``[b]`` of logits ``[b, k]`` and integer labels ``[b]``."""

import optax


def cross_entropy(logits, labels):
    r"""Cross-entropy of the softmax, per example.

    .. math:: \ell_i = -\log \mathrm{softmax}(z_i)_{y_i}

    Args:
      logits: ``[b, k]`` floating, :math:`z_i`.
      labels: ``[b]`` integer classes, :math:`y_i`.

    Returns:
      ``[b]`` losses in nats, in the logits' dtype.

    >>> import jax.numpy as jnp
    >>> print(cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3])))
    [1.3862944 1.3862944]
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
