"""Label quality, against Bayes' rule written out, and where the answer is known."""

import numpy as np
from sklearn.metrics import roc_auc_score

from l2rw_jax.quality import label_quality


def test_is_bayes_rule():
    rng = np.random.default_rng(0)
    p, labels = rng.dirichlet(np.ones(4), 30), rng.permutation(np.arange(30) % 4)
    for i, quality in enumerate(label_quality(p, labels)):
        joint = [
            p[i, k] * sum(p[j, k] for j in range(30) if labels[j] == labels[i]) / sum(p[:, k])
            for k in range(4)
        ]
        np.testing.assert_allclose(quality, joint[labels[i]] / sum(joint), rtol=1e-12)


def test_knows_which_labels_are_often_wrong():
    """Half of one class has got the label of another: that label alone says less."""
    rng, n = np.random.default_rng(0), 20_000
    p = rng.dirichlet(np.full(3, 0.3), n)
    true = (p.cumsum(1) > rng.random((n, 1))).argmax(1)
    labels = np.where((true == 1) & (rng.random(n) < 0.5), 0, true)
    own = p[np.arange(n), labels]
    quality = label_quality(p, labels)
    assert roc_auc_score(labels == true, quality) > roc_auc_score(labels == true, own) + 0.02


def test_a_class_that_no_row_is_likely_to_have_is_no_error():
    quality = label_quality(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]))
    np.testing.assert_array_equal(quality, [1, 0])
