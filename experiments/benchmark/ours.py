"""Our side of the benchmark: a training step, ordinary and reweighted."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.benchmark.setting import examples
from l2rw_jax import losses
from l2rw_jax.gradients import reweighted_value_and_grad
from l2rw_jax.methods import StepInfo, get_method, output_layer
from l2rw_jax.models import create_model
from l2rw_jax.training.optimizers import kernels
from l2rw_jax.training.state import split_weighting
from l2rw_jax.weightings import Weighting, l2rw


class Prepared(NamedTuple):
    """An implementation that is ready to be timed.

    Attributes:
      step: takes a step, waits for it, and returns the loss.
      measure_memory: returns fields of the row; None where there is no way to measure.
      analysis: fields that the compiler knows.
    """

    step: Callable[[], float]
    measure_memory: Callable[[], dict] | None = None
    analysis: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to


def _model(setting):
    return create_model(
        setting.model,
        num_classes=setting.num_classes,
        image_shape=setting.image_shape,
        dtype="bfloat16" if setting.precision == "bfloat16" else "float32",
        dropout=setting.dropout,
    )


def initial(setting, *, weighting=False):
    """The model, and its parameters and running moments before the first step.

    With ``weighting`` the parameters have those of Meta-Weight-Net beside them.
    """
    model = _model(setting)
    params, model_state = jax.jit(model.init)(jax.random.key(0))
    if weighting:
        init: Any = get_method("mwnet").init_weighting
        params["weighting"] = init(jax.random.key(1), setting.num_classes)
    return model, params, model_state


def plain(losses_fn, rate):
    """Ordinary training: the gradient of the mean loss."""
    del rate

    def mean_loss(params, batch):
        values, aux = losses_fn(params, batch)
        return values.mean(), aux

    def gradient(params, batch, clean):
        del clean
        return jax.value_and_grad(mean_loss, has_aux=True)(params, batch)

    return gradient


def weighted(losses_fn, rate, weighting_at: Callable[[float], Weighting]):
    """The gradient by one of the library's weightings."""
    value_and_grad = reweighted_value_and_grad(
        losses_fn, lambda *args: losses_fn(*args)[0], weighting=weighting_at(rate), has_aux=True
    )

    def gradient(params, batch, clean):
        learned = "weighting" in params
        params = split_weighting(params) if learned else params
        (loss, aux), grads = value_and_grad(params, batch, clean)
        return (loss, aux.aux), grads[0] | {"weighting": grads[1]} if learned else grads

    return gradient


def by_method(name):
    """``rate -> weighting`` of one of the library's methods."""
    nothing = jnp.zeros(0)
    return lambda rate: get_method(name).weighting(
        StepInfo(jax.random.key(0), jnp.asarray(rate), nothing, nothing)
    )


FORMS: dict[str, Callable[..., Any]] = {
    "plain": plain,
    "l2rw forward": functools.partial(weighted, weighting_at=by_method("l2rw")),
    "l2rw reverse": functools.partial(weighted, weighting_at=lambda rate: l2rw(mode="reverse")),
    "l2rw head": functools.partial(weighted, weighting_at=lambda rate: l2rw(mask=output_layer)),
    "evidence": functools.partial(weighted, weighting_at=by_method("evidence")),
    "mwnet": functools.partial(weighted, weighting_at=by_method("mwnet")),
}


def prepare(setting, form):
    """A compiled step of a form in ``FORMS``."""
    state, arrays, compiled = _state(setting, form), batches(setting), compile_step(setting, form)

    def run():
        nonlocal state
        state, loss = jax.block_until_ready(compiled(state, *arrays))
        return float(loss)

    return Prepared(run, analysis=analyse(compiled))


def _optimizer(setting):
    return optax.chain(
        optax.add_decayed_weights(setting.weight_decay, mask=kernels),
        optax.sgd(setting.rate, setting.momentum),
    )


def _state(setting, form):
    """Parameters, running moments, the optimizer's state and a key, before the first step."""
    _, params, model_state = initial(setting, weighting=form == "mwnet")
    return params, model_state, _optimizer(setting).init(params), jax.random.key(0)


def compile_step(setting, form):
    """One compiled step, ``(state, batch, clean) -> (state, loss)``; donates its state."""
    model, tx = _model(setting), _optimizer(setting)

    def step(state, batch, clean):
        params, model_state, opt_state, key = state
        key, batch_key, clean_key = jax.random.split(key, 3)

        def losses_fn(params, batch):
            logits, new_state = model.apply(
                params, model_state, batch["x"], train=True, rng=batch["rng"]
            )
            aux = {"model_state": new_state}
            return losses.cross_entropy(logits, batch["label"]), aux

        gradient = FORMS[form](losses_fn, setting.rate)
        (loss, aux), grads = gradient(
            params, batch | {"rng": batch_key}, clean | {"rng": clean_key}
        )
        new_state = aux["model_state"]
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), new_state, opt_state, key), loss

    # Without this, JAX computes float32 products in TF32 on a GPU.
    exact = {"float32": "highest", "tf32": "tensorfloat32"}.get(setting.precision)
    with jax.default_matmul_precision(exact):
        state = jax.eval_shape(lambda: _state(setting, form))
        return jax.jit(step, donate_argnums=0).lower(state, *batches(setting)).compile()


def batches(setting):
    """The batch and the clean batch, on the device."""
    images, labels, clean_images, clean_labels = map(jnp.asarray, examples(setting))
    return {"x": images, "label": labels}, {"x": clean_images, "label": clean_labels}


def analyse(compiled):
    """What XLA knows of a compiled program: its temporaries and its floating-point operations."""
    memory = getattr(compiled.memory_analysis(), "temp_size_in_bytes", None)
    flops = (compiled.cost_analysis() or {}).get("flops")
    return {"memory_bytes": memory, "memory_kind": "XLA's temporaries", "flops": flops}
