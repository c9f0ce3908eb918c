"""Figures of a run, computed on the host."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def classification_metrics(
    name: str, labels: ArrayLike, predictions: ArrayLike
) -> dict[str, float]:
    """Accuracy and the mean of the classes' accuracies, by the names ``NAME_accuracy`` and so on.

    Classes without a label are left out of the mean.

    >>> import numpy as np
    >>> classification_metrics("test", np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]))
    {'test_accuracy': 0.75, 'test_balanced_accuracy': 0.8333333333333333}
    """
    labels = np.asarray(labels)
    right = labels == np.asarray(predictions)
    return {
        f"{name}_accuracy": float(right.mean()),
        f"{name}_balanced_accuracy": float(
            np.mean([right[labels == label].mean() for label in np.unique(labels)])
        ),
    }


def noise_auroc(values: ArrayLike, counts: ArrayLike, corrupted: ArrayLike) -> float | None:
    """Area under the ROC curve of a low value as a detector of corruption.

    Args:
      values: ``[n]`` such as the mean weight of each training example, or its mean margin.
      counts: ``[n]`` how often each was drawn; those never drawn are left out.
      corrupted: ``[n]`` bool.

    Returns:
      The area, or None where there is only one kind of example.

    >>> import numpy as np
    >>> weights = np.array([0.1, 0.3, 0.0, 0.2])
    >>> noise_auroc(weights, np.ones(4), np.array([False, False, True, True]))
    0.75
    """
    drawn = np.asarray(counts) > 0
    corrupted = np.asarray(corrupted)[drawn]
    if corrupted.all() or not corrupted.any():
        return None
    from sklearn import metrics  # slow to import, and few runs need it

    return float(metrics.roc_auc_score(corrupted, -np.asarray(values)[drawn]))


def summarize_steps(metrics: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """One line of metrics of many steps': means over the finite values, and some extremes.

    Args:
      metrics: ``{name: [..., steps]}``.

    Returns:
      ``{name: [...]}``.
    """
    line = {}
    with np.errstate(invalid="ignore"):  # no finite value has the mean NaN
        for name, values in metrics.items():
            finite = np.isfinite(values)
            line[name] = np.sum(values, -1, where=finite) / np.sum(finite, -1)
    return line | {
        "bad_in_a_row": np.max(metrics["bad_in_a_row"], -1),
        "bad_steps": np.sum(metrics["bad_in_a_row"] > 0, -1),
        "grad_norm_max": np.max(metrics["grad_norm"], -1),
        "effective_sample_size_min": np.min(metrics["effective_sample_size"], -1),
    }
