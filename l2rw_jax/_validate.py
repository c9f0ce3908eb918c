"""Checks of the method's arguments; each message says what came, what is taken and what to do."""

import jax
import jax.numpy as jnp
import optax

MODES = ("forward", "reverse")


def check_options(inner, mode, min_weight=0.0):
    """Raises unless the look-ahead optimizer, the mode and the least weight are usable."""
    if inner is not None and not isinstance(inner, optax.GradientTransformation):
        raise TypeError(
            f"inner: got {type(inner).__name__}; takes an optax.GradientTransformation, for "
            "example optax.sgd(0.1, momentum=0.9), or None for plain SGD."
        )
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}; takes one of {', '.join(map(repr, MODES))}.")
    check_min_weight(min_weight)


def check_min_weight(min_weight):
    """Raises unless the least rectified score, where it is known, is a number of use."""
    if isinstance(min_weight, jax.core.Tracer):
        return
    if not (jnp.isscalar(min_weight) and 0 <= float(min_weight) < float("inf")):
        raise ValueError(
            f"min_weight: got {min_weight!r}; takes a number that is finite and at least 0."
        )


def check_per_example(argument, values):
    """Returns ``values`` if it is a floating array of shape ``[b]``."""
    if not hasattr(values, "shape") or not hasattr(values, "dtype"):
        raise TypeError(
            f"{argument}: got {type(values).__name__}; takes one floating array of shape [b], a "
            "value per example (a function that also returns something else needs has_aux=True)."
        )
    if len(values.shape) != 1:
        raise ValueError(
            f"{argument}: got shape {values.shape}; takes shape [b], a value per example: don't "
            "average or sum over the batch."
        )
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"{argument}: got dtype {values.dtype}; takes a floating dtype.")
    return values


def check_aux(result):
    """Returns ``result`` if it is the pair that ``has_aux`` asks for."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"per_example_loss_fn's result: got {type(result).__name__}; with has_aux=True takes a "
            "tuple (losses, aux)."
        )
    return result


def check_scalar(argument, value):
    """Returns ``value`` if it is a floating scalar."""
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        got = f"shape {value.shape}, {value.dtype}" if hasattr(value, "shape") else type(value)
        raise ValueError(
            f"{argument}: got {got}; takes a floating scalar, the mean loss over the clean batch."
        )
    return value


def resolve_inner_state(inner, inner_state, params):
    """Returns the look-ahead optimizer's state; left out, it must be one without arrays."""
    if params is None:
        raise ValueError("params: got None; takes the pytree of parameters that the losses are of.")
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"params{jax.tree_util.keystr(path)}: got {jnp.result_type(leaf)}; takes floating "
                "arrays: keep integers and flags out of the parameters."
            )
    if inner is None or inner_state is not None:
        return inner_state
    if jax.tree.leaves(jax.eval_shape(inner.init, params)):
        raise ValueError(
            "inner_state: got None, but this inner optimizer keeps a state; pass the state that "
            "follows the training, at the start inner.init(params)."
        )
    return inner.init(params)


def check_derivative(inner, inner_state, params):
    """Refuses an inner optimizer whose update has no usable derivative at gradient zero.

    Tried in a random direction on the real parameters; skipped where they are being traced.
    """
    leaves = jax.tree.leaves((inner_state, params))
    if inner is None or any(isinstance(x, jax.core.Tracer) for x in leaves):
        return

    @jax.jit
    def derivative(params):
        zeros = optax.tree.zeros_like(params)
        _, pullback = jax.vjp(lambda grads: inner.update(grads, inner_state, params)[0], zeros)
        return pullback(optax.tree.random_like(jax.random.key(0), zeros))

    try:
        leaves = jax.tree.leaves(derivative(params))
    except TypeError as error:
        raise ValueError(
            f"inner: its update takes more than gradients, state and parameters ({error}); use "
            "inner=None (plain SGD looks ahead; any optimizer may still follow in the chain)."
        ) from error
    if not all(bool(jnp.all(jnp.isfinite(x))) for x in leaves):
        problem = "is not finite"
    elif not any(bool(jnp.any(x)) for x in leaves):
        problem = "vanishes, so every score would be zero"
    else:
        return
    raise ValueError(
        f"inner: the derivative of its first update at gradient zero {problem}; use inner=None "
        "(plain SGD looks ahead; any optimizer may still follow in the chain) or an optimizer with "
        "a derivative there: sgd with a rate above zero, rmsprop, adagrad, adam with eps_root > 0."
    )
