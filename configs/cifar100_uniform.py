"""CIFAR-100 with 40 % uniform label noise, the paper's section 4.3 (Table 1), WRN-28-10.

As for CIFAR-10: 1,000 clean images (ten a class), 5,000 for hyper-validation, 60,000 steps. The
data set must be prepared first; the error message says how. Paper: l2rw 61.34 ± 2.06, baseline
50.66 ± 0.24.

Command: ``python -m experiments.train --config=configs/cifar100_uniform.py --workdir=runs/c100u``,
on an accelerator; it has not been run to its end here.
"""

from configs import cifar10_uniform


def get_config(variant=""):
    """The run, or its one-minute ``smoke`` variant on synthetic images."""
    config = cifar10_uniform.get_config(variant)
    config.dataset = "cifar100"
    if variant == "smoke":
        config.dataset, config.clean_size = "synthetic-32x32x3-100", 200
    return config
