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
from l2rw_jax._partition import moving_flags
from l2rw_jax._types import AxisName, LossesAndAux, Mask

MODES = ("forward", "reverse", "finite_difference")

F = TypeVar("F", bound=Callable[..., Any])


def renamed(**names: str | None) -> Callable[[F], F]:
    """A decorator: a keyword of an older version says the new one; None: it is not needed now."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            for old in names.keys() & kwargs.keys():
                if names[old] is not None:
                    raise TypeError(f"{old}: moved in version 0.3.0; pass it as {names[old]}.")
                told = f"{old}: not needed since version 0.3.0; leave it out."
                warnings.warn(told, stacklevel=2)
                del kwargs[old]
            return function(*args, **kwargs)

        return cast(F, wrapped)

    return decorate


def check_options(lookahead: Any, mode: str, min_weight: ArrayLike = 0.0) -> None:
    """Raises unless the look-ahead optimizer, the mode and the least weight are usable."""
    if lookahead is not None and not isinstance(lookahead, optax.GradientTransformation):
        raise TypeError(
            f"lookahead: got {type(lookahead).__name__}; takes an optax.GradientTransformation, "
            "for example optax.sgd(0.1, momentum=0.9), or None for plain SGD."
        )
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}; takes one of {', '.join(map(repr, MODES))}.")
    check_min_weight(min_weight)


def check_weighting(weighting: Any) -> None:
    """Raises unless it is a weighting."""
    if not hasattr(weighting, "value_and_grad") or isinstance(weighting, type):
        got = getattr(weighting, "__name__", type(weighting).__name__)
        raise TypeError(
            f"weighting: got {got}; takes l2rw(), evidence(), learned(...) or by_loss(...): the "
            "object, with its parentheses."
        )


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


def checked(losses_fn: LossesAndAux) -> LossesAndAux:
    """The losses' function, which raises unless they are floating and of shape ``[b]``."""

    def checked_losses_fn(params: optax.Params) -> tuple[jax.Array, Any]:
        losses, aux = losses_fn(params)
        return check_per_example("per_example_loss_fn's result", losses), aux

    return checked_losses_fn


def check_weights(argument: str, weights: Any, losses: jax.Array) -> jax.Array:
    """Returns ``weights`` if it is a floating array with a weight for each loss."""
    checked: jax.Array = check_per_example(argument, weights)
    if checked.shape != losses.shape:
        raise ValueError(
            f"{argument}: got shape {checked.shape}; takes {losses.shape}, a weight for each loss."
        )
    return checked


def mean_clean_loss(value: Any) -> jax.Array:
    """The mean of what ``clean_loss_fn`` returned, ``[m]`` or ``[]``."""
    floating = hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)
    if not floating or value.ndim > 1 or value.shape == (0,):
        got = f"shape {value.shape}, {value.dtype}" if hasattr(value, "dtype") else type(value)
        raise ValueError(
            f"clean_loss_fn's result: got {got}; takes floating losses of shape [m], one a clean "
            "example, or their mean, of shape []."
        )
    mean: jax.Array = value if value.ndim == 0 else value.mean()
    return mean


def check_clean_losses(value: Any) -> jax.Array:
    """What ``clean_loss_fn`` returned, if it is a loss for each clean example, ``[m]``."""
    if mean_clean_loss(value) is value:
        raise ValueError(
            "clean_loss_fn's result: got shape (), a mean; evidence() takes one loss a clean "
            "example, of shape [m]: don't average over the clean batch."
        )
    losses: jax.Array = value
    return losses


def check_pair(params: Any) -> tuple[Any, Any]:
    """The network's parameters and the weighting's, which ``learned`` takes as a pair."""
    if not isinstance(params, tuple) or len(params) != 2:
        raise TypeError(
            f"params: got {type(params).__name__}; learned() takes a tuple (params, phi) of the "
            "network's parameters and the weighting's."
        )
    return params


