"""How long the plain and the reweighted step take to compile, and how large their programs are.

python -m experiments.benchmark.compile_time --output=results/compile-cpu

The two steps of a model are compiled in turn, round by round, from nothing: no cache is read.
Instructions are those of the program that JAX hands to XLA; processor seconds are of all threads,
tracing included, and say more than the clock where the machine is busy. Beyond 12 layers a ViT is
a loop over its layers: the program of 24 layers is as large as that of 16. Writes OUTPUT.json and
OUTPUT.md.
"""

import time
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import programs
from experiments.benchmark.lowered import STEPS, instructions, lower, problem
from l2rw_jax.reports import to_markdown
from l2rw_jax.training import workdir as files

ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each step is compiled.", lower_bound=1)
OUTPUT = flags.DEFINE_string(
    "output", None, "Start of the names of what is written; results/compile-DEVICE by default."
)
MODELS = flags.DEFINE_list(
    "models",
    ["mlp-256-256", "resnet-32", "vit-192-6", "vit-192-16", "vit-192-24"],
    "Models, each once.",
)


def measure(name: str, rounds: int) -> list[dict[str, Any]]:
    """A row for each step: instructions, and medians of the seconds over the rounds."""
    shapes = problem(name)
    times: dict[str, list[tuple[float, float, float]]] = {step: [] for step in STEPS}
    counts = {}
    for _ in range(rounds):
        for step, form in STEPS.items():
            jax.clear_caches()  # of traces too
            started, processor = time.perf_counter(), time.process_time()
            lowered = lower(shapes, form)
            between = time.perf_counter()
            lowered.compile()
            end, processor = time.perf_counter(), time.process_time() - processor
            times[step].append((between - started, end - between, processor))
            counts[step] = instructions(lowered)
    rows = []
    for step, seconds in times.items():
        trace, compiling, processor = np.median(seconds, 0).tolist()
        row = {"model": name, "step": step, "instructions": counts[step], "rounds": rounds}
        row |= {"trace_seconds": trace, "compile_seconds": compiling}
        rows.append(row | {"processor_seconds": processor})
    plain, mine = (np.array(times[step]) for step in STEPS)
    rows[-1]["over_plain"] = float(np.median(mine[:, :2].sum(1) / plain[:, :2].sum(1)))
    rows[-1]["processor_over_plain"] = float(np.median(mine[:, 2] / plain[:, 2]))
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    titles = ["model", "step", "instructions", "tracing, s", "compiling, s", "processor, s"]
    titles += ["times plain", "by processor"]
    lines = []
    for row in rows:
        cells = [row["model"], row["step"], f"{row['instructions']:,}"]
        cells += [f"{row[f'{part}_seconds']:.2f}" for part in ("trace", "compile", "processor")]
        ratios = ("over_plain", "processor_over_plain")
        lines.append([*cells, *(f"{row[name]:.2f}" if name in row else "-" for name in ratios)])
    return to_markdown(titles, lines)


def main():
    """Measures model after model, and writes after each."""
    programs.check_models("--models", MODELS.value)
    output = programs.output_of("benchmark.compile_time", OUTPUT.value, "compile")
    content: dict[str, Any] = programs.about("benchmark.compile_time") | {"rows": []}
    for name in MODELS.value:
        content["rows"] += measure(name, ROUNDS.value)
        files.write_json(f"{output}.json", content)
        files.write_text(f"{output}.md", table(content["rows"]) + "\n")
    print(table(content["rows"]))


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed
    programs.run(main)
