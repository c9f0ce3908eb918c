"""The same steps on several virtual CPU devices: their losses, and what they exchange."""

import json
import os
import re
import subprocess
import sys

import jax
import numpy as np

from configs import digits
from l2rw_jax.training import check
from l2rw_jax.training.loop import initial_state
from l2rw_jax.training.parallel import make_engine
from l2rw_jax.training.step import make_chunk, make_step

ROUNDING = 1e-4  # of a loss after three steps in float32, relative


def measure(models, counts):
    """Rows of the same three steps on virtual CPU devices, a fresh process for each count."""
    rows: list = []
    for count in counts:
        virtual = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        }
        done = subprocess.run(
            [sys.executable, "-m", "experiments.virtual_devices", *models],
            env=os.environ | virtual,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
            rows.append({"model": "-", "devices": count, "error": last[:300]})
        else:
            rows += json.loads(done.stdout.splitlines()[-1])
    return compare_losses(rows)


def on_all_devices(model):
    """The row of three steps on all devices of this process."""
    config = digits.get_config()
    config.update({"model": model, "batch_size": 80, "clean_size": 80, "clean_batch_size": 80})
    if jax.device_count() > 1:
        config.update({"parallel": "shard_map", "batch_norm": "global"})
    run_data, network, optimizer = check(config)
    engine = make_engine(config, num_steps=1)
    step = make_step(config, network, optimizer, axis_name=engine.axis_name)
    state, key = initial_state(config, network, optimizer, run_data)
    state, *others = engine.put((state, run_data, key))
    compiled = engine.compile(make_chunk(step, 1), state, *others)
    for _ in range(3):
        state, metrics = compiled(state, *others)
    row = {"model": model, "devices": jax.device_count(), "error": None}
    row["loss"] = float(engine.get(metrics["loss"]))
    row["parameter_bytes"] = sum(x.nbytes for x in jax.tree.leaves(state.params))
    return row | collectives(compiled.as_text())


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


if __name__ == "__main__":
    print(json.dumps([on_all_devices(model) for model in sys.argv[1:]]))