def check_groups(groups: Any, scores: jax.Array) -> jax.Array:
    """Returns the groups as integers ``[b]`` that are equal where the given ones are."""
    ids: Any = groups
    if not isinstance(groups, jax.core.Tracer):
        ids = np.asarray(groups)  # jax would cut them to 32 bits; only which are equal matters
        if jnp.issubdtype(ids.dtype, jnp.integer):
            ids = np.unique(ids, return_inverse=True)[1].reshape(ids.shape)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(
            f"groups: got dtype {ids.dtype}; takes integers, for example from "
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


def check_loss_functions(per_example_loss_fn: Any, clean_loss_fn: Any, needs_clean: bool) -> None:
    """Raises unless ``reweight``'s update was given the loss functions that its weighting needs."""
    for name, fn, needed in (
        ("per_example_loss_fn", per_example_loss_fn, True),
        ("clean_loss_fn", clean_loss_fn, needs_clean),
    ):
        if needed and not callable(fn):
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


def resolve_lookahead(
    lookahead: optax.GradientTransformation | None,
    lookahead_state: optax.OptState | None,
    params: optax.Params,
) -> tuple[optax.GradientTransformation, optax.OptState]:
    """Returns the look-ahead optimizer and its state, which only one without arrays may lack."""
    if lookahead is None:
        if jax.tree.leaves(lookahead_state):
            raise ValueError(
                f"lookahead_state: got {type(lookahead_state).__name__}, but lookahead is None, "
                "which keeps no state; pass lookahead, the optimizer that this is the state of, or "
                "leave it out."
            )
        return optax.scale(-1.0), optax.ScaleState()  # plain SGD: its rate cancels in the weights
    if lookahead_state is None:
        if jax.tree.leaves(jax.eval_shape(lookahead.init, params)):
            raise ValueError(
                "lookahead_state: got None, but this look-ahead optimizer keeps a state; pass the "
                "state that follows the training, at the start lookahead.init(params)."
            )
        lookahead_state = lookahead.init(params)
    return lookahead, lookahead_state


def check_derivative(
    lookahead: optax.GradientTransformation | None,
    params: optax.Params,
    mask: Mask = None,
    state: optax.OptState = None,
) -> None:
    """Refuses a look-ahead optimizer whose update has no usable derivative at gradient zero.

    Its first update is tried in a random direction at stand-ins for the parameters, once for each
    of their shapes. One that fails there, as Adam does, may still have a derivative at a later
    ``state``, if the values of that are known.
    """
    if lookahead is None:
        return
    leaves, structure = jax.tree.flatten(params)
    shapes = tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)
    flags = (*moving_flags(mask, params),)
    try:
        problem = _derivative_problem(lookahead, structure, shapes, flags)
        if problem and _are_known((params, state)) and jax.tree.leaves(state):
            problem = _problem_of(_derivative(lookahead, state, params), flags)
    except _MadeOfTracedValuesError:
        return
    if problem:
        raise ValueError(
            f"lookahead: the derivative of its first update at gradient zero {problem}; use "
            "lookahead=None (plain SGD looks ahead; any optimizer may follow in the chain) or an "
            "optimizer with a derivative there: sgd with a rate above zero, rmsprop, adagrad, adam "
            "with eps_root > 0."
        )


class _MadeOfTracedValuesError(Exception):
    """The optimizer was made of traced values, a learning rate say: nothing is known of it."""


@functools.lru_cache(maxsize=256)
def _derivative_problem(
    lookahead: optax.GradientTransformation,
    structure: Any,
    shapes: tuple[tuple[tuple[int, ...], Any], ...],
    flags: tuple[bool, ...],
) -> str | None:
    """What is wrong with the derivative of the first update at gradient zero, if anything is."""
    # Outside of any mesh: inside shard_map, arrays made here would have to be of its mesh.
    nowhere = jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))
    with jax.ensure_compile_time_eval(), nowhere:
        params = jax.tree.unflatten(structure, [_stand_in(*each) for each in shapes])
        try:
            result = _derivative(lookahead, lookahead.init(params), params)
        except TypeError as error:
            return f"cannot be taken (its update failed: {error})"
        return _problem_of(result, flags)


@functools.partial(jax.jit, static_argnums=0)
def _derivative(
    lookahead: optax.GradientTransformation, state: optax.OptState, params: optax.Params
) -> optax.Updates:
    """The derivative of the update by the gradient at zero, transposed, in a random direction."""
    zeros = optax.tree.zeros_like(params)
    _, pullback = jax.vjp(lambda grads: lookahead.update(grads, state, params)[0], zeros)
    return pullback(optax.tree.random_like(jax.random.key(0), zeros))[0]


def _problem_of(derivative: optax.Updates, flags: tuple[bool, ...]) -> str | None:
    """Why no score could come of this derivative, if that is so."""
    moving = [x for x, flag in zip(jax.tree.leaves(derivative), flags, strict=True) if flag]
    if not _are_known(moving):
        raise _MadeOfTracedValuesError
    if not all(bool(jnp.all(jnp.isfinite(x))) for x in moving):
        return "is not finite"
    if not any(bool(jnp.any(x)) for x in moving):
        return "vanishes, so every score would be zero"
    return None


def _are_known(tree: Any) -> bool:
    return not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(tree))


def _stand_in(shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Random numbers; a large array is cut to 16 on each axis: the check needs no second model."""
    if np.prod(shape) > 1 << 20:
        shape = tuple(min(n, 16) for n in shape)
    numbers = np.random.default_rng(0).normal(size=1021)  # repeated, as many are slow to draw
    return jnp.asarray(np.resize(numbers, shape), dtype)
