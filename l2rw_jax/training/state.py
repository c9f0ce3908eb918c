"""What a training step reads and writes."""

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
      params: the model's parameters.
      model_state: the model's running moments.
      ema_params: the average of the parameters over the steps; {} where there is none.
      opt_state: the optimizer's state.
      inner_state: that of l2rw's look-ahead; {} where it is plain SGD.
      weight_sum: sum of the weights that each training example got.  # shape=(n,)
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
    inner_state: optax.OptState
    weight_sum: jax.Array
    weight_count: jax.Array
    bad_steps: jax.Array
    bad_in_a_row: jax.Array


def network(params: Mapping[str, Any]) -> dict[str, Any]:
    """``params`` without the S-Model's label transition, which is no part of the network."""
    return {name: value for name, value in params.items() if name != "transition"}


def create_state(
    key: jax.Array,
    model: Model,
    optimizer: optax.GradientTransformation,
    num_train: int,
    transition: jax.Array | None = None,
    *,
    inner: optax.GradientTransformation | None = None,
    ema: bool = False,
) -> TrainState:
    """The state at step 0, initialised by ``key``.

    Args:
      key: random key.
      model: the ``Model``.
      optimizer: an Optax optimizer.
      num_train: number n of training examples.
      transition: ``[K, K]`` initial label transition of the S-Model, as logits; else None.
      inner: the optimizer of l2rw's look-ahead.
      ema: whether there is an average of the parameters.
    """
    params, model_state = model.init(key)
    if transition is not None:
        params = params | {"transition": transition}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        ema_params=jax.tree.map(jnp.copy, params) if ema else {},
        opt_state=optimizer.init(params),
        inner_state=inner.init(params) if inner else {},
        weight_sum=jnp.zeros(num_train),
        weight_count=jnp.zeros(num_train, jnp.int32),
        bad_steps=jnp.zeros((), jnp.int32),
        bad_in_a_row=jnp.zeros((), jnp.int32),
    )


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
    # A class without a training example: nothing is known of its noise.
    return losses.transition_logits(jnp.where(counts > 0, known, jnp.eye(len(confusion))))


def seed_keys(seed: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """A seed's keys, of initialisation and of the steps."""
    init_key, step_key = jax.random.split(jax.random.key(seed))
    return init_key, step_key


def mean_weights(weight_sum: np.ndarray, weight_count: np.ndarray) -> np.ndarray:
    """The mean weight of each training example over the times it was drawn, ``[n]``; else 0."""
    return np.asarray(weight_sum) / np.maximum(weight_count, 1).astype(weight_sum.dtype)
