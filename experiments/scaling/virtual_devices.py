"""Takes the same steps on all devices of this process: their loss, and what they exchange.

python -m experiments.scaling.virtual_devices --models=mlp-256-256,resnet-8

Prints a JSON list with a row a model. `experiments.scaling.throughput` starts it with more and more
virtual devices (XLA_FLAGS=--xla_force_host_platform_device_count=N).
"""

import contextlib
import json
import re

import jax
import numpy as np
from absl import flags

from configs import digits
from experiments import programs
from experiments.scaling.trainer import compile_call

MODELS = flags.DEFINE_list("models", ["mlp-256-256", "resnet-8"], "The models.")
STEPS = 3


def on_all_devices(model):
    """The row of three steps on all devices of this process."""
    config = digits.get_config()
    config.update({"model": model, "batch_size": 80, "clean_size": 80, "clean_batch_size": 80})
    if jax.device_count() > 1:
        config.parallel = "jit"
    with contextlib.ExitStack() as stack:
        call = compile_call(stack, config, 1)
        loss = float(call.run(STEPS)["loss"])
    row = {"model": model, "devices": jax.device_count(), "error": None, "loss": loss}
    return row | {"parameter_bytes": call.parameter_bytes} | collectives(call.text())


def collectives(text):
    """How many collectives a compiled program has, and the bytes that they give each device.

    >>> collectives("%r = (f32[2,3]{1,0}, f32[]) all-reduce(%a, %b), channel_id=1")
    {'collectives': 1, 'collective_bytes': 28}
    """
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    shapes = re.findall(rf"= (.*?) (?:{kinds})(?:-start)?\(", text)
    arrays = re.findall(r"([a-z]+)(\d*)\[([\d,]*)\]", " ".join(shapes))
    sizes = [
        int(bits or 8) // 8 * int(np.prod([int(d) for d in dims.split(",") if d], initial=1))
        for _, bits, dims in arrays
    ]
    return {"collectives": len(shapes), "collective_bytes": sum(sizes)}


def main():
    """Prints the rows."""
    programs.check_models("--models", MODELS.value)
    print(json.dumps([on_all_devices(model) for model in MODELS.value]))


if __name__ == "__main__":
    programs.run(main)
