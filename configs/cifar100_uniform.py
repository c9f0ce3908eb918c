"""CIFAR-100 with 40 % uniform label noise, the paper's section 4.3 (Table 1), WRN-28-10.

As for CIFAR-10: 1,000 clean images (ten a class), 5,000 for hyper-validation, 60,000 steps. The
data set must be prepared first; the error message says how. Paper: l2rw 61.34 ± 2.06, baseline
50.66 ± 0.24.

Command: ``python -m experiments.train --config=configs/cifar100_uniform.py --workdir=runs/c100u``,
on an accelerator; it has not been run to its end here.
"""

from l2rw_jax.training.config import default_config, with_variant


def get_config(variant=""):
    """The run, or its one-minute ``smoke`` variant on synthetic images."""
    config = default_config()
    config.dataset = "cifar100"
    config.clean_size, config.val_size = 1000, 5000
    config.noise.kind, config.noise.ratio = "uniform", 0.4
    config.model, config.dropout = "wrn-28-10", 0.3
    config.low, config.pad, config.flip = -1.0, 4, True
    config.steps, config.boundaries = 60_000, (40_000, 50_000)
    config.weight_decay = 2e-4
    config.log_every, config.eval_every = 500, 1000
    smoke = {
        "dataset": "synthetic-16x16x3-100",
        "model": "wrn-10-1",
        "clean_size": 200,
        "val_size": 100,
        "batch_size": 20,
        "clean_batch_size": 20,
        "steps": 4,
        "log_every": 2,
        "eval_every": 2,
    }
    return with_variant(config, variant, smoke=smoke)
