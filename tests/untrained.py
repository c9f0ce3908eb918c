"""A fitted classifier without the training, which takes seconds to compile."""

from unittest import mock

import jax
import numpy as np

from l2rw_jax.classifier import ReweightClassifier
from l2rw_jax.models import create_model
from l2rw_jax.training.fit import Fitted


def untrained(X, y, **parameters):
    """The classifier as a fit leaves it, but for the networks' parameters, which are random."""

    def fit(config, images, labels, clean_images, clean_labels, num_classes, *, progress):
        model = create_model(config.model, num_classes=num_classes, image_shape=images.shape[1:])
        rng = np.random.default_rng(config.seed)
        params, model_state = jax.tree.map(
            lambda array: rng.random((config.seeds, *array.shape), np.float32) - 0.3,
            jax.eval_shape(model.init, jax.random.key(0)),
        )
        ones, model_state = np.ones(len(labels)), jax.tree.map(abs, model_state)
        return model, Fitted(ones, ones.astype(int), params, model_state)

    with mock.patch("l2rw_jax.classifier.fit", fit):
        return ReweightClassifier(**parameters).fit(X, y)
