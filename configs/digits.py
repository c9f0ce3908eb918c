"""Digits with 40 % uniform label noise: the main job, on data that ships with scikit-learn.

Command: ``make run``, or one run of it:
``python -m experiments.train --config=configs/digits.py --workdir=runs/digits-l2rw``
"""

from l2rw_jax.training import default_config


def get_config(variant=""):
    """The run, or its one-minute ``smoke`` variant."""
    config = default_config()
    config.noise.kind = "uniform"
    config.noise.ratio = 0.4
    config.boundaries = (1500, 2250)
    if variant == "smoke":
        config.steps, config.log_every, config.eval_every = 40, 20, 20
    return config
