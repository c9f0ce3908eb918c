"""Times the trainer's compiled calls: steps a call, replicas, precision, streams, checkpoints.

python -m experiments.scaling.throughput --output=results/throughput-cpu --minutes=8

The settings of one comparison take turns, round by round, so that a busy moment of the machine
meets all of them; ratios are of turns in the same round. On virtual devices nothing is timed: their
losses are compared with one device's, and their collectives are counted. If a setting fails, its
row says why. Writes OUTPUT.json and OUTPUT.md.
"""

import gc
import time
from pathlib import Path

import jax
from absl import flags

from experiments import programs
from experiments.scaling import comparisons, exchange
from experiments.scaling.throughput_report import table
from l2rw_jax.training import workdir as files

MINUTES = flags.DEFINE_float("minutes", 8.0, "Time to spend in all, about.")
SMOKE = flags.DEFINE_bool("smoke", False, "Tiny sizes: only whether all of it works.")
OUTPUT = flags.DEFINE_string(
    "output", None, "Start of the names of what is written; results/throughput-DEVICE by default."
)


def main():
    """Runs all comparisons, and writes after each, so that an interrupted run keeps its rows."""
    seconds = programs.seconds(MINUTES.value)
    gpu = programs.platform() == "gpu"
    output = programs.output_of("scaling.throughput", OUTPUT.value, "throughput")
    content: dict = programs.about("scaling.throughput") | {"rows": [], "devices": []}

    def write():
        files.write_json(f"{output}.json", content)
        files.write_text(f"{output}.md", table(content["rows"], content["devices"]))

    end = time.perf_counter() + seconds
    rounds = {"least": 1, "most": 1} if SMOKE.value else {}
    models = ["mlp-8"] if SMOKE.value else ["mlp-256-256", "resnet-8"]
    counts = (1, 2) if SMOKE.value else (1, 2, 4, 8)
    content["devices"] = exchange.measure(models, counts)
    write()
    chosen = comparisons.comparisons(gpu=gpu, smoke=SMOKE.value)
    for left, ((name, model), makers) in zip(
        range(len(chosen), 0, -1), chosen.items(), strict=True
    ):
        share = (end - time.perf_counter()) / left
        content["rows"] += comparisons.measure(name, model, makers, seconds=share, **rounds)
        gc.collect()  # what the comparison held on the device
        write()
    print(Path(f"{output}.md").read_text())


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed
    programs.run(main)
