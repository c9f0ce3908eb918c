"""A model of a reweighted step on 1 to 256 devices: arithmetic, not measured.

python -m experiments.scaling --output=results/scaling

It adds this machine's steps from the benchmark's JSON file, and measures the rate of a matrix
product as its peak. Writes OUTPUT.json, OUTPUT.md and OUTPUT.png.
"""

import itertools
import json
from pathlib import Path

from absl import flags

from experiments import programs
from experiments.scaling import model, report
from l2rw_jax.training import ConfigError
from l2rw_jax.training import workdir as files

OUTPUT = flags.DEFINE_string("output", "results/scaling", "Start of the names of what is written.")
BENCHMARK = flags.DEFINE_string("benchmark", "results/benchmark-cpu.json", "Measured steps.")

SHOWN = (1, 8, 64, 256)  # devices in the table; the JSON file has all


def main():
    """Writes the JSON file, the tables and the figure."""
    steps = read_steps(BENCHMARK.value)
    programs.prepare_output("scaling", OUTPUT.value, ".png")
    networks = {name: model.network(name) for name in ("resnet-32", "wrn-28-10")}
    settings = itertools.product(networks.items(), model.HARDWARE, model.DEVICES)
    rows = [model.modelled_row(name, size, kind, n) for (name, size), kind, n in settings]
    peak = report.matmul_gigaflop_per_second()
    measured = [model.measured_row(step, peak) for step in steps]
    hardware = {k: h._replace(tiers=h.tiers(256))._asdict() for k, h in model.HARDWARE.items()}
    content = programs.about("scaling") | {
        "hardware": hardware,
        "assumed_shares": model.SHARE,
        "networks": {name: size._asdict() for name, size in networks.items()},
        "rows": rows,
        "matmul_gigaflop_per_second": peak,
        "measured": measured,
    }
    files.write_json(f"{OUTPUT.value}.json", content)
    shown = [row for row in rows if row["devices"] in SHOWN]
    tables = [report.table(shown, report.MODELLED), report.table(measured, report.MEASURED)]
    text = "\n\n".join(tables) + "\n"
    files.write_text(f"{OUTPUT.value}.md", text)
    title = f"A model, not measured: {model.BATCH} examples a device"
    report.plot(rows, f"{OUTPUT.value}.png", title=title)
    print(text)


def read_steps(path):
    """The benchmark's rows of our steps that ran."""
    try:
        rows = json.loads(Path(path).read_text())["rows"]
        steps = [
            row
            for row in rows
            if row["implementation"] in model.CLEAN_AND_TRAIN and not row["error"] and row["flops"]
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"--benchmark: got {path}; takes the JSON file of experiments.benchmark ({reason})."
        ) from error
    if not steps:
        raise ConfigError(f"--benchmark: got {path}; takes one that has a step of ours.")
    return steps


if __name__ == "__main__":
    programs.run(main)
