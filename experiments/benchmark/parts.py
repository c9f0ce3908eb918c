"""Times the parts of a transformer's plain training step, by leaving them out one by one.

python -m experiments.benchmark.parts --output=results/parts-vit-cpu --minutes=4

A row is the step without a part, and what it saves is what the part costs. The rows take turns,
with PyTorch's plain step among them where it is installed. Writes OUTPUT.json and OUTPUT.md.
"""

import contextlib
from pathlib import Path
from unittest import mock

from absl import flags

from experiments import programs
from experiments.benchmark import implementations, ours, timing
from experiments.benchmark.setting import VIT
from l2rw_jax.models import vit
from l2rw_jax.reports import to_markdown
from l2rw_jax.training import workdir as files

OUTPUT = flags.DEFINE_string("output", "results/parts-vit-cpu", "Start of the files' names.")
MINUTES = flags.DEFINE_float("minutes", 4.0, "Time to spend in all, about.")


def _values(block, qkv):
    """In attention's place: the values as they are."""
    return qkv[:, 2 * block.width :]


LEFT_OUT = {  # what stands in the parts' place
    "attention": (vit._Block, "attend", _values),
    "layer norm": (
        vit._LayerNorm,
        "__call__",
        lambda norm, x: x * norm.scale[...] + norm.bias[...],
    ),
    "GELU": (vit.nnx, "gelu", lambda x: x),
}


def without(parts):
    """``make() -> timing.Ready`` of the plain step that lacks these parts."""

    def make():
        with contextlib.ExitStack() as stack:
            for part in parts:
                stack.enter_context(mock.patch.object(*LEFT_OUT[part]))
            return implementations.prepare(lambda setting: ours.prepare(setting, "plain"), VIT)

    return make


def main():
    """Measures, and writes the two files."""
    seconds = programs.seconds(MINUTES.value)
    programs.prepare_output(OUTPUT.value)
    makers = {"the whole step": without([])}
    torch = implementations.makers(programs.platform())["torch plain"]
    makers["PyTorch, the whole step"] = lambda: torch(VIT)
    makers |= {f"without {part}": without([part]) for part in LEFT_OUT}
    makers["matrix products, additions and update"] = without(LEFT_OUT)
    rows, _ = timing.measure(makers, seconds=seconds)
    found = [{"implementation": name} | row for name, row in rows.items()]
    about = implementations.about() | {"command": programs.about("benchmark.parts")["command"]}
    files.write_json(f"{OUTPUT.value}.json", about | {"setting": VIT._asdict(), "rows": found})
    lines = [
        [row["implementation"], row["error"] or f"{row['median_ms']:.0f}", row.get("rounds", "-")]
        for row in found
    ]
    table = to_markdown([f"{VIT.model}, b = {VIT.batch}", "step ms", "rounds"], lines)
    Path(f"{OUTPUT.value}.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    programs.run(main)
