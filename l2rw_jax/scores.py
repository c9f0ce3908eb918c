r"""The score of an example: minus the meta-gradient of its weight (paper Eqs. 4-6, Algorithm 1).

With :math:`h(g) = L_{val}(\theta + U(g, s, \theta))`, the clean loss after an inner update by the
gradient :math:`g`, forward mode is the chain rule: :math:`u_i = -\langle \nabla h(0), \nabla
\ell_i(\theta) \rangle`, one gradient of the clean loss and one Jacobian-vector product of the
losses. Reverse mode is Algorithm 1 as written, reverse over reverse: the reference.
"""

import jax
import jax.numpy as jnp
import optax

from l2rw_jax import _validate


def example_scores(
    per_example_loss_fn,
    val_loss_fn,
    params,
    *,
    inner=None,
    inner_state=None,
    mode="forward",
    axis_name=None,
):
    r"""Scores each training example by how much its weight would lower the clean loss.

    .. math:: u_i = -\frac{\partial}{\partial \epsilon_i} L_{val}\big(\theta + U(\textstyle\sum_j
              \epsilon_j \nabla \ell_j(\theta), s, \theta)\big) \Big|_{\epsilon = 0}
              \qquad \text{(Eqs. 4-6)}

    Args:
      per_example_loss_fn: ``params -> [b]``, the training losses :math:`\ell_i`.
      val_loss_fn: ``params -> []``, the mean loss :math:`L_{val}` on the clean batch.
      params: the parameters :math:`\theta`, any pytree of floating arrays.
      inner: the optimizer :math:`U` of the look-ahead step, any ``optax.GradientTransformation``
        with a derivative at gradient zero; None is SGD (whose rate cancels in the weights).
      inner_state: the state :math:`s` of ``inner``; may be left out if it holds no arrays.
      mode: ``"forward"`` or ``"reverse"``: the same values to rounding, at different cost.
      axis_name: mapped axis (or a tuple of them) that divides both batches evenly.

    Returns:
      ``[b]`` scores in the losses' dtype; with ``axis_name``, this part of the whole batch's.

    Raises:
      ValueError, TypeError: an argument, or at trace time a loss's shape or type, does not fit.

    >>> import jax.numpy as jnp
    >>> x, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, -3.0])  # the last label is wrong
    >>> print(example_scores(lambda w: (w * x - y) ** 2, lambda w: (w - 1.0) ** 2, 0.5))
    [  1.   4. -27.]
    """
    _validate.check_options(inner, mode)
    inner_state = _validate.resolve_inner_state(inner, inner_state, params)
    params = vary(params, axis_name)

    def losses_fn(params):
        return _validate.check_per_example(
            "per_example_loss_fn's result", per_example_loss_fn(params)
        )

    if mode == "reverse":
        return reverse_scores(losses_fn, val_loss_fn, params, inner, inner_state, axis_name)[1]
    _, direction = lookahead_gradient(val_loss_fn, params, inner, inner_state, axis_name)
    return -jax.jvp(losses_fn, (params,), (direction,))[1]


def lookahead_gradient(val_loss_fn, params, inner, inner_state, axis_name):
    """Value and gradient of the look-ahead loss h at gradient zero, averaged over ``axis_name``."""
    lookahead_loss = _lookahead_loss(val_loss_fn, params, inner, inner_state)
    val_loss, direction = jax.value_and_grad(lookahead_loss)(optax.tree.zeros_like(params))
    if axis_name is not None:
        val_loss, direction = jax.lax.pmean((val_loss, direction), axis_name)
    return val_loss, vary(direction, axis_name)


def reverse_scores(losses_fn, val_loss_fn, params, inner, inner_state, axis_name):
    """Value of the look-ahead loss and the scores, by Algorithm 1: reverse over reverse mode."""
    lookahead_loss = _lookahead_loss(val_loss_fn, params, inner, inner_state)

    def meta_loss(epsilon):
        _, pullback = jax.vjp(losses_fn, params)
        (grads,) = pullback(epsilon)
        if axis_name is None:
            return lookahead_loss(grads)
        # psum's transpose is psum, so each device gives its share of the mean over devices.
        return lookahead_loss(jax.lax.psum(grads, axis_name)) / jax.lax.axis_size(axis_name)

    losses = jax.eval_shape(losses_fn, params)
    epsilon = vary(jnp.zeros(losses.shape, losses.dtype), axis_name)
    val_loss, epsilon_grad = jax.value_and_grad(meta_loss)(epsilon)
    if axis_name is not None:
        val_loss = jax.lax.psum(val_loss, axis_name)
    return val_loss, -epsilon_grad


def vary(tree, axis_name):
    """Marks arrays inside ``shard_map`` so that a gradient by them is this device's share."""
    axes = {axis_name} if isinstance(axis_name, str) else set(axis_name or ())
    manual = tuple(axes & set(jax.sharding.get_abstract_mesh().manual_axes))
    if not manual:  # under vmap it is the share already
        return tree
    zero = 0 * jax.lax.axis_index(manual)  # unlike lax.pcast, fine if they vary already
    return jax.tree.map(lambda x: x + zero.astype(jnp.result_type(x)), tree)


def _lookahead_loss(val_loss_fn, params, inner, inner_state):
    """The look-ahead loss h: the clean loss after one inner update, of that update's gradient."""

    def lookahead_loss(grads):
        if inner is None:
            updates = optax.tree.scale(-1, grads)
        else:
            updates, _ = inner.update(grads, inner_state, params)
        loss = val_loss_fn(optax.apply_updates(params, updates))
        return _validate.check_scalar("val_loss_fn's result", loss)

    return lookahead_loss
