"""What many devices and the trainer's options do to the time of a step.

python -m experiments.scaling --output=results/scaling-cpu --minutes=8

Three tables. Timed here: steps per call, seeds side by side, precision, streams and checkpoints.
The settings of one comparison take turns, round by round, so that a busy moment of the machine
meets all of them; ratios are of turns in the same round. Not timed: on virtual devices, losses are
compared with one device's, and collectives are counted. Modelled, not measured: a step on 1 to 256
accelerators. If a setting fails, its row says why. Writes OUTPUT.json, OUTPUT.md and OUTPUT.png.
"""

import gc
import time
from pathlib import Path

import jax
from absl import flags

from experiments import programs
from experiments.scaling import model, options, report, virtual_devices
from l2rw_jax.training import workdir as files

MINUTES = flags.DEFINE_float("minutes", 8.0, "Time to spend in all, about.")
SMOKE = flags.DEFINE_bool("smoke", False, "Tiny sizes: only whether all of it works.")
OUTPUT = flags.DEFINE_string(
    "output", None, "Start of the names of what is written; results/scaling-DEVICE by default."
)


def main():
    """Models and measures, and writes after each comparison: what is cut off keeps its rows."""
    seconds = programs.seconds(MINUTES.value)
    gpu = programs.platform() == "gpu"
    output = programs.output_of("scaling", OUTPUT.value, "scaling", ".png")
    smoke, rounds = SMOKE.value, {}
    networks, models, counts = model.NETWORKS, ["mlp-256-256", "resnet-8"], [1, 2, 4, 8]
    if smoke:
        networks, models, counts, rounds = ["resnet-8"], ["mlp-8"], [1, 2], {"least": 1, "most": 1}
    content: dict = programs.about("scaling") | {"rows": [], "devices": []}
    content["model"] = model.table(networks)
    report.plot(content["model"]["rows"], f"{output}.png")

    def write():
        files.write_json(f"{output}.json", content)
        files.write_text(f"{output}.md", report.tables(content))

    end = time.perf_counter() + seconds
    content["devices"] = virtual_devices.measure(models, counts)
    write()
    chosen = options.comparisons(gpu=gpu, smoke=smoke)
    for left, ((name, network), makers) in zip(
        range(len(chosen), 0, -1), chosen.items(), strict=True
    ):
        share = (end - time.perf_counter()) / left
        content["rows"] += options.measure(name, network, makers, seconds=share, **rounds)
        gc.collect()  # what the comparison held on the device
        write()
    print(Path(f"{output}.md").read_text())


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed
    programs.run(main)
