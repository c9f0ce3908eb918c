"""In bfloat16 a trained network weights examples as in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2rw_jax import data, example_scores, example_weights, losses
from l2rw_jax.models import create_model
from l2rw_jax.training import default_config, resolve


def _config():
    config = default_config()
    fields = {
        "dataset": "synthetic-16x16x3-4",
        "model": "resnet-8",
        "noise.kind": "uniform",
        "noise.ratio": 0.4,
        "batch_size": 64,
        "clean_batch_size": 64,
        "learning_rate": 0.02,
        "clip_norm": 5.0,
    }
    config.update_from_flattened_dict(fields)
    return config


def _weights(dtype, state, run_data, rows):
    model = create_model("resnet-8", num_classes=4, image_shape=(16, 16, 3), dtype=dtype)

    def losses_fn(params, part, rows):
        images = data.to_float(run_data.images[part.index[rows]], low=0.0, high=1.0)
        logits, _ = model.apply(params, state.model_state, images, train=True)
        return losses.cross_entropy(logits, part.label[rows])

    scores = example_scores(
        lambda params: losses_fn(params, run_data.train, rows),
        lambda params: losses_fn(params, run_data.clean, jnp.arange(64)).mean(),
        state.params,
    )
    return example_weights(scores)


@pytest.mark.slow
def test_weights_of_a_trained_network_are_those_of_float32():
    config = _config()
    run = resolve(config)
    state, run_data = run.create(), jax.tree.map(jnp.asarray, run.data)
    assert run.num_steps == 1
    step = jax.jit(run.chunk)
    accuracies = []
    for _ in range(100):
        state, metrics = step(state, run_data, run.key)
        accuracies.append(float(metrics["train_accuracy"]))
    # It is trained: it began at a quarter, and 40 % of the labels are wrong.
    assert np.mean(accuracies[:3]) < 0.45 and np.mean(accuracies[-20:]) > 0.55
    for draw in range(3):
        rows = data.sample(jax.random.key(draw), len(run_data.train.index), 256)
        full, half = (_weights(d, state, run_data, rows) for d in ("float32", "bfloat16"))
        assert half.dtype == full.dtype == jnp.float32
        assert np.abs(half - full).max() > 0  # it was another precision
        assert 0.2 < np.mean(full > 0) < 0.8
        assert np.corrcoef(full, half)[0, 1] > 0.99
