"""The benchmark's implementations, and how they are timed in turn."""

import functools
import time

import numpy as np

from experiments import ours
from experiments.torch_baseline import report
from experiments.torch_baseline.setting import examples
from l2rw_jax.training import workdir as files

LEAST = 5  # timed steps that quartiles need


def makers(device):
    """``{name: make}`` of all implementations, those that matter most first.

    ``make(setting)`` returns an ``ours.Prepared``.
    """

    def torch(form, **options):
        return functools.partial(prepare_torch, device=device, form=form, **options)

    made: dict = {
        "ours plain": functools.partial(ours.prepare, form=ours.plain),
        "ours l2rw forward": functools.partial(ours.prepare, form=ours.forward),
        "torch plain": torch("plain"),
        "torch create_graph": torch("create_graph"),
        "torch forward_ad_separate": torch("forward_ad_separate"),
        "ours l2rw reverse": functools.partial(ours.prepare, form=ours.reverse),
    }
    made |= {f"torch {form}": torch(form) for form in ("forward_ad_shared", "higher", "torchopt")}
    for form in ("plain", "forward_ad_shared", "create_graph"):
        made[f"torch {form}, compiled"] = torch(form, compiled=True)
    if device == "gpu":
        for form in ("plain", "forward_ad_separate", "create_graph"):
            made[f"torch {form}, CUDA graph"] = torch(form, graph=True)
        made["torch forward_ad_shared, compiled, CUDA graph"] = torch(
            "forward_ad_shared", compiled=True, graph=True
        )
    return made


def prepare_torch(setting, device, form, **options):
    """The same step by PyTorch, from the same parameters on the same batches."""
    from experiments.torch_baseline import prepare  # only now: without PyTorch this is a row

    _, params, model_state = ours.initial(setting)
    kind = "cuda" if device == "gpu" else "cpu"
    return ours.Prepared(
        *prepare.prepare(setting, kind, form, params, model_state, examples(setting), **options)
    )


def measure(setting, makers, *, repeats, seconds):
    """Rows of one setting, one for each implementation.

    Args:
      setting: the ``Setting``.
      makers: as ``makers`` returns them.
      repeats: most timed steps of each.
      seconds: time to spend, about. The last 0.3 of it is for memory: nothing more is prepared
        once ``LEAST`` rounds of what is prepared would reach into that, and no more than those
        rounds are timed in it.

    Returns:
      Dicts; those of implementations that did not run have ``error`` and no figures.
    """
    started = time.perf_counter()
    end = started + 0.7 * seconds
    rows: dict = {}
    prepared: dict = {}
    times: dict = {}
    one_round = 0.0
    for name, make in makers.items():
        rows[name] = setting._asdict() | {"implementation": name, "error": None}
        before = time.perf_counter()
        if prepared and before + LEAST * one_round > end:
            rows[name]["error"] = "not run: out of time (--minutes)"
            continue
        try:
            ready = make(setting)
            rows[name]["first_loss"] = ready.step()
            compiled = time.perf_counter()
            ready.step()  # warm
        except Exception as error:
            rows[name]["error"] = _one_line(error)
            continue
        rows[name]["compile_seconds"] = compiled - before
        one_round += time.perf_counter() - compiled
        rows[name] |= ready.analysis
        prepared[name], times[name] = ready, []
    for count in range(repeats):
        if count >= LEAST and time.perf_counter() > end:
            break
        for name in list(prepared):
            before = time.perf_counter()
            try:
                prepared[name].step()
            except Exception as error:
                rows[name]["error"] = _one_line(error)
                del prepared[name], times[name]
                continue
            times[name].append(time.perf_counter() - before)
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
