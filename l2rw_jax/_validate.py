"""Checks of the method's arguments; each message says what came, what is allowed, what to do."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from l2rw_jax._partition import check_params as check_params  # with the other checks
from l2rw_jax._partition import lookahead_flags
from l2rw_jax._types import AxisName, LookaheadMask

MODES = ("forward", "reverse", "finite_difference")

F = TypeVar("F", bound=Callable[..., Any])


def renamed(**names: str | None) -> Callable[[F], F]:
    """A decorator: a keyword of an older version says the new one; None: it is not needed now."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            for old in names.keys() & kwargs.keys():
                if names[old] is not None:
                    raise TypeError(f"{old}: renamed in version 0.3.0; pass it as {names[old]}.")
                warnings.warn(f"{old}: not needed since version 0.3.0; leave it out.", stacklevel=2)
                del kwargs[old]
            return function(*args, **kwargs)

        return cast(F, wrapped)

    return decorate


def check_options(inner: Any, mode: str, min_weight: ArrayLike = 0.0) -> None:
    """Raises unless the look-ahead optimizer, the mode and the least weight are usable."""
    if inner is not None and not isinstance(inner, optax.GradientTransformation):
        raise TypeError(
            f"inner: got {type(inner).__name__}; takes an optax.GradientTransformation, for "
            "example optax.sgd(0.1, momentum=0.9), or None for plain SGD."
        )
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}; takes one of {', '.join(map(repr, MODES))}.")
    check_min_weight(min_weight)


def check_min_weight(min_weight: ArrayLike) -> None:
    """Raises unless the least rectified score, if its value is known, is finite and at least 0."""
    if isinstance(min_weight, jax.core.Tracer):
        return
    known = np.asarray(min_weight)
    if not (
        known.ndim == 0
        and known.dtype.kind in "iuf"
        and 0 <= float(np.asarray(min_weight)) < float("inf")
    ):
        raise ValueError(
            f"min_weight: got {min_weight!r}; takes a number that is finite and at least 0."
        )


def check_axis_name(axis_name: AxisName) -> None:
    """Raises unless every name is that of a mapped axis in scope."""
    for name in axis_name if isinstance(axis_name, tuple) else (axis_name,):
        if name is None:
            continue
        try:
            jax.lax.axis_size(name)
        except NameError:
            raise ValueError(
                f"axis_name: got {name!r}, which is no mapped axis here; takes the axis_name of "
                "the pmap, shard_map or vmap around this call. Under jit with sharded arrays leave "
                "it out: the result is the whole batch's already."
            ) from None


def check_per_example(argument: str, values: Any) -> jax.Array:
    """Returns ``values`` if it is a floating array of shape ``[b]``, b at least 1."""
    if not hasattr(values, "shape") or not hasattr(values, "dtype"):
        raise TypeError(
            f"{argument}: got {type(values).__name__}; takes one floating array of shape [b], a "
            "value per example (a function that also returns something else needs has_aux=True)."
        )
    if len(values.shape) != 1:
        remedy = (
            "don't average or sum over the batch."
            if not values.shape
            else "average over the other axes, or reshape(-1) to weight every entry by itself."
        )
        raise ValueError(
            f"{argument}: got shape {values.shape}; takes shape [b], a value per example: {remedy}"
        )
    if values.shape[0] == 0:
        raise ValueError(f"{argument}: got shape (0,); takes shape [b] with at least one example.")
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise TypeError(f"{argument}: got dtype {values.dtype}; takes a floating dtype.")
    checked: jax.Array = values
    return checked


