"""CIFAR-10 with 40 % background label noise, the paper's section 4.4 (Table 2), ResNet-32.

The paper's protocol: 10 clean images a class, 5,000 for hyper-validation, 80,000 steps. Labels flip
to class 0, 40 % of those of each other class. Crops pad by 4 pixels; the authors' code pads by 2
(``--config.pad=2``). Paper: l2rw 86.73 ± 0.48, baseline 59.54 ± 2.16, random 69.51 ± 1.36.

Command: ``python -m experiments.train --config=configs/cifar10_background.py --workdir=runs/c10b``,
on an accelerator; it has not been run to its end here.
"""

from configs import cifar10_uniform


def get_config(variant=""):
    """The run, or its one-minute ``smoke`` variant on synthetic images."""
    config = cifar10_uniform.get_config(variant)
    config.noise.kind = "background"
    config.model, config.dropout = "resnet-32", 0.0
    config.steps, config.boundaries = 80_000, (40_000, 60_000)
    config.clean_size = 100
    if variant == "smoke":
        config.model, config.steps, config.clean_size = "resnet-8", 4, 40
    return config
