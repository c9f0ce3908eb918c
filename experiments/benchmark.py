"""Times a training step, ordinary and reweighted, here and in PyTorch, side by side in one run.

python -m experiments.benchmark --output=results/benchmark-cpu --minutes=15

Every implementation takes the same batches from the same parameters; they are timed in turn, round
by round, so that a busy moment of the machine meets all of them. What fails or does not fit into
the time is a row that says so. Writes OUTPUT.json, OUTPUT.md and OUTPUT.png; with --sweep also
OUTPUT-growth.png, the step time over b.
"""

import gc
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

import jax
from absl import app, flags, logging

from experiments import timing, tried
from experiments.torch_baseline import report
from experiments.torch_baseline.setting import settings
from l2rw_jax.training import workdir as files

MODELS = flags.DEFINE_list("models", None, "Only the settings of these models.")
REPEATS = flags.DEFINE_integer("repeats", 20, "Most timed steps an implementation.", lower_bound=1)
MINUTES = flags.DEFINE_float("minutes", 15.0, "Time to spend in all, about.")
DEVICE = flags.DEFINE_enum("device", "auto", ["auto", "cpu", "gpu"], "Where to compute.")
PRECISIONS = flags.DEFINE_list("precisions", ["float32"], "float32, tf32 (GPU), bfloat16.")
SWEEP = flags.DEFINE_bool("sweep", False, "Also ResNet-32 with b = m from 25 to 1600.")
SMOKE = flags.DEFINE_bool("smoke", False, "Tiny networks: only whether all of it works.")
PARTS = flags.DEFINE_bool("parts", False, "Parts of our step, and what was tried, instead.")
ONLY = flags.DEFINE_list("only", None, "Only these implementations; ours is all of ours.")
OUTPUT = flags.DEFINE_string(
    "output", None, "Start of the names of what is written; results/benchmark-DEVICE by default."
)


def _release():
    """Frees what the last setting held on the device, and PyTorch's compiled steps."""
    gc.collect()
    if "torch" in sys.modules:
        sys.modules["torch"].compiler.reset()
        sys.modules["torch"].cuda.empty_cache()


def main(_):
    """Runs all settings, and writes after each, so that a run that is cut off leaves its rows."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs some too
    cache = tempfile.TemporaryDirectory()  # an old one would make compiling look free
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache.name
    if DEVICE.value != "auto":
        jax.config.update("jax_platforms", {"cpu": "cpu", "gpu": "cuda"}[DEVICE.value])
    device = "cpu" if jax.default_backend() == "cpu" else "gpu"
    name = jax.devices()[0].device_kind.lower().replace(" ", "-")
    output = OUTPUT.value or f"results/benchmark-{name}"
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    chosen = settings(
        device,
        PRECISIONS.value,
        models=MODELS.value,
        sweep=SWEEP.value,
        smoke=SMOKE.value,
    )
    command = shlex.join(["python", "-m", "experiments.benchmark", *sys.argv[1:]])
    about = {"command": command, **timing.environment()}
    end = time.perf_counter() + 60 * MINUTES.value
    made = tried.makers() if PARTS.value else timing.makers(device)
    if ONLY.value:
        made = {n: make for n, make in made.items() if {n, n.split()[0]} & set(ONLY.value)}
    rows: list = []
    for left, setting in zip(range(len(chosen), 0, -1), chosen, strict=True):
        seconds = (end - time.perf_counter()) / left
        rows += timing.measure(setting, made, repeats=REPEATS.value, seconds=seconds)
        _release()
        files.write_json(f"{output}.json", about | {"rows": rows})
        table = report.markdown_table(rows)
        Path(f"{output}.md").write_text(table + "\n")
        report.plot(rows, f"{output}.png", title=about["device"])
    if SWEEP.value:
        report.plot_growth(rows, f"{output}-growth.png", title=about["device"])
    print(table)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    app.run(main)
