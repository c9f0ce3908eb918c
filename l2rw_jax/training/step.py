"""One training step, as a pure function of the state and the step's number."""

import jax
import jax.numpy as jnp
import optax

from l2rw_jax import data, losses
from l2rw_jax.methods import get_method


def make_step(config, model, optimizer):
    """Returns ``step(state, run_data, key) -> (state, metrics)``: sample, augment, weight, update.

    What a step draws follows from ``key`` and ``state.step`` alone: indices uniformly with
    replacement for the batch, without for the clean batch.

    Args:
      config: a validated config.
      model: the ``Model``.
      optimizer: an Optax optimizer for the model's parameters.

    Returns:
      The step; ``metrics`` is a dict of scalars.
    """
    method = get_method(config.method)

    def step(state, run_data, key):
        keys = jax.random.split(jax.random.fold_in(key, state.step), 5)
        drawn = data.sample(keys[0], len(run_data.train.index), config.batch_size)
        trusted = data.sample_without_replacement(
            keys[1], len(run_data.clean.index), config.clean_batch_size
        )
        batch = _batch(config, run_data.images, run_data.train, drawn, keys[2])
        clean_batch = _batch(config, run_data.images, run_data.clean, trusted, keys[3])

        def per_example_loss_fn(params, batch):
            logits, model_state = model.apply(
                params, state.model_state, batch["image"], train=True, rng=batch["rng"]
            )
            return losses.cross_entropy(logits, batch["label"]), model_state

        value_and_grad = method(per_example_loss_fn, rng=keys[4])
        (loss, aux), grads = value_and_grad(state.params, batch, clean_batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        state = state._replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state=aux.aux,
            opt_state=opt_state,
            weight_sum=state.weight_sum.at[drawn].add(aux.weights),
            weight_count=state.weight_count.at[drawn].add(1),
        )
        metrics = {
            "loss": loss,
            "clean_loss": aux.val_loss,
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(state.params),
        }
        return state, metrics | _weight_metrics(aux.weights, run_data.corrupted[drawn])

    return step


def make_chunk(step, num_steps):
    """Returns ``chunk(state, run_data, key) -> (state, metrics)``: many steps in one program.

    ``metrics`` holds each step's values, ``[num_steps]``.
    """
    if num_steps == 1:  # no loop: see what loop.py says of convolutions on a CPU
        return step

    def chunk(state, run_data, key):
        return jax.lax.scan(lambda state, _: step(state, run_data, key), state, length=num_steps)

    return chunk


def make_predict(config, model, batch_size=500):
    """Returns ``predict(params, model_state, images) -> [n]`` classes, in batches on the device."""

    def predict(params, model_state, images):
        def predict_one(image):
            scaled = data.to_float(image[None], low=config.low, high=config.high)
            logits, _ = model.apply(params, model_state, scaled, train=False)
            return jnp.argmax(logits[0], -1)

        return jax.lax.map(predict_one, images, batch_size=min(batch_size, len(images)))

    return predict


def _batch(config, images, part, rows, key):
    augment_key, dropout_key = jax.random.split(key)
    images = images[part.index[rows]]
    augmented = data.augment(augment_key, images, pad=config.pad, flip=config.flip)
    return {
        "image": data.to_float(augmented, low=config.low, high=config.high),
        "label": part.label[rows],
        "rng": dropout_key,  # its own: a shared mask would tie the batch to the clean batch
    }


def _weight_metrics(weights, corrupted):
    squares = jnp.sum(jnp.square(weights))

    def mean_of(chosen):
        return jnp.sum(weights * chosen) / jnp.maximum(jnp.sum(chosen), 1)

    return {
        "active_share": jnp.mean(weights > 0),
        "effective_sample_size": (squares > 0) / jnp.where(squares > 0, squares, 1),
        "weight_corrupted": mean_of(corrupted),
        "weight_uncorrupted": mean_of(~corrupted),
    }
