"""CIFAR-10N: CIFAR-10 as people labelled it, 40 % of it wrongly (``worse_label``), ResNet-32.

The settings are those of cifar10_background.py, with 1,000 clean images, whose labels are
CIFAR-10's own. The other columns, ``--config.noise.column=aggre_label`` and ``random_label1`` to
``random_label3``, have less noise. TFDS's ``cifar10_n`` must be prepared first; the error message
says how, and TFDS's page on the set which files to download by hand.

Command: ``python -m experiments.train --config=configs/cifar10n.py --workdir=runs/c10n``, on an
accelerator; it was never run at full scale, nor on the data set itself.
"""

from configs import cifar10_background


def get_config(variant=""):
    """The run, or its one-minute ``smoke`` variant on synthetic images with synthetic noise."""
    config = cifar10_background.get_config(variant)
    if variant == "smoke":
        return config
    config.dataset, config.clean_size = "cifar10_n", 1000
    config.noise.kind, config.noise.ratio, config.noise.column = "given", 0.0, "worse_label"
    return config
