"""Measures what the modes and look-ahead masks of the scores cost, and how exact they are.

python -m experiments.benchmark.modes --output=results/modes-cpu     # six minutes on two CPU cores

Error: scores of 100 noisy digits by 100 clean ones, after 30 plain steps, against float64. Cost:
the operations (XLA's count) and temporary memory of a ResNet-32 step, against a plain step. Writes
OUTPUT.json and OUTPUT.md.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from sklearn.datasets import load_digits

from experiments import programs
from l2rw_jax import example_scores, example_weights, l2rw, reweighted_value_and_grad
from l2rw_jax.models import create_model
from l2rw_jax.reports import mean_interval, to_markdown
from l2rw_jax.training import workdir as files

OUTPUT = flags.DEFINE_string("output", "results/modes-cpu", "Start of the files' names.")
SEEDS = flags.DEFINE_integer("seeds", 5, "Seeds of the parameters and of the noise.", 1)
MODEL = flags.DEFINE_string("model", "resnet-32", "The network whose steps are counted.")

Losses = Callable[[Any, dict[str, jax.Array]], jax.Array]
PRECISIONS = {  # the dtypes of parameters and of the computation
    "float32": (jnp.float32, jnp.float32),
    "bfloat16 activations": (jnp.float32, jnp.bfloat16),
    "bfloat16": (jnp.bfloat16, jnp.bfloat16),
}


def attention(dtype: Any) -> Losses:
    """Losses of one transformer block over the rows of an image."""

    def norm(h: jax.Array) -> jax.Array:
        centred = h - h.mean(-1, keepdims=True)
        return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5)

    def losses(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        p = jax.tree.map(lambda x: x.astype(dtype), params)
        h = batch["image"][..., 0].astype(dtype) @ p["in"]
        q, k, v = jnp.split(norm(h) @ p["qkv"], 3, -1)
        pairs = jnp.einsum("btd,bsd->bts", q, k) * h.shape[-1] ** -0.5
        h = h + (jax.nn.softmax(pairs, -1) @ v) @ p["out"]
        h = h + jax.nn.gelu(norm(h) @ p["up"]) @ p["down"]
        logits = (norm(h).mean(1) @ p["logits"]).astype(jnp.promote_types(dtype, jnp.float32))
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])

    return losses


def network(name: str, dtype: Any, shape: tuple[int, ...]) -> tuple[Any, Losses]:
    """A network's ``init(key) -> params`` and its losses in training mode."""
    if name == "attention":
        sizes = {"in": (8, 32), "qkv": (32, 96), "out": (32, 32), "up": (32, 64), "down": (64, 32)}
        sizes["logits"] = (32, 10)

        def init(key: jax.Array) -> Any:
            keys = dict(zip(sizes, jax.random.split(key, len(sizes)), strict=True))
            return {k: jax.random.normal(keys[k], s) / s[0] ** 0.5 for k, s in sizes.items()}

        return init, attention(dtype)
    model = create_model(name, num_classes=10, image_shape=shape, dtype=dtype)  # type: ignore[arg-type]
    _, model_state = model.init(jax.random.key(0))

    def losses(params: Any, batch: dict[str, jax.Array]) -> jax.Array:
        logits, _ = model.apply(params, model_state, batch["image"], train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])

    return lambda key: model.init(key)[0], losses


def scores(losses: Losses, params: Any, batch: Any, clean: Any, mode: str) -> np.ndarray:
    """The scores ``[b]`` in float64."""
    values = jax.jit(
        lambda params: example_scores(
            lambda p: losses(p, batch), lambda p: losses(p, clean).mean(), params, mode=mode
        )
    )(params)
    return np.asarray(values, np.float64)


