"""The same steps on several virtual CPU devices, in fresh processes: do they have one loss?"""

import json
import os
import subprocess
import sys

ROUNDING = 1e-4  # of a loss after three steps in float32, relative


def measure(models, counts):
    """Rows of the same three steps on virtual CPU devices, a fresh process for each count."""
    program = "experiments.scaling.virtual_devices"
    rows: list = []
    for count in counts:
        virtual = {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        }
        done = subprocess.run(
            [*(sys.executable, "-m", program), f"--models={','.join(models)}"],
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
