"""CIFAR-10 with 40 % uniform label noise, the paper's section 4.3 (Table 1), WRN-28-10.

The paper's protocol: 1,000 clean images, 5,000 for hyper-validation, 60,000 steps. The clean set is
class-balanced; the authors' code draws it plainly (``--config.clean_balanced=False``). Crops pad by
4 pixels; their code pads by 2 (``--config.pad=2``). Paper: l2rw 86.92 ± 0.19, baseline 67.97 ±
0.62.

Command: ``python -m experiments.train --config=configs/cifar10_uniform.py --workdir=runs/c10u``, on
an accelerator; it has not been run to its end here.
"""

from l2rw_jax.training.config import default_config, with_variant


def get_config(variant=""):
    """The run, or its one-minute ``smoke`` variant on synthetic images."""
    config = default_config()
    config.dataset = "cifar10"
    config.clean_size, config.val_size = 1000, 5000
    config.noise.kind, config.noise.ratio = "uniform", 0.4
    config.model, config.dropout = "wrn-28-10", 0.3
    config.low, config.pad, config.flip = -1.0, 4, True
    config.steps, config.boundaries = 60_000, (40_000, 50_000)
    config.weight_decay = 2e-4
    config.log_every, config.eval_every = 500, 1000
    smoke = {
        "dataset": "synthetic-16x16x3-10",
        "model": "wrn-10-1",
        "clean_size": 40,
        "val_size": 50,
        "batch_size": 20,
        "clean_batch_size": 20,
        "steps": 4,
        "log_every": 2,
        "eval_every": 2,
    }
    return with_variant(config, variant, smoke=smoke)
