"""What a training step reads and writes."""

import ast
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from l2rw_jax import losses
from l2rw_jax.methods import Method, get_method
from l2rw_jax.models import Model
from l2rw_jax.training.config import ConfigError
from l2rw_jax.training.prepare import RunData


class TrainState(NamedTuple):
    """Everything that changes from step to step.

    Attributes:
      step: steps so far.  # shape=(), dtype=int32
      params: the model's parameters.
      model_state: the model's running moments.
      opt_state: the optimizer's state.
      weight_sum: sum of the weights that each training example got.  # shape=(n,)
      weight_count: how often each was drawn.  # shape=(n,), dtype=int32
      bad_steps: steps that were skipped, since the loss, the gradient or all scores were not
        finite.  # shape=(), dtype=int32
      bad_in_a_row: how many of them came last.  # shape=(), dtype=int32
    """

    step: jax.Array
    params: optax.Params
    model_state: dict[str, Any]
    opt_state: optax.OptState
    weight_sum: jax.Array
    weight_count: jax.Array
    bad_steps: jax.Array
    bad_in_a_row: jax.Array


def make_optimizer(config: ConfigDict) -> optax.GradientTransformationExtraArgs:
    r"""The optimizer that a config describes: clip, decay, then the optimizer on its schedule.

    The decay is L2, :math:`\frac{\lambda}{2} \lVert W \rVert^2` on every ``kernel``.

    >>> from l2rw_jax.training.config import default_config
    >>> type(make_optimizer(default_config())).__name__
    'GradientTransformationExtraArgs'
    """
    schedule = optax.piecewise_constant_schedule(
        config.learning_rate, {int(boundary): 0.1 for boundary in config.boundaries}
    )
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity(),
        optax.add_decayed_weights(config.weight_decay, mask=kernels),
        _optimizer(config.optimizer, schedule),
    )


def _optimizer(text: str, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer that ``NAME(ARGUMENT=VALUE, ...)`` or ``NAME`` names in Optax."""
    try:
        call = ast.parse(text if "(" in text else f"{text}()", mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args):
            raise ValueError("not of the form NAME(ARGUMENT=VALUE, ...)")
        arguments = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        optimizer = getattr(optax, call.func.id)(learning_rate=learning_rate, **arguments)
        if not isinstance(optimizer, optax.GradientTransformation):
            raise ValueError("not an optimizer")
        return optimizer
    except (AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise ConfigError(
            f"config.optimizer: got {text!r}, which optax does not take: {error}; takes an "
            "optimizer with its arguments but the learning rate, as sgd(momentum=0.9)."
        ) from error


def kernels(params: optax.Params) -> Any:
    """Marks the leaves of ``params`` that are kernels."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def network(params: Mapping[str, Any]) -> dict[str, Any]:
    """``params`` without the S-Model's label transition, which is no part of the network."""
    return {name: value for name, value in params.items() if name != "transition"}


def create_state(
    key: jax.Array,
    model: Model,
    optimizer: optax.GradientTransformation,
    num_train: int,
    transition: jax.Array | None = None,
) -> TrainState:
    """The state at step 0, initialised by ``key``.

    Args:
      key: random key.
      model: the ``Model``.
      optimizer: an Optax optimizer.
      num_train: number n of training examples.
      transition: ``[K, K]`` initial label transition of the S-Model, as logits; else None.
    """
    params, model_state = model.init(key)
    if transition is not None:
        params = params | {"transition": transition}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(params),
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


def initial_state(
    config: ConfigDict, model: Model, optimizer: optax.GradientTransformation, run_data: RunData
) -> tuple[TrainState, jax.Array]:
    """The state at step 0 and the key of the steps; of replicas, with a leading axis."""
    method = get_method(config.method)

    def create(
        seed: ArrayLike, num_train: int, confusion: jax.Array
    ) -> tuple[TrainState, jax.Array]:
        init_key, step_key = jax.random.split(jax.random.key(seed))
        transition = initial_transition(method, confusion)
        return create_state(init_key, model, optimizer, num_train, transition), step_key

    num_train = run_data.train.index.shape[-1]
    if config.replicas == 1:
        return create(config.seed, num_train, jnp.asarray(run_data.confusion))
    seeds = jnp.arange(config.seed, config.seed + config.replicas, dtype=jnp.uint32)
    return jax.vmap(create, in_axes=(0, None, 0))(seeds, num_train, run_data.confusion)


def mean_weights(state: TrainState) -> jax.Array:
    """The mean weight of each training example over the times it was drawn, ``[n]``; else 0."""
    return state.weight_sum / jnp.maximum(state.weight_count, 1)
