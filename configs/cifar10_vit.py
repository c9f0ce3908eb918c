"""CIFAR-10 with 40 % uniform label noise, and a small Vision Transformer for the paper's network.

Data and noise are those of configs/cifar10_uniform.py: 1,000 clean images, 5,000 for
hyper-validation. The network is ``vit-192-6`` (2.7 million parameters, 64 tokens), trained by AdamW
at 1e-3 that falls to zero along a cosine; the look-ahead stays plain SGD.

Command: ``python -m experiments.train --config=configs/cifar10_vit.py --workdir=runs/c10v``, on an
accelerator; it has not been run to its end here.
"""

from configs import cifar10_uniform


def get_config(variant=""):
    """The run, or its one-minute ``smoke`` variant on synthetic images."""
    config = cifar10_uniform.get_config(variant)
    config.model, config.dropout = "vit-16-2" if variant == "smoke" else "vit-192-6", 0.0
    config.optimizer, config.learning_rate = "adamw(weight_decay=0.05)", 1e-3
    config.schedule, config.boundaries = "cosine_decay_schedule", ()
    config.weight_decay, config.clip_norm = 0.0, 1.0
    return config