def check_weights(
    argument: str, weights: Any, losses: jax.Array, scores: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns weights ``[b]`` of at least 0, and scores that are NaN where a weight was refused.

    A negative weight, or one that is not finite, counts as zero: under ``jax.jit`` the values
    cannot be refused.
    """
    checked = check_per_example(argument, weights)
    if checked.shape != losses.shape:
        raise ValueError(
            f"{argument}: got shape {checked.shape}; takes {losses.shape}, a weight for each loss."
        )
    usable = jnp.isfinite(checked) & (checked >= 0)
    return jnp.where(usable, checked, 0), jnp.where(usable, scores, jnp.nan)


def check_weights_fn(weights_fn: Any, min_weight: Any, *groups: Any) -> None:
    """Raises unless ``weights_fn`` is None, or a function without the options that it replaces."""
    if weights_fn is None:
        return
    if not callable(weights_fn):
        raise TypeError(f"weights_fn: got {type(weights_fn).__name__}; takes a function or None.")
    if any(x is not None for x in groups) or not isinstance(min_weight, float) or min_weight:
        raise ValueError("weights_fn: takes no min_weight or groups beside it: use them inside it.")


def check_groups(groups: Any, scores: jax.Array) -> jax.Array:
    """Returns the groups as integers ``[b]`` that are equal where the given ones are."""
    if isinstance(groups, jax.core.Tracer):
        ids, dtype = groups, groups.dtype
    else:  # of ids that jax would cut to 32 bits, only which are the same matters
        ids = np.asarray(groups)
        dtype = ids.dtype
        if jnp.issubdtype(dtype, jnp.integer):
            ids = np.unique(ids, return_inverse=True)[1].reshape(ids.shape)
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(
            f"groups: got dtype {dtype}; takes integers, for example from "
            "np.unique(names, return_inverse=True)[1]."
        )
    if ids.shape != scores.shape:
        raise ValueError(
            f"groups: got shape {ids.shape}; takes {scores.shape}, the group of each example."
        )
    return jnp.asarray(ids)


def check_aux(result: Any) -> tuple[Any, Any]:
    """Returns ``result`` if it is the pair that ``has_aux`` asks for."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"per_example_loss_fn's result: got {type(result).__name__}; with has_aux=True takes a "
            "tuple (losses, aux)."
        )
    return result


def check_scalar(argument: str, value: Any) -> jax.Array:
    """Returns ``value`` if it is a floating scalar."""
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        got = f"shape {value.shape}, {value.dtype}" if hasattr(value, "shape") else type(value)
        raise ValueError(
            f"{argument}: got {got}; takes a floating scalar, the mean loss over the clean batch."
        )
    checked: jax.Array = value
    return checked


def check_loss_functions(per_example_loss_fn: Any, clean_loss_fn: Any, extra_args: Any) -> None:
    """Raises unless ``reweight``'s update was given both loss functions, by their present names."""
    if "val_loss_fn" in extra_args:
        raise TypeError("val_loss_fn: renamed in version 0.2.0; pass it as clean_loss_fn.")
    for name, fn in (
        ("per_example_loss_fn", per_example_loss_fn),
        ("clean_loss_fn", clean_loss_fn),
    ):
        if not callable(fn):
            got = "nothing" if fn is None else type(fn).__name__
            raise TypeError(
                f"{name}: got {got}; reweight's update takes it as a keyword, a function of the "
                "parameters. A caller that does not pass keywords on, such as Flax's "
                "TrainState.apply_gradients, needs reweighted_value_and_grad in its place."
            )


def check_not_empty(argument: str, batch: Any) -> None:
    """Raises if an array of the batch has no rows."""
    for path, leaf in jax.tree.leaves_with_path(batch):
        if np.shape(leaf)[:1] == (0,):
            where = f"{argument}{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where}: got shape {np.shape(leaf)}; takes at least one example.")


def resolve_inner(
    inner: optax.GradientTransformation | None,
    inner_state: optax.OptState | None,
    params: optax.Params,
) -> tuple[optax.GradientTransformation, optax.OptState]:
    """Returns the look-ahead optimizer and its state, which only one without arrays may lack."""
    if inner is None:
        if inner_state is not None:
            raise ValueError(
                f"inner_state: got {type(inner_state).__name__}, but inner is None, which keeps no "
                "state; pass inner, the optimizer that this is the state of, or leave it out."
            )
        inner = optax.scale(-1.0)  # plain SGD: its rate cancels in the weights
    if inner_state is None:
        if jax.tree.leaves(jax.eval_shape(inner.init, params)):
            raise ValueError(
                "inner_state: got None, but this inner optimizer keeps a state; pass the state "
                "that follows the training, at the start inner.init(params)."
            )
        inner_state = inner.init(params)
    return inner, inner_state


