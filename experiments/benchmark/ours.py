"""Our side of the benchmark: a training step, ordinary and reweighted."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.benchmark.setting import examples
from l2rw_jax import losses, reweighted_value_and_grad
from l2rw_jax.models import create_model
from l2rw_jax.training.optimizers import kernels


class Prepared(NamedTuple):
    """An implementation that is ready to be timed.

    Attributes:
      step: takes one synchronised step and returns its loss.
      measure_memory: returns fields of the row; None where there is no way to measure.
      analysis: fields that the compiler knows.
    """

    step: Callable[[], float]
    measure_memory: Callable[[], dict] | None = None
    analysis: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to


def initial(setting):
    """The model, and its parameters and running moments before the first step."""
    model = create_model(
        setting.model,
        num_classes=setting.num_classes,
        image_shape=setting.image_shape,
        dtype="bfloat16" if setting.precision == "bfloat16" else "float32",
        dropout=setting.dropout,
    )
    return model, *jax.jit(model.init)(jax.random.key(0))


def plain(losses_fn):
    """Ordinary training: the gradient of the mean loss."""

    def mean_loss(params, batch):
        values, new_state = losses_fn(params, batch)
        return values.mean(), new_state

    def gradient(params, batch, clean):
        del clean
        return jax.value_and_grad(mean_loss, has_aux=True)(params, batch)

    return gradient


def reweighted(losses_fn, mode):
    """The gradient that ``l2rw_jax`` gives."""
    value_and_grad = reweighted_value_and_grad(
        losses_fn, lambda *args: losses_fn(*args)[0].mean(), has_aux=True, mode=mode
    )

    def gradient(params, batch, clean):
        (loss, (*_, new_state)), grads = value_and_grad(params, batch, clean)
        return (loss, new_state), grads

    return gradient


forward = functools.partial(reweighted, mode="forward")
reverse = functools.partial(reweighted, mode="reverse")


def prepare(setting, form):
    """One compiled step; donates its state.

    Args:
      setting: the benchmark's ``Setting``.
      form: ``form(losses_fn)`` returns ``gradient(params, batch, clean) -> ((loss, model_state),
        grads)``; ``losses_fn(params, batch)`` returns the losses ``[b]`` and the model's state.
    """
    model, params, model_state = initial(setting)
    tx = optax.chain(
        optax.add_decayed_weights(setting.weight_decay, mask=kernels),
        optax.sgd(setting.rate, setting.momentum),
    )

    def step(state, batch, clean):
        params, model_state, opt_state, key = state
        key, batch_key, clean_key = jax.random.split(key, 3)

        def losses_fn(params, batch):
            logits, new_state = model.apply(
                params, model_state, batch["x"], train=True, rng=batch["rng"]
            )
            return losses.cross_entropy(logits, batch["y"]), new_state

        (loss, new_state), grads = form(losses_fn)(
            params, batch | {"rng": batch_key}, clean | {"rng": clean_key}
        )
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), new_state, opt_state, key), loss

    state = (params, model_state, tx.init(params), jax.random.key(0))
    batch, clean = batches(setting)
    # Without this, JAX computes float32 products in TF32 on a GPU.
    exact = {"float32": "highest", "tf32": "tensorfloat32"}.get(setting.precision)
    with jax.default_matmul_precision(exact):
        compiled = jax.jit(step, donate_argnums=0).lower(state, batch, clean).compile()

    def run():
        nonlocal state
        state, loss = jax.block_until_ready(compiled(state, batch, clean))
        return float(loss)

    return Prepared(run, analysis=analyse(compiled))


def batches(setting):
    """The batch and the clean batch, on the device."""
    images, labels, clean_images, clean_labels = map(jnp.asarray, examples(setting))
    return {"x": images, "y": labels}, {"x": clean_images, "y": clean_labels}


def analyse(compiled):
    """What XLA knows of a compiled program: its temporaries and its floating-point operations."""
    memory = getattr(compiled.memory_analysis(), "temp_size_in_bytes", None)
    flops = (compiled.cost_analysis() or {}).get("flops")
    return {"memory_bytes": memory, "memory_kind": "XLA's temporaries", "flops": flops}
