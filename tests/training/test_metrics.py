"""A run's figures against scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics

from l2rw_jax.training.metrics import classification_metrics


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_accuracies_are_scikit_learns():
    rng = np.random.default_rng(0)
    labels, predictions = rng.choice(4, (2, 200), p=[0.7, 0.2, 0.1, 0.0])
    predictions[:3] = 3  # a class that no label has
    assert classification_metrics("test", labels, predictions) == pytest.approx(
        {
            "test_accuracy": metrics.accuracy_score(labels, predictions),
            "test_balanced_accuracy": metrics.balanced_accuracy_score(labels, predictions),
        },
        rel=1e-12,
    )
