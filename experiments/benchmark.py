"""Times a training step, ordinary and reweighted, here and in PyTorch, side by side in one run.

python -m experiments.benchmark --output=results/benchmark-cpu --minutes=15

Every implementation takes the same batches from the same parameters; they are timed in turn, round
by round, so that a busy moment of the machine meets all of them. What fails or does not fit into
the time is a row that says so. Writes OUTPUT.json, OUTPUT.md and OUTPUT.png.
"""

import functools
import gc
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging

from experiments.torch_baseline import report
from experiments.torch_baseline.setting import examples, settings
from l2rw_jax import losses, reweighted_value_and_grad
from l2rw_jax.methods import baseline
from l2rw_jax.models import create_model
from l2rw_jax.training import workdir as files
from l2rw_jax.training.state import kernels

MODELS = flags.DEFINE_list("models", None, "Only the settings of these models.")
REPEATS = flags.DEFINE_integer("repeats", 20, "Most timed steps an implementation.", lower_bound=1)
MINUTES = flags.DEFINE_float("minutes", 15.0, "Time to spend in all, about.")
DEVICE = flags.DEFINE_enum("device", "auto", ["auto", "cpu", "gpu"], "Where to compute.")
PRECISIONS = flags.DEFINE_list("precisions", ["float32"], "float32, tf32 (GPU), bfloat16.")
SWEEP = flags.DEFINE_bool("sweep", False, "Also ResNet-32 with b = m from 25 to 1600.")
SMOKE = flags.DEFINE_bool("smoke", False, "Tiny networks: only whether all of it works.")
ONLY = flags.DEFINE_list("only", None, "Only these implementations; ours is all of ours.")
OUTPUT = flags.DEFINE_string(
    "output", None, "Start of the names of what is written; results/benchmark-DEVICE by default."
)

TORCH_FORMS = ("create_graph", "forward_ad_shared", "forward_ad_separate", "higher", "torchopt")


class Prepared(NamedTuple):
    """An implementation that is ready to be timed.

    Attributes:
      step: takes one synchronised step and returns its loss.
      measure_memory: returns fields of the row; None where there is no way to measure.
      analysis: fields that the compiler knows.
    """

    step: Callable[[], float]
    measure_memory: Callable[[], dict] | None = None
    analysis: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to


def makers(device):
    """``{name: make}`` of all implementations, those that matter most first.

    ``make(setting)`` returns a ``Prepared``.
    """

    def torch(form, **options):
        return functools.partial(prepare_torch, device=device, form=form, **options)

    made: dict = {
        "ours plain": functools.partial(prepare_ours, method="plain"),
        "ours l2rw forward": functools.partial(prepare_ours, method="forward"),
    }
    made |= {f"torch {form}": torch(form) for form in ("plain", *TORCH_FORMS)}
    made["ours l2rw reverse"] = functools.partial(prepare_ours, method="reverse")
    for form in ("plain", "forward_ad_shared", "create_graph"):
        made[f"torch {form}, compiled"] = torch(form, compiled=True)
    if device == "gpu":
        for form in ("plain", "forward_ad_separate", "create_graph"):
            made[f"torch {form}, CUDA graph"] = torch(form, graph=True)
        made["torch forward_ad_shared, compiled, CUDA graph"] = torch(
            "forward_ad_shared", compiled=True, graph=True
        )
    return made


def prepare_ours(setting, method):
    """One compiled step, plain or l2rw in mode ``forward`` or ``reverse``; donates its state."""
    if setting.precision == "tf32" and jax.default_backend() == "cpu":
        raise ValueError("tf32 needs a GPU")
    model, params, model_state = initial(setting)
    images, labels, clean_images, clean_labels = map(jnp.asarray, examples(setting))
    batch, clean = {"x": images, "y": labels}, {"x": clean_images, "y": clean_labels}
    tx = optax.chain(
        optax.add_decayed_weights(setting.weight_decay, mask=kernels),
        optax.sgd(setting.rate, setting.momentum),
    )

    def step(state, batch, clean):
        params, model_state, opt_state, key = state
        key, dropout_key = jax.random.split(key)

        def losses_fn(params, batch):
            logits, new_state = model.apply(
                params, model_state, batch["x"], train=True, rng=dropout_key
            )
            return losses.cross_entropy(logits, batch["y"]), new_state

        if method == "plain":
            value_and_grad = baseline(losses_fn, rng=key)
        else:
            value_and_grad = reweighted_value_and_grad(
                losses_fn, lambda *args: losses_fn(*args)[0].mean(), has_aux=True, mode=method
            )
        (loss, aux), grads = value_and_grad(params, batch, clean)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), aux.aux, opt_state, key), loss

    state = (params, model_state, tx.init(params), jax.random.key(0))
    # Without this, JAX computes float32 products in TF32 on a GPU.
    exact = {"float32": "highest", "tf32": "tensorfloat32"}.get(setting.precision)
    with jax.default_matmul_precision(exact):
        compiled = jax.jit(step, donate_argnums=0).lower(state, batch, clean).compile()

    def run():
        nonlocal state
        state, loss = jax.block_until_ready(compiled(state, batch, clean))
        return float(loss)

    memory = getattr(compiled.memory_analysis(), "temp_size_in_bytes", None)
    flops = (compiled.cost_analysis() or {}).get("flops")
    analysis = {"memory_bytes": memory, "memory_kind": "XLA's temporaries", "flops": flops}
    return Prepared(run, analysis=analysis)


