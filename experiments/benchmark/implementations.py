"""What the benchmark compares: our steps and PyTorch's, by name."""

import functools
import time

from experiments import programs
from experiments.benchmark import ours, report, timing
from experiments.benchmark.setting import examples


def makers(device):
    """``{name: make}`` of all implementations, those that matter most first.

    ``make(setting)`` returns a ``timing.Ready``.
    """

    def mine(form):
        return functools.partial(prepare, functools.partial(ours.prepare, form=form))

    def torch(form, **options):
        return functools.partial(
            prepare, functools.partial(prepare_torch, device=device, form=form, **options)
        )

    made: dict = {
        "ours plain": mine(ours.plain),
        "ours l2rw forward": mine(ours.forward),
        "torch plain": torch("plain"),
        "torch create_graph": torch("create_graph"),
        "torch forward_ad_separate": torch("forward_ad_separate"),
        "ours l2rw reverse": mine(ours.reverse),
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


def prepare(make, setting):
    """``make(setting)``, an ``ours.Prepared``, as a ``timing.Ready``; its first step compiles."""
    started = time.perf_counter()
    made = make(setting)
    loss = made.step()
    about = {"first_loss": loss, "compile_seconds": time.perf_counter() - started}

    def turn():
        started = time.perf_counter()
        made.step()
        return time.perf_counter() - started

    return timing.Ready(turn, about | made.analysis, measure_memory=made.measure_memory)


def prepare_torch(setting, device, form, **options):
    """The same step by PyTorch, from the same parameters on the same batches."""
    from experiments.benchmark.torch_baseline import prepare  # without PyTorch this is a row

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
      seconds: time to spend, about; the last 0.3 of it is for memory.

    Returns:
      Dicts; those of implementations that did not run have ``error`` and no figures.
    """
    made = {name: functools.partial(make, setting) for name, make in makers.items()}
    rows, _ = timing.measure(made, seconds=seconds, most=repeats, reserve=0.3)
    return report.add_ratios(
        [setting._asdict() | {"implementation": name} | row for name, row in rows.items()]
    )


def about():
    """What the record says of how it was made, the versions of both sides included."""
    found = programs.about("benchmark")
    try:
        from experiments.benchmark.torch_baseline import prepare
    except ImportError as error:  # its rows say so too
        return found | {"torch": timing.one_line(error)}
    return found | {"versions": found["versions"] | prepare.versions()}
