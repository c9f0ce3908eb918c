"""Times the trainer's compiled calls: steps a call, replicas, precision, streams, checkpoints.

python -m experiments.throughput --output=results/throughput-cpu --minutes=8

The settings of one comparison take turns, round by round, so that a busy moment of the machine
meets all of them; ratios are of turns in the same round. On virtual devices nothing is timed: their
losses are compared with one device's, and their collectives are counted. What fails is a row that
says so. Writes OUTPUT.json and OUTPUT.md.
"""

import gc
import shlex
import sys
import time
from pathlib import Path

import jax
from absl import app, flags, logging

from experiments import comparisons, virtual_devices
from experiments.throughput_report import table
from l2rw_jax.training import workdir as files

MINUTES = flags.DEFINE_float("minutes", 8.0, "Time to spend in all, about.")
SMOKE = flags.DEFINE_bool("smoke", False, "Tiny sizes: only whether all of it works.")
OUTPUT = flags.DEFINE_string(
    "output", None, "Start of the names of what is written; results/throughput-DEVICE by default."
)


def main(_):
    """Runs all comparisons, and writes after each, so that what is cut off leaves its rows."""
    gpu = jax.default_backend() != "cpu"
    kind = jax.devices()[0].device_kind.lower().replace(" ", "-")
    output = OUTPUT.value or f"results/throughput-{kind}"
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "experiments.throughput", *sys.argv[1:]])
    content: dict = {"command": command, **files.environment(), "rows": [], "devices": []}

    def write():
        files.write_json(f"{output}.json", content)
        Path(f"{output}.md").write_text(table(content["rows"], content["devices"]))

    end = time.perf_counter() + 60 * MINUTES.value
    least = 1 if SMOKE.value else comparisons.LEAST
    models = ["mlp-8"] if SMOKE.value else ["mlp-256-256", "resnet-8"]
    counts = (1, 2) if SMOKE.value else (1, 2, 4, 8)
    content["devices"] = virtual_devices.measure(models, counts)
    write()
    chosen = comparisons.comparisons(gpu=gpu, smoke=SMOKE.value)
    for left, ((name, model), makers) in zip(
        range(len(chosen), 0, -1), chosen.items(), strict=True
    ):
        seconds = (end - time.perf_counter()) / left
        content["rows"] += comparisons.measure(name, model, makers, seconds=seconds, least=least)
        gc.collect()  # what the comparison held on the device
        write()
    print(Path(f"{output}.md").read_text())


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    app.run(main)