def prepare_torch(setting, device, form, **options):
    """The same step by PyTorch, from the same parameters on the same batches."""
    from experiments.torch_baseline import prepare  # only now: without PyTorch this is a row

    _, params, model_state = initial(setting)
    kind = "cuda" if device == "gpu" else "cpu"
    return Prepared(
        *prepare.prepare(setting, kind, form, params, model_state, examples(setting), **options)
    )


def initial(setting):
    """The model, and its parameters and running moments before the first step."""
    model = create_model(
        setting.model,
        num_classes=setting.num_classes,
        image_shape=setting.image_shape,
        dtype="bfloat16" if setting.precision == "bfloat16" else "float32",
        dropout=setting.dropout,
    )
    return model, *jax.jit(model.init)(jax.random.key(0))


def measure(setting, makers, *, repeats, seconds):
    """Rows of one setting, one for each implementation.

    Args:
      setting: the ``Setting``.
      makers: as ``makers`` returns them.
      repeats: most timed steps of each.
      seconds: time to spend; no implementation is prepared after 0.6 of it, none timed
        after 0.8.

    Returns:
      Dicts; those of implementations that did not run have ``error`` and no figures.
    """
    started = time.perf_counter()
    rows: dict = {}
    prepared: dict = {}
    times: dict = {}
    for name, make in makers.items():
        rows[name] = setting._asdict() | {"implementation": name, "error": None}
        if time.perf_counter() - started > 0.6 * seconds and prepared:
            rows[name]["error"] = "not run: out of time (--minutes)"
            continue
        before = time.perf_counter()
        try:
            ready = make(setting)
            rows[name]["first_loss"] = ready.step()
            rows[name]["compile_seconds"] = time.perf_counter() - before
            ready.step()  # warm
        except Exception as error:
            rows[name]["error"] = _one_line(error)
            continue
        rows[name] |= ready.analysis
        prepared[name], times[name] = ready, []
    for _ in range(repeats):
        for name in list(prepared):
            before = time.perf_counter()
            try:
                prepared[name].step()
            except Exception as error:
                rows[name]["error"] = _one_line(error)
                del prepared[name], times[name]
                continue
            times[name].append(time.perf_counter() - before)
        if time.perf_counter() - started > 0.8 * seconds:
            break
    for name, ready in prepared.items():
        quartiles = np.percentile(1e3 * np.array(times[name]), [25, 50, 75])
        rows[name] |= dict(zip(("q1_ms", "median_ms", "q3_ms"), quartiles.tolist(), strict=True))
        rows[name]["repeats"] = len(times[name])
        if ready.measure_memory:  # after the timing, which it would disturb
            rows[name] |= _measure_memory(ready, time.perf_counter() - started < seconds)
    return report.add_ratios(list(rows.values()))


def _measure_memory(ready, in_time):
    """The memory's fields; where there is no figure they say why."""
    if not in_time:
        return {"memory_kind": "not measured: out of time (--minutes)"}
    try:
        return ready.measure_memory()
    except Exception as error:
        return {"memory_kind": _one_line(error)}


def _one_line(error):
    """The kind of an error and its first line."""
    text = str(error).strip() or "no message"
    return f"{type(error).__name__}: {text.splitlines()[0]}"[:300]


def environment():
    """The device and the versions on both sides."""
    about = files.environment()
    try:
        from experiments.torch_baseline import prepare
    except ImportError as error:  # its rows say so too
        return about | {"torch": _one_line(error)}
    return about | {"versions": about["versions"] | prepare.versions()}


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
    about = {"command": command, **environment()}
    end = time.perf_counter() + 60 * MINUTES.value
    made = makers(device)
    if ONLY.value:
        made = {n: make for n, make in made.items() if {n, n.split()[0]} & set(ONLY.value)}
    rows: list = []
    for left, setting in zip(range(len(chosen), 0, -1), chosen, strict=True):
        seconds = (end - time.perf_counter()) / left
        rows += measure(setting, made, repeats=REPEATS.value, seconds=seconds)
        _release()
        files.write_json(f"{output}.json", about | {"rows": rows})
        table = report.markdown_table(rows)
        Path(f"{output}.md").write_text(table + "\n")
        report.plot(rows, f"{output}.png", title=about["device"])
    print(table)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    app.run(main)
