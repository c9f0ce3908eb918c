"""How long the plain and the reweighted step take to compile, and how large their programs are.

python -m experiments.benchmark.compile_time --output=results/compile-cpu

The two steps of a model are compiled in turn, round by round, from nothing: no cache is read.
Instructions are those of the program that JAX hands to XLA. The scanned transformers run their
layers by ``jax.lax.scan``. Writes OUTPUT.json and OUTPUT.md.
"""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import programs
from experiments.benchmark.lowered import STEPS, instructions, lower, problem
from l2rw_jax.reports import to_markdown
from l2rw_jax.training import ConfigError
from l2rw_jax.training import workdir as files

ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each step is compiled.", lower_bound=1)
OUTPUT = flags.DEFINE_string(
    "output", None, "Start of the names of what is written; results/compile-DEVICE by default."
)
MODELS = flags.DEFINE_list(
    "models",
    ["mlp-256-256", "resnet-32", "vit-192-6", "scan-192-2", "scan-192-8", "scan-192-24"],
    "Models of the library, and scan-WIDTH-LAYERS, a transformer.",
)


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """A row for each step: instructions, and medians of the seconds over the rounds."""
    shapes = problem(name)
    times: dict[str, list[tuple[float, float]]] = {step: [] for step in STEPS}
    counts = {}
    for _ in range(rounds):
        for step, form in STEPS.items():
            jax.clear_caches()  # of traces too
            started = time.perf_counter()
            lowered = lower(shapes, form)
            between = time.perf_counter()
            lowered.compile()
            times[step].append((between - started, time.perf_counter() - between))
            counts[step] = instructions(lowered)
    rows = []
    for step, seconds in times.items():
        trace, compiling = np.median(seconds, 0).tolist()
        whole = np.sum(seconds, 1)
        row = {"model": name, "step": step, "instructions": counts[step], "rounds": rounds}
        row |= {"trace_seconds": trace, "compile_seconds": compiling}
        rows.append(row | {"least": whole.min(), "most": whole.max(), "error": None})
    ratios = [np.sum(mine) / np.sum(plain) for plain, mine in zip(*times.values(), strict=True)]
    rows[-1]["over_plain"] = float(np.median(ratios))
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = []
    for row in rows:
        cells = [row["model"], row["step"]]
        if row["error"]:
            lines.append([*cells, row["error"], "-", "-", "-", "-"])
            continue
        cells += [f"{row['instructions']:,}", f"{row['trace_seconds']:.2f}"]
        cells += [f"{row['compile_seconds']:.2f}", "{least:.2f}-{most:.2f}".format_map(row)]
        lines.append([*cells, f"{row['over_plain']:.2f}" if "over_plain" in row else "-"])
    titles = ["model", "step", "instructions", "tracing, s", "compiling, s"]
    return to_markdown([*titles, "both, range of the rounds", "times plain"], lines)


def main():
    """Measures model after model, and writes after each."""
    output = programs.output_of("compile", OUTPUT.value)
    content: dict[str, Any] = programs.about("benchmark.compile_time") | {"rows": []}
    for name in MODELS.value:
        try:
            content["rows"] += measure(name, ROUNDS.value)
        except ValueError as error:
            if not name.startswith("vit"):
                raise ConfigError(f"--models={name}: {error}, or scan-WIDTH-LAYERS") from error
            content["rows"].append({"model": name, "step": "-", "error": "no such model"})
        files.write_json(f"{output}.json", content)
        Path(f"{output}.md").write_text(table(content["rows"]) + "\n")
    print(table(content["rows"]))


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed
    programs.run(main)
