"""Optimizers and schedules of Optax from the text of a config, their arguments checked."""

import ast
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from l2rw_jax import _messages
from l2rw_jax.training.errors import ConfigError

_SCHEDULE_FREE = optax.contrib.ScheduleFreeState
# Arguments of optimizers that are decay rates, by the names that Optax has for them.
_RATES = {"b1", "b2", "b3", "beta", "beta1", "beta2", "momentum", "decay", "decay_rate", "rho"}


def make_optimizer(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
    r"""The optimizer that a config describes: clip, decay, then the optimizer on its schedule.

    The decay is L2, :math:`\frac{\lambda}{2} \lVert W \rVert^2` on every ``kernel``.

    Args:
      config: a validated config.

    Raises:
      ConfigError: ``config.optimizer`` or ``config.schedule`` is not one of Optax's, or does not
        take an argument.

    >>> from l2rw_jax.training.config import default_config
    >>> type(make_optimizer(default_config())).__name__
    'GradientTransformationExtraArgs'
    """
    rate = make_schedule(config)
    optimizer = _make("config.optimizer", config.optimizer, rate)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.add_decayed_weights(config.weight_decay, mask=kernels),
        optimizer,
    )


def with_weighting(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """``optimizer`` for the network, and for the parameters of a learned weighting their own.

    It is that of Meta-Weight-Net's authors: Adam at 0.001, with an L2 of 0.0001 in the gradient.
    """
    weighting = optax.chain(optax.add_decayed_weights(1e-4), optax.adam(1e-3))

    def labels(params: Mapping[str, Any]) -> dict[str, str]:
        return {name: name if name == "weighting" else "network" for name in params}

    return optax.partition({"network": optimizer, "weighting": weighting}, labels)


def make_lookahead(config: ConfigDict) -> optax.GradientTransformation | None:
    """The optimizer of l2rw's look-ahead, at the first learning rate; None for plain SGD.

    Raises:
      ConfigError: ``config.l2rw.lookahead`` is not one of Optax's, or does not take an argument.
    """
    if not config.l2rw.lookahead:
        return None
    return _make("config.l2rw.lookahead", config.l2rw.lookahead, config.learning_rate)


def make_schedule(config: ConfigDict) -> optax.Schedule:
    """The learning rate by the number of good steps.

    ``config.learning_rate`` is the schedule's ``peak_value``, ``init_value`` or ``value``, and
    ``config.steps`` its length, unless the text names others. After each of ``config.boundaries``
    the rate drops to a tenth.

    Raises:
      ConfigError: the schedule is not one of Optax's, does not take an argument, or gives a rate
        that is negative or not finite.

    >>> from l2rw_jax.training.config import default_config
    >>> config = default_config()
    >>> config.schedule = "cosine_decay_schedule(alpha=0.1)"
    >>> [round(float(make_schedule(config)(step)), 3) for step in (0, 1500, 3000)]
    [0.1, 0.055, 0.01]
    """
    rate, steps = config.learning_rate, config.steps
    text = config.schedule or "constant_schedule"
    offered = {"value": rate, "init_value": rate, "peak_value": rate}
    offered |= {"decay_steps": steps, "transition_steps": steps}
    if "peak_value" in _parameters("config.schedule", text):
        offered["init_value"] = 0.0  # it warms up
    schedule = _build("config.schedule", text, offered)
    if not inspect.isfunction(schedule):
        raise _refusal("config.schedule", text, "it is no schedule")
    tenths = optax.piecewise_constant_schedule(1.0, {int(b): 0.1 for b in config.boundaries})

    def rate_at(step: ArrayLike) -> jax.Array:
        step = jnp.minimum(step, steps)  # fine-tuning continues at the last rate
        return schedule(step) * tenths(step)

    try:
        rates = jax.vmap(rate_at)(np.linspace(0, steps, 101).astype(np.int32))
    except (TypeError, ValueError) as error:
        raise _refusal("config.schedule", text, error) from error
    if not (np.isfinite(rates).all() and np.min(rates) >= 0):
        raise _refusal("config.schedule", text, "it has rates below 0, or that are not finite")
    if config.finetune_steps and rates[-1] == 0:
        raise ConfigError(
            f"config.finetune_steps: got {config.finetune_steps}; takes 0 with a schedule that "
            f"ends at a rate of 0, as config.schedule={text} does."
        )
    return rate_at


def kernels(params: optax.Params) -> Any:
    """Marks the leaves of ``params`` that are kernels."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _make(field: str, text: str, rate: Any) -> optax.GradientTransformation:
    """The optimizer of that text, which must take a learning rate, and gradients alone."""
    if "learning_rate" not in _parameters(field, text):
        raise _refusal(field, text, "it has no learning rate")
    optimizer = _build(field, text, {"learning_rate": rate})
    if not isinstance(optimizer, optax.GradientTransformation):
        raise _refusal(field, text, "it is no optimizer")
    return optimizer


def check_optimizer(
    field: str, text: str, optimizer: optax.GradientTransformation, params: optax.Params
) -> None:
    """Tries an optimizer on the shapes of the parameters.

    Raises:
      ConfigError: it asks for more than gradients, or its state is none that a run can keep.
    """
    try:
        _, state = jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p), params)
    except Exception as error:  # each optimizer fails in its own way
        raise _refusal(field, text, error) from error
    for leaf in jax.tree.leaves(state):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise _refusal(field, text, "its state holds a random key, which no checkpoint takes")
        if leaf.ndim and not jax.dtypes.issubdtype(leaf.dtype, np.floating):
            raise _refusal(field, text, f"its state is {leaf.dtype}, which holds no averages")
    nodes = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, _SCHEDULE_FREE))
    if any(isinstance(node, _SCHEDULE_FREE) for node in nodes):
        raise _refusal(field, text, "the parameters it trains are not those to evaluate")


def _build(field: str, text: str, offered: dict[str, Any]) -> Any:
    """What ``NAME(ARGUMENT=VALUE, ...)`` makes, with those of ``offered`` that NAME takes."""
    function, given = _parse(field, text)
    parameters = inspect.signature(function).parameters
    for argument, value in given.items():
        if argument not in parameters:
            near = _messages.nearest(argument, parameters)
            raise _refusal(field, text, f"no argument {argument!r}; nearest: {near!r}")
        default = parameters[argument].default
        rate = argument in _RATES and field != "config.schedule"
        if reason := _reason_against(argument, value, default, rate=rate):
            raise _refusal(field, text, f"{argument}: got {value!r}; takes {reason}")
    offered = {name: value for name, value in offered.items() if name in parameters}
    try:
        return function(**offered | given)
    except Exception as error:  # Optax's own checks raise errors of many types
        raise _refusal(field, text, error) from error


def _parse(field: str, text: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Optax's function and the arguments that the text names."""
    form = "not of the form NAME(ARGUMENT=VALUE, ...)"
    try:
        call = ast.parse(text if "(" in text else f"{text}()", mode="eval").body
        names = [k.arg for k in call.keywords] if isinstance(call, ast.Call) else [None]
        if not isinstance(call, ast.Call) or call.args or None in names:
            raise _refusal(field, text, form)
        if len(set(names)) < len(names):
            raise _refusal(field, text, "an argument is there twice")
        name = ast.unparse(call.func).removeprefix("optax.")
        arguments = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except ConfigError:
        raise
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else form
        raise _refusal(field, text, reason) from None
    home = optax.contrib if name.startswith("contrib.") else optax
    function = getattr(home, name.removeprefix("contrib."), getattr(optax.contrib, name, None))
    if not inspect.isfunction(function):
        known = [n for module in (optax, optax.contrib) for n in dir(module) if n[0].islower()]
        near = _messages.nearest(name, known)
        raise _refusal(field, text, f"Optax has no {name!r}; nearest: {near!r}")
    return function, arguments


def _parameters(field: str, text: str) -> list[str]:
    return list(inspect.signature(_parse(field, text)[0]).parameters)


def _reason_against(argument: str, value: Any, default: Any, *, rate: bool) -> str:
    """What an argument takes if not this value; else an empty text."""
    if type(value) is type(default) and value == default:
        return ""
    if isinstance(value, dict) and argument != "boundaries_and_scales":
        return "a number, text, True, False, None, or a tuple of numbers"
    numbers = value if isinstance(value, tuple | list) else [value]
    if isinstance(value, dict):
        numbers = [*value, *value.values()]
    for number in numbers:
        if not isinstance(number, int | float | str | None):
            return "a number, text, True, False, None, or a tuple of numbers"
        if isinstance(number, float) and not math.isfinite(number):
            return "finite numbers"
    if isinstance(default, int | float) and not isinstance(value, int | float):
        return "a number"
    if isinstance(value, str) and not (isinstance(default, str) or argument.endswith("dtype")):
        return "no text"
    if isinstance(default, bool) != isinstance(value, bool) and isinstance(default, bool | float):
        return "True or False" if isinstance(default, bool) else "a number"
    if rate and isinstance(value, int | float) and not 0 <= value < 1:
        return "a number in [0, 1)"
    if argument.startswith("eps") and isinstance(value, int | float) and value < 0:
        return "a number that is at least 0"
    return ""


def _refusal(field: str, text: str, reason: object) -> ConfigError:
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    example = "cosine_decay_schedule(alpha=0.1)" if "schedule" in field else "sgd(momentum=0.9)"
    return ConfigError(
        f"{field}: got {shown!r}: {lines[0][:200].rstrip('.')}. It is a name of Optax's with its "
        f"arguments but the rate, as {example}."
    )
