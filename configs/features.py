"""Features with labels of their own noise, such as embeddings that people labelled: ``evidence``.

The data are yours: features.npz in the working directory. Each training row has the label to train
on (given_labels) and the true one (train_labels). The clean set takes its labels from the true
ones, and noise_auroc compares the weights with them. This makes such a file from arrays:

>>> import numpy as np, sklearn.datasets
>>> x, y = sklearn.datasets.make_classification(12_000, 64, n_informative=16, n_classes=4,
...                                             class_sep=2, random_state=0)
>>> rng, given = np.random.default_rng(0), y[:10_000].copy()
>>> given[:5000] = rng.integers(0, 4, 5000)  # synthetic noise; your labels have their own
>>> np.savez("features.npz", train_features=x[:10_000], train_labels=y[:10_000],
...          given_labels=given, test_features=x[10_000:], test_labels=y[10_000:])

Command: ``python -m experiments.train --config=configs/features.py --workdir=runs/features``;
six seconds on two cores. Test accuracy on the data above (3 seeds): evidence 82.0 ± 2.3 %, l2rw
95.3 ± 0.8, baseline 72.4 ± 3.5; noise AUROC: evidence 0.985, l2rw 0.809.
"""

from l2rw_jax.training.config import default_config, with_variant


def get_config(variant=""):
    """The run, or its one-minute ``smoke`` variant, on digits with synthetic noise."""
    config = default_config()
    config.method = "evidence"
    config.dataset = "npz:features.npz"
    config.noise.kind, config.noise.column = "given", "given_labels"
    config.clean_size = 1000
    config.model = "mlp-256"
    config.learning_rate = 0.05
    config.steps, config.boundaries = 4000, (2000, 3000)
    config.weight_decay = 1e-3
    config.clip_norm = 5.0
    config.log_every, config.eval_every = 100, 1000
    smoke = {
        "dataset": "digits",
        "noise.kind": "uniform",
        "noise.column": "",
        "noise.ratio": 0.4,
        "clean_size": 100,
        "steps": 40,
        "log_every": 20,
        "eval_every": 20,
    }
    return with_variant(config, variant, smoke=smoke)
