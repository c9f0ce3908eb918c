"""An ``optax.chain`` that hands on the weighted loss, for the optimizers that need it."""

import inspect
from collections.abc import Callable
from typing import Any

import optax

from l2rw_jax.transform import ReweightState


def chain(
    reweighting: optax.GradientTransformationExtraArgs, *transforms: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Like ``optax.chain(reweighting, *transforms)``, with the weighted loss as ``value=``.

    Use it before an optimizer that needs the loss, such as ``optax.contrib.momo``. Each transform
    gets ``value=`` (the caller's, if there is one) and the caller's extra arguments, as far as its
    ``update`` takes them, and never the two loss functions, which some refuse.

    Args:
      reweighting: what ``reweight`` returns.
      *transforms: the transformations that follow.

    Returns:
      A transformation with the state and the ``update`` of the ``optax.chain``.

    >>> import jax.numpy as jnp, optax
    >>> from l2rw_jax import reweight
    >>> x, y = jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, -3.0])  # the last label is wrong
    >>> tx = chain(reweight(), optax.polyak_sgd())
    >>> w = jnp.array(0.5)
    >>> updates, state = tx.update(None, tx.init(w), w, clean_loss_fn=lambda w: (w - 1.0) ** 2,
    ...                            per_example_loss_fn=lambda w: (w * x - y) ** 2)
    >>> print(optax.apply_updates(w, updates))
    0.75
    """
    members = (reweighting, *transforms)

    def init_fn(params: optax.Params) -> tuple[Any, ...]:
        return tuple(member.init(params) for member in members)

    def update_fn(
        updates: optax.Updates | None,
        state: tuple[Any, ...],
        params: optax.Params | None = None,
        *,
        per_example_loss_fn: Any = None,
        clean_loss_fn: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, tuple[Any, ...]]:
        updates, first = reweighting.update(
            updates,
            state[0],
            params,
            per_example_loss_fn=per_example_loss_fn,
            clean_loss_fn=clean_loss_fn,
            **extra_args,
        )
        if not isinstance(first, ReweightState):
            raise TypeError(
                f"reweighting: its state is {type(first).__name__}; takes what reweight(...) "
                "returns, as the first argument."
            )
        extra_args = {"value": first.info.loss, **extra_args}
        states = [first]
        for transform, old in zip(transforms, state[1:], strict=True):
            taken = _taken(transform.update, extra_args)
            updates, new = transform.update(updates, old, params, **taken)
            states.append(new)
        return updates, tuple(states)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _taken(update: Callable[..., Any], extra_args: dict[str, Any]) -> dict[str, Any]:
    """The extra arguments that an ``update`` function takes."""
    parameters = inspect.signature(update).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return extra_args
    return {name: value for name, value in extra_args.items() if name in parameters}