def check_derivative(
    inner: optax.GradientTransformation | None,
    inner_state: optax.OptState,
    params: optax.Params,
    lookahead_mask: LookaheadMask = None,
) -> None:
    """Refuses an inner optimizer whose update has no usable derivative at gradient zero.

    Tried in a random direction at the values given. Where these are traced, as under ``jax.jit``,
    it is tried at a fresh state of stand-ins for the parameters.
    """
    if inner is None:
        return
    flags = lookahead_flags(lookahead_mask, params)
    # Outside of any mesh: inside shard_map, arrays made here would have to be of its mesh.
    nowhere = jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))
    with jax.ensure_compile_time_eval(), nowhere:
        try:
            result = _derivative(inner, *_known(inner, inner_state, params))
        except TypeError as error:
            asks = "missing" in str(error) and "argument" in str(error)
            problem = "takes more than gradients, state and parameters" if asks else "failed"
            raise ValueError(
                f"inner: its update {problem} ({error}); use inner=None (plain SGD looks ahead; "
                "any optimizer may follow in the chain)."
            ) from error
        leaves = [x for x, flag in zip(jax.tree.leaves(result), flags, strict=True) if flag]
        if any(isinstance(x, jax.core.Tracer) for x in leaves):
            return  # the optimizer itself was made of traced values, a learning rate say
        if not all(bool(jnp.all(jnp.isfinite(x))) for x in leaves):
            problem = "is not finite"
        elif not any(bool(jnp.any(x)) for x in leaves):
            problem = "vanishes, so every score would be zero"
        else:
            return
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((inner_state, params))):
        problem += " (at a fresh state: under a trace such as jax.jit, values are not known)"
    raise ValueError(
        f"inner: the derivative of its first update at gradient zero {problem}; use inner=None "
        "(plain SGD looks ahead; any optimizer may follow in the chain) or an optimizer with a "
        "derivative there: sgd with a rate above zero, rmsprop, adagrad, adam with eps_root > 0."
    )


@functools.partial(jax.jit, static_argnums=0)
def _derivative(
    inner: optax.GradientTransformation, inner_state: optax.OptState, params: optax.Params
) -> optax.Updates:
    """The derivative of the update by the gradient at zero, transposed, in a random direction."""
    zeros = optax.tree.zeros_like(params)
    _, pullback = jax.vjp(lambda grads: inner.update(grads, inner_state, params)[0], zeros)
    return pullback(optax.tree.random_like(jax.random.key(0), zeros))[0]


def _known(
    inner: optax.GradientTransformation, inner_state: optax.OptState, params: optax.Params
) -> tuple[optax.OptState, optax.Params]:
    """The state and parameters, or stand-ins of the same shapes for those that are traced."""
    state_leaves, leaves = jax.tree.leaves(inner_state), jax.tree.leaves(params)
    if not any(isinstance(x, jax.core.Tracer) for x in (*state_leaves, *leaves)):
        return inner_state, params
    if state_leaves and not any(isinstance(x, jax.core.Tracer) for x in state_leaves):
        return inner_state, jax.tree.map(_stand_in, params)
    params = jax.tree.map(lambda x: _stand_in(x, max_size=1 << 20), params)
    return inner.init(params), params


def _stand_in(array: jax.Array, max_size: int | None = None) -> jax.Array:
    """Random numbers of the array's shape and dtype; a larger one is cut to 16 on each axis."""
    shape = jnp.shape(array)
    if max_size is not None and np.prod(shape) > max_size:  # the check must not need a second model
        shape = tuple(min(n, 16) for n in shape)
    numbers = np.random.default_rng(0).normal(size=1021)  # repeated, as many are slow to draw
    return jnp.asarray(np.resize(numbers, shape), jnp.result_type(array))
