"""Times a training step, ordinary and reweighted, here and in PyTorch, side by side in one run.

python -m experiments.benchmark --output=results/benchmark-cpu --minutes=19.5

Every implementation takes the same batches from the same parameters; they are timed in turn, round
by round, so that a busy moment of the machine meets all of them. If an implementation fails or runs
out of time, its row says why. Writes OUTPUT.json, OUTPUT.md and, if both frameworks ran,
OUTPUT.png.
"""

import gc
import os
import sys
import tempfile
import time

import jax
from absl import flags

from experiments import programs
from experiments.benchmark import implementations, report
from experiments.benchmark.setting import PRECISIONS, relative_time, settings
from l2rw_jax.training import workdir as files

MODELS = flags.DEFINE_list("models", None, "Only the settings of these models.")
REPEATS = flags.DEFINE_integer(
    "repeats", 100, "Most timed turns of each: a step, or 0.05 s of quick ones.", lower_bound=1
)
MINUTES = flags.DEFINE_float("minutes", 19.5, "Time to spend in all, about.")
DEVICE = flags.DEFINE_enum("device", "auto", ["auto", "cpu", "gpu"], "Where to compute.")
PRECISION = flags.DEFINE_list("precisions", ["float32"], "float32, tf32 (GPU), bfloat16.")
SMOKE = flags.DEFINE_bool("smoke", False, "A tiny network: only whether it all works.")
ONLY = flags.DEFINE_list(
    "only",
    None,
    "These implementations; ours or torch means all of that framework's. By default all on a GPU, "
    "and on a CPU, where torch.compile takes minutes, those of the table of ratios.",
)
OUTPUT = flags.DEFINE_string(
    "output", None, "Start of the names of what is written; results/benchmark-DEVICE by default."
)


def main():
    """Runs all settings, and writes after each, so that a run that is cut off leaves its rows."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs some too
    cache = tempfile.TemporaryDirectory()  # an old one would make compiling look free
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache.name
    seconds = programs.seconds(MINUTES.value)
    device = programs.platform(DEVICE.value)
    chosen, makers = choose_settings(device), choose_makers(device)
    output = programs.output_of("benchmark", OUTPUT.value, "benchmark", ".png", "-growth.png")
    about = implementations.about()
    rows: list = []
    end = time.perf_counter() + seconds
    times = [relative_time(setting) for setting in chosen]
    for place, setting in enumerate(chosen):
        share = (end - time.perf_counter()) * times[place] / sum(times[place:])
        rows += implementations.measure(
            setting, makers, repeats=REPEATS.value, seconds=share, memory=not SMOKE.value
        )
        _release()
        files.write_json(f"{output}.json", about | {"rows": rows})
        table = f"{report.ratio_table(rows)}\n\n{report.table(rows)}"
        files.write_text(f"{output}.md", table + "\n")
        report.plot(rows, f"{output}.png", title=about["device"])
    print(table)


def choose_settings(device):
    """The settings that the flags ask for."""
    precisions = programs.choose("--precisions", PRECISION.value, PRECISIONS[device])
    every = settings(device, precisions, smoke=SMOKE.value)
    known = dict.fromkeys(setting.model for setting in every)
    models = programs.choose("--models", MODELS.value, known)
    return [setting for setting in every if setting.model in models]


def choose_makers(device):
    """The implementations that the flags ask for."""
    made = implementations.makers(device)
    sides = dict.fromkeys(name.split()[0] for name in made)
    asked = ONLY.value
    if asked is None:
        asked = report.IN_TABLE if device == "cpu" else list(made)
    only = programs.choose("--only", asked, [*sides, *made])
    return {name: make for name, make in made.items() if {name, name.split()[0]} & set(only)}


def _release():
    """Frees what the last setting held on the device, and compiled steps."""
    gc.collect()
    if "torch" in sys.modules:
        sys.modules["torch"].compiler.reset()
        sys.modules["torch"].cuda.empty_cache()


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)  # as above
    programs.run(main)
