"""CIFAR-10 with 40 % background label noise, the paper's section 4.4 (Table 2), ResNet-32.

The paper's protocol: 10 clean images a class, 5,000 for hyper-validation, 80,000 steps. Labels flip
to class 0, 40 % of each other's. Crops pad by 4 pixels; the authors' code pads by 2
(``--config.pad=2``). Paper: l2rw 86.73 ± 0.48, baseline 59.54 ± 2.16, random 69.51 ± 1.36.

Command: ``python -m experiments.train --config=configs/cifar10_background.py --workdir=runs/c10b``,
on an accelerator; it has not been run to its end here.
"""

from l2rw_jax.training.config import default_config, with_variant


def get_config(variant=""):
    """The run, or its one-minute ``smoke`` variant on synthetic images."""
    config = default_config()
    config.dataset = "cifar10"
    config.clean_size, config.val_size = 100, 5000
    config.noise.kind, config.noise.ratio = "background", 0.4
    config.model = "resnet-32"
    config.low, config.pad, config.flip = -1.0, 4, True
    config.steps, config.boundaries = 80_000, (40_000, 60_000)
    config.weight_decay = 2e-4
    config.log_every, config.eval_every = 500, 1000
    smoke = {
        "dataset": "synthetic-16x16x3-10",
        "model": "resnet-8",
        "clean_size": 40,
        "val_size": 50,
        "batch_size": 20,
        "clean_batch_size": 20,
        "steps": 4,
        "log_every": 2,
        "eval_every": 2,
    }
    return with_variant(config, variant, smoke=smoke)
