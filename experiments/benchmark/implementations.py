"""What the benchmark compares: our steps and PyTorch's, by name."""

import functools
import time

from experiments import programs
from experiments.benchmark import ours, report, timing
from experiments.benchmark.setting import examples

# Of the implementations those whose cost changes most with the size of the clean batch.
EQUAL = (
    *("ours plain", "ours l2rw forward", "torch plain", "torch forward_ad_separate"),
    *("torch create_graph", "ours l2rw reverse"),
)

TURN = 0.05


def makers(device):
    """``{name: make}`` of all implementations, those that matter most first.

    ``make(setting)`` returns a ``timing.Ready``.
    """

    def mine(form):
        return functools.partial(prepare, functools.partial(ours.prepare, form=form))

    def torch(form, compiled=False):
        return functools.partial(
            prepare, functools.partial(prepare_torch, device=device, form=form, compiled=compiled)
        )

    made: dict = {f"ours {form}": mine(form) for form in ("plain", "l2rw forward")}
    made |= {
        f"torch {form}": torch(form) for form in ("plain", "forward_ad_separate", "create_graph")
    }
    for form, counterpart in (("evidence", "evidence"), ("l2rw head", "head")):
        made[f"ours {form}"] = mine(form)
        made[f"torch {counterpart}"] = torch(counterpart)
    made["ours mwnet"] = mine("mwnet")
    made |= {f"torch {form}": torch(form) for form in ("mwnet_forward_ad", "mwnet_create_graph")}
    made["ours l2rw reverse"] = mine("l2rw reverse")
    for form in ("plain", "create_graph", "forward_ad_shared"):
        made[f"torch {form}, compiled"] = torch(form, compiled=True)
    return made | {f"torch {form}": torch(form) for form in ("forward_ad_shared", "higher")}


def prepare(make, setting):
    """``make(setting)``, an ``ours.Prepared``, as a ``timing.Ready``; its first step compiles.

    A turn is one step, or ``TURN`` seconds of quick ones: as in training, a step then finds the
    caches as the same step left them.
    """
    started = time.perf_counter()
    made = make(setting)
    loss = made.step()
    about = {"first_loss": loss, "compile_seconds": time.perf_counter() - started}
    count = 1

    def turn():
        nonlocal count
        started = time.perf_counter()
        for _ in range(count):
            made.step()
        seconds = (time.perf_counter() - started) / count
        count = max(1, round(TURN / seconds))
        return seconds

    return timing.Ready(turn, about | made.analysis, measure_memory=made.measure_memory)


def prepare_torch(setting, device, form, *, compiled=False):
    """The same step by PyTorch, from the same parameters on the same batches."""
    from experiments.benchmark.torch_baseline import prepare  # without PyTorch this is a row

    _, params, model_state = ours.initial(setting, weighting=form.startswith("mwnet"))
    kind = "cuda" if device == "gpu" else "cpu"
    return ours.Prepared(
        *prepare.prepare(
            setting, kind, form, params, model_state, examples(setting), compiled=compiled
        )
    )


def measure(setting, makers, *, repeats, seconds, memory=True):
    """Rows of one setting, one for each implementation.

    Args:
      setting: the ``Setting``.
      makers: as ``makers`` returns them.
      repeats: most timed turns of each.
      seconds: time to spend, about; the last twentieth of it is for memory.
      memory: whether to measure PyTorch's memory, each step's in a process of its own.

    Returns:
      Dicts; those of implementations that did not run have ``error`` and no times.
    """
    if setting.clean_batch == setting.batch:
        makers = {name: makers[name] for name in EQUAL if name in makers} or makers

    def made(make):
        ready = make(setting)
        return ready if memory else ready._replace(measure_memory=None)

    each = {name: functools.partial(made, make) for name, make in makers.items()}
    rows, _ = timing.measure(each, seconds=seconds, most=repeats, reserve=0.05 * memory)
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
