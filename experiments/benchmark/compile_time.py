"""How long the plain and the reweighted step take to compile, and how large their programs are.

python -m experiments.benchmark.compile_time --output=results/compile-cpu

The two steps of a model are compiled in turn, round by round, from nothing: no cache is read.
Instructions are those of the program that JAX hands to XLA. The scanned transformers run their
layers by ``jax.lax.scan``. Writes OUTPUT.json and OUTPUT.md.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import programs
from experiments.benchmark import ours
from experiments.benchmark.setting import Setting
from l2rw_jax import losses
from l2rw_jax.models import create_model
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

STEPS: dict[str, Callable[..., Any]] = {"plain": ours.plain, "l2rw": ours.forward}
CLASSES, TOKENS, PATCH = 10, 64, 48  # 32x32x3 in patches of 4x4


class Problem(NamedTuple):
    """What is compiled: ``losses_fn(params, batch) -> (losses [b], state)`` and shapes alone."""

    losses_fn: Callable[..., Any]
    params: Any
    batch: Any


def problem(name: str, batch: int = 100) -> Problem:
    """The problem of a model's name, on ``batch`` images of CIFAR-10's shape."""
    label = jax.ShapeDtypeStruct((batch,), jnp.int32)
    if match := re.fullmatch(r"scan-([1-9]\d*)-([1-9]\d*)", name):
        width, layers = map(int, match.groups())
        patches = jax.ShapeDtypeStruct((batch, TOKENS, PATCH), jnp.float32)
        return Problem(
            lambda params, x: (losses.cross_entropy(transformer(params, x["x"]), x["y"]), ()),
            transformer_params(width, layers),
            {"x": patches, "y": label},
        )
    setting = Setting(name, (32, 32, 3), CLASSES, batch, batch)
    model = create_model(name, num_classes=CLASSES, image_shape=setting.image_shape)
    params, state = jax.eval_shape(model.init, jax.random.key(0))

    def losses_fn(params, batch):
        fixed = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), state)
        logits, new_state = model.apply(params, fixed, batch["x"], train=True)
        return losses.cross_entropy(logits, batch["y"]), new_state

    images = jax.ShapeDtypeStruct((batch, *setting.image_shape), jnp.float32)
    return Problem(losses_fn, params, {"x": images, "y": label})


def transformer_params(width: int, layers: int) -> Any:
    """Shapes of the parameters of ``transformer``, the layers' stacked."""
    shapes = {
        "embed": (PATCH, width),
        "blocks": {
            "attention": (layers, width, 3 * width),
            "project": (layers, width, width),
            "up": (layers, width, 4 * width),
            "down": (layers, 4 * width, width),
        },
        "head": (width, CLASSES),
    }
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def transformer(params: Any, patches: jax.Array) -> jax.Array:
    """Logits ``[b, CLASSES]`` of patches ``[b, TOKENS, PATCH]``: pre-norm blocks, in a scan."""
    normalize = jax.nn.standardize

    def block(x: jax.Array, weights: Any) -> tuple[jax.Array, None]:
        query, key, value = jnp.split(normalize(x) @ weights["attention"], 3, axis=-1)
        similarities = query @ key.swapaxes(1, 2) / x.shape[-1] ** 0.5
        x = x + jax.nn.softmax(similarities) @ value @ weights["project"]
        return x + jax.nn.gelu(normalize(x) @ weights["up"]) @ weights["down"], None

    x, _ = jax.lax.scan(block, patches @ params["embed"], params["blocks"])
    return normalize(x).mean(1) @ params["head"]


def lower(problem: Problem, form: Callable[..., Any]) -> Any:
    """The lowered step: the gradient that ``form`` makes, and gradient descent."""
    gradient = form(problem.losses_fn)

    def step(params, batch, clean):
        (loss, state), grads = gradient(params, batch, clean)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), state, loss

    return jax.jit(step, donate_argnums=0).lower(problem.params, problem.batch, problem.batch)


def instructions(lowered: Any) -> int:
    """How many instructions a lowered program has."""
    return lowered.as_text().count(" = ")


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
