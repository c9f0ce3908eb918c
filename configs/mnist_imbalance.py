"""MNIST 4 against 9 at 200:1, the paper's section 4.1 (Figure 3), LeNet.

5,000 training images, 99.5 % of them nines; 10 clean images, five a class, split off from those.
Read ``test_balanced_accuracy``. Inputs in [0, 1] and momentum 0.9 as in the
authors' code (the paper names no momentum). ``paper`` is the paper's 8,000 steps; the default is a
shortened schedule for two CPU cores.

Command: ``python -m experiments.train --config=configs/mnist_imbalance.py --workdir=runs/mnist``;
five to seven minutes on two busy cores. Result (3 seeds, results/mnist_imbalance.json): l2rw 97.3 ±
4.2 % balanced accuracy; baseline and random 50.0, which is the majority class for every image.
"""

from l2rw_jax.training.config import default_config, with_variant


def get_config(variant=""):
    """The shortened run, the ``paper``'s schedule, or the one-minute ``smoke`` variant."""
    config = default_config()
    config.dataset = "mnist"
    config.classes = (4, 9)  # the last is the majority and the positive class
    config.imbalance.kind = "majority"
    config.imbalance.share = 0.995
    config.imbalance.total = 5000
    config.clean_size = config.clean_batch_size = 10
    config.model = "lenet"
    config.learning_rate = 1e-3
    config.steps = 2000
    config.log_every, config.eval_every = 100, 500
    smoke = {
        "dataset": "synthetic-28x28x1-10",
        "imbalance.share": 0.9,
        "imbalance.total": 150,
        "steps": 10,
        "log_every": 5,
        "eval_every": 5,
    }
    return with_variant(config, variant, smoke=smoke, paper={"steps": 8000})
