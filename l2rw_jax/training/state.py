"""The state that a training step reads and writes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from l2rw_jax import losses
from l2rw_jax.methods import Method
from l2rw_jax.models import Model


class TrainState(NamedTuple):
    """Everything that changes from step to step.

    Attributes:
      step: steps so far.  # shape=(), dtype=int32
      params: the model's parameters, and the method's own, as ``method_params`` has them.
      model_state: the model's running moments.
      ema_params: the average of the parameters over the steps; {} where there is none.
      opt_state: the optimizer's state.
      lookahead_state: that of l2rw's look-ahead optimizer; {} where it is plain SGD.
      weight_sum: sum of the weights that each training example got.  # shape=(n,)
      margin_sum: sum of the given label's margins.  # shape=(n,)
      weight_count: how often each was drawn.  # shape=(n,), dtype=int32
      bad_steps: steps that were skipped, since the loss, the gradient or all scores were not
        finite.  # shape=(), dtype=int32
      bad_in_a_row: how many of them came last.  # shape=(), dtype=int32
    """

    step: jax.Array
    params: optax.Params
    model_state: dict[str, Any]
    ema_params: optax.Params
    opt_state: optax.OptState
    lookahead_state: optax.OptState
    weight_sum: jax.Array
    margin_sum: jax.Array
    weight_count: jax.Array
    bad_steps: jax.Array
    bad_in_a_row: jax.Array


def network(params: Mapping[str, Any]) -> dict[str, Any]:
    """``params`` without those of the method, which are not part of the network."""
    return {name: p for name, p in params.items() if name not in ("transition", "weighting")}


def split_weighting(params: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """The others, and those of a learned weighting, as ``learned`` takes them."""
    rest = {name: p for name, p in params.items() if name != "weighting"}
    return rest, params["weighting"]


def create_state(
    key: jax.Array,
    model: Model,
    optimizer: optax.GradientTransformation,
    num_train: int,
    own: dict[str, Any] | None = None,
    *,
    lookahead: optax.GradientTransformation | None = None,
    ema: bool = False,
) -> TrainState:
    """The state at step 0, initialised by ``key``.

    Args:
      key: random key.
      model: the ``Model``.
      optimizer: an Optax optimizer.
      num_train: number n of training examples.
      own: the method's own parameters, as ``method_params`` makes them.
      lookahead: the optimizer of l2rw's look-ahead.
      ema: whether there is an average of the parameters.
    """
    params, model_state = model.init(key)
    params = params | (own or {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        ema_params=jax.tree.map(jnp.copy, params) if ema else {},
        opt_state=optimizer.init(params),
        lookahead_state=lookahead.init(params) if lookahead else {},
        weight_sum=jnp.zeros(num_train),
        margin_sum=jnp.zeros(num_train),
        weight_count=jnp.zeros(num_train, jnp.int32),
        bad_steps=jnp.zeros((), jnp.int32),
        bad_in_a_row=jnp.zeros((), jnp.int32),
    )


def method_params(method: Method, key: jax.Array, confusion: jax.Array) -> dict[str, Any]:
    """The method's own parameters: S-Model's ``transition``, a learned ``weighting``.

    Args:
      method: a ``Method``.
      key: of the initialisation, as ``create_state`` takes it.
      confusion: ``[K, K]`` counts of training examples by class and label.
    """
    own: dict[str, Any] = {}
    transition = initial_transition(method, confusion)
    if transition is not None:
        own["transition"] = transition
    if method.init_weighting is not None:
        own["weighting"] = method.init_weighting(jax.random.fold_in(key, 1), len(confusion))
    return own


def initial_transition(method: Method, confusion: jax.Array) -> jax.Array | None:
    """The S-Model's initial label transition, ``[K, K]`` logits; None for other methods.

    Args:
      method: a ``Method``.
      confusion: ``[K, K]`` counts of training examples by class and label.
    """
    if not method.transition:
        return None
    if method.transition == "identity":
        return losses.transition_logits(jnp.eye(len(confusion)))
    counts = confusion.sum(1, keepdims=True)
    known = confusion / jnp.maximum(counts, 1)
    # A class without training examples: its noise is unknown.
    return losses.transition_logits(jnp.where(counts > 0, known, jnp.eye(len(confusion))))


def seed_keys(seed: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """A seed's keys, of initialisation and of the steps."""
    init_key, step_key = jax.random.split(jax.random.key(seed))
    return init_key, step_key


def mean_over_draws(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The mean of each training example's values over the times it was drawn, ``[n]``; else 0."""
    return np.asarray(sums) / np.maximum(counts, 1).astype(sums.dtype)
