"""Digits with 40 % uniform label noise: the main job, on data that ships with scikit-learn.

Command: ``make run`` (baseline, random, clean_only and l2rw, 5 seeds each), or one run of it:
``python -m experiments.train --config=configs/digits.py --workdir=runs/digits-l2rw``; ten seconds
on two cores. Result (results/digits.json): l2rw 92.1 ± 1.5 % test accuracy, baseline 69.6 ± 1.8.
"""

from l2rw_jax.training.config import default_config, with_variant


def get_config(variant=""):
    """The run, or its one-minute ``smoke`` variant."""
    config = default_config()
    config.noise.kind = "uniform"
    config.noise.ratio = 0.4
    config.clean_size = config.clean_batch_size = 50
    config.boundaries = (1500, 2250)
    config.weight_decay = 1e-3  # docs/explanation/stability.md says what happens without these two
    config.clip_norm = 5.0
    config.log_every, config.eval_every = 50, 100
    smoke = {"steps": 40, "log_every": 20, "eval_every": 20}
    return with_variant(config, variant, smoke=smoke)