def errors(name: str, seed: int) -> list[dict[str, Any]]:
    """The errors of forward mode and of finite differences, for each precision."""
    digits = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digits.target))
    image, label = digits.images[order, ..., None] / 16, digits.target[order]
    noisy = np.where(rng.random(len(label)) < 0.4, rng.integers(0, 10, len(label)), label)

    def rows(start: int, count: int, labels: np.ndarray, dtype: Any) -> dict[str, jax.Array]:
        part = slice(start, start + count)
        return {"image": jnp.asarray(image[part], dtype), "label": jnp.asarray(labels[part])}

    init, losses = network(name, jnp.float32, (8, 8, 1))
    params = jax.tree.map(lambda x: x.astype(jnp.float32), init(jax.random.key(seed)))

    @jax.jit
    def step(params: Any, batch: Any) -> Any:
        grads = jax.grad(lambda p: losses(p, batch).mean())(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    for i in range(30):
        params = step(params, rows(50 * i, 50, noisy, jnp.float32))

    def at(dtypes: tuple[Any, Any], mode: str) -> np.ndarray:
        stored, computed = dtypes
        _, losses = network(name, computed, (8, 8, 1))
        data = jnp.promote_types(computed, jnp.float32)
        cast = jax.tree.map(lambda x: x.astype(stored), params)
        batch, clean = rows(1500, 100, noisy, data), rows(1600, 100, label, data)
        return scores(losses, cast, batch, clean, mode)

    exact = at((jnp.float64, jnp.float64), "forward")
    right = np.asarray(example_weights(exact))
    found = []
    for precision, dtypes in PRECISIONS.items():
        for mode in ("forward", "finite_difference"):
            got = at(dtypes, mode)
            found.append(
                {
                    "network": name,
                    "precision": precision,
                    "mode": mode,
                    "seed": seed,
                    "score_error": float(np.max(np.abs(got - exact)) / np.max(np.abs(exact))),
                    "weight_moved": float(np.abs(example_weights(got) - right).sum() / 2),
                    "changed_sign": int(np.sum((got > 0) != (exact > 0))),
                }
            )
    return found


def costs(name: str, m: int) -> list[dict[str, Any]]:
    """Operations and memory of a step on 100 examples, as multiples of a plain step's."""
    shape, tx = (32, 32, 3), optax.sgd(0.1, momentum=0.9)
    init, losses = network(name, jnp.float32, shape)
    params = jax.eval_shape(init, jax.random.key(0))

    def head(params: Any) -> Any:
        return {key: key == "output" for key in params}

    def compiled(**options: Any) -> Any:
        def step(params: Any, state: Any, batch: Any, clean: Any) -> Any:
            if options:
                fn = reweighted_value_and_grad(losses, losses, weighting=l2rw(**options))
                _, grads = fn(params, batch, clean)
            else:
                grads = jax.grad(lambda p: losses(p, batch).mean())(params)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        def examples(n: int) -> dict[str, jax.ShapeDtypeStruct]:
            image = jax.ShapeDtypeStruct((n, *shape), jnp.float32)
            return {"image": image, "label": jax.ShapeDtypeStruct((n,), jnp.int32)}

        state = jax.eval_shape(tx.init, params)
        return jax.jit(step).lower(params, state, examples(100), examples(m)).compile()

    def both(program: Any) -> tuple[float, int]:
        return program.cost_analysis()["flops"], program.memory_analysis().temp_size_in_bytes

    flops, memory = both(compiled())
    found = []
    for mode in ("forward", "finite_difference", "reverse"):
        for moves, mask in (("all", None), ("head", head)):
            more, held = both(compiled(mode=mode, mask=mask))
            row = {"network": name, "m": m, "mode": mode, "moves": moves}
            found.append(row | {"operations": more / flops, "memory": held / memory})
    return found


def table(content: dict[str, Any]) -> str:
    """Both tables in Markdown."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in content["errors"]:
        groups.setdefault((row["network"], row["precision"], row["mode"]), []).append(row)
    exact = []
    for names, rows in groups.items():
        score, _ = mean_interval([row["score_error"] for row in rows])
        moved, _ = mean_interval([row["weight_moved"] for row in rows])
        changed, half = mean_interval([row["changed_sign"] for row in rows])
        sign = f"{changed:.1f}" if half is None else f"{changed:.1f} ± {half:.1f}"
        exact.append([*names, f"{score:.1e}", f"{moved:.1e}", sign])
    header = ["network", "precision", "mode", "largest error of a score", "weight moved"]
    costs = [
        [
            r["network"],
            r["m"],
            r["mode"],
            r["moves"],
            f"{r['operations']:.2f}",
            f"{r['memory']:.2f}",
        ]
        for r in content["costs"]
    ]
    return (
        to_markdown([*header, "changed sign"], exact)
        + "\n\n"
        + to_markdown(["network", "m", "mode", "moves", "operations", "memory"], costs)
        + "\n"
    )


def main() -> None:
    """Measures, and writes the two files."""
    programs.check_models("--model", [MODEL.value])
    programs.prepare_output("benchmark.modes", OUTPUT.value)
    content: dict[str, Any] = programs.about("benchmark.modes")
    content["costs"] = [row for m in (100, 10) for row in costs(MODEL.value, m)]
    with jax.enable_x64(True):
        content["errors"] = [
            row
            for name in ("mlp-256-256", "resnet-8", "attention")
            for seed in range(SEEDS.value)
            for row in errors(name, seed)
        ]
    files.write_json(f"{OUTPUT.value}.json", content)
    files.write_text(f"{OUTPUT.value}.md", table(content))
    print(table(content))


if __name__ == "__main__":
    programs.run(main)
