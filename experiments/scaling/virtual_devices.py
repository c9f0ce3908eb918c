"""The same steps on several virtual CPU devices: do they have one loss, and what do they exchange?

A process has as many virtual devices as it was started with, so each count is a process of its own:
this module, with the models' names as its arguments.
"""

import contextlib
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np

from configs import digits
from experiments import programs
from experiments.scaling.trainer import compile_call

STEPS = 3
ROUNDING = 1e-4  # of a loss after three steps in float32, relative


def measure(models, counts):
    """Rows of three steps by each model on each count of virtual devices."""
    rows: list = []
    for count in counts:
        virtual = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        }
        done = subprocess.run(
            [sys.executable, "-m", "experiments.scaling.virtual_devices", *models],
            env=os.environ | virtual,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            error = programs.last_line(done.stderr, f"status {done.returncode}")
            rows.append({"model": "-", "devices": count, "error": error})
        else:
            rows += json.loads(done.stdout.splitlines()[-1])
    return compare_losses(rows)


def compare_losses(rows):
    """Adds each row's relative distance from one device's loss; too large a one is an error."""
    alone = {row["model"]: row["loss"] for row in rows if row["devices"] == 1 and not row["error"]}
    for row in rows:
        if not row["error"] and row["model"] in alone:
            one = alone[row["model"]]
            row["loss_difference"] = abs(row["loss"] - one) / abs(one)
            if not row["loss_difference"] <= ROUNDING:
                row["error"] = f"loss is {row['loss']:.6g}, on one device {one:.6g}"
    return rows


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


if __name__ == "__main__":
    print(json.dumps([on_all_devices(model) for model in sys.argv[1:]]))
