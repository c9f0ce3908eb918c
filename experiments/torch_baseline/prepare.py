"""A step of the PyTorch side made ready for the benchmark."""

import functools
import multiprocessing
import os
import re
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from pathlib import Path

import torch

from experiments.torch_baseline import convert, models, steps


def versions():
    """Versions of what the PyTorch side runs on."""
    found = {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}
    for name in ("higher", "torchopt"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def prepare(setting, device, form, params, model_state, arrays, *, compiled=False, graph=False):
    """Builds one implementation's step.

    Args:
      setting: the benchmark's ``Setting``.
      device: ``cpu`` or ``cuda``.
      form: a name in ``steps.FORMS``.
      params: parameters of the JAX side.
      model_state: running moments of the JAX side.
      arrays: images ``[b, h, w, c]`` and labels, clean images and labels, on the host.
      compiled: whether to use ``torch.compile``.
      graph: whether to replay the step as a CUDA graph.

    Returns:
      ``(step, measure_memory)``: ``step()`` takes one synchronised step and returns its loss;
      ``measure_memory()`` returns the fields to add to its row, or is None where there is no way.

    Raises:
      ValueError: a precision that the device does not have.
    """
    set_precision(setting.precision, device)
    network = convert.to_torch(params, model_state, _network(setting))
    # Host arrays are [b, h, w, c]: seen as [b, c, h, w] they are in the channels_last layout.
    images, labels, clean_images, clean_labels = map(torch.from_numpy, arrays)
    batch = (images.permute(0, 3, 1, 2), labels.long())
    batch += (clean_images.permute(0, 3, 1, 2), clean_labels.long())
    step = _step(setting, device, network, form, compiled)
    if graph:
        step = steps.cuda_graph(step)
    batch = tuple(array.to(device) for array in batch)

    def synchronised():
        _, loss = step(*batch)
        if device == "cuda":  # the loss is there before the update is
            torch.cuda.synchronize()
        return loss.item()

    if device == "cpu":
        # Compiling takes more memory than the step does.
        measure = None if compiled else functools.partial(_measure_rss, setting, form)
        return synchronised, measure

    def measure_on_device():
        resident = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        synchronised()
        peak = torch.cuda.max_memory_allocated() - resident
        return {"memory_bytes": peak, "memory_kind": "device peak of a step above its state"}

    # A graph's memory is its own pool, which the allocator's counters do not see being used.
    return synchronised, None if graph else measure_on_device


def set_precision(precision, device):
    """Sets what float32 convolutions and products compute in, and the threads, for the process."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if precision == "tf32" and device == "cpu":
        raise ValueError("tf32 needs a GPU")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def _network(setting):
    return models.create_network(
        setting.model,
        num_classes=setting.num_classes,
        image_shape=setting.image_shape,
        dropout=setting.dropout,
    )


def _step(setting, device, network, form, compiled=False):
    network = network.to(device, memory_format=torch.channels_last).train()
    optimizer = steps.make_optimizer(
        network, rate=setting.rate, weight_decay=setting.weight_decay, momentum=setting.momentum
    )
    bfloat16 = setting.precision == "bfloat16"
    return steps.make_step(form, network, optimizer, compiled=compiled, bfloat16=bfloat16)


def _measure_rss(setting, form):
    """Memory of a step on the CPU, in a fresh process: what else ran here would hide it."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        grown = pool.submit(_peak_growth, setting._asdict(), form).result()
    return {"memory_bytes": grown, "memory_kind": "growth of a fresh process's peak, 3 steps"}


def _peak_growth(fields, form):
    """By how much three steps raise this process's peak resident memory, in bytes; Linux only."""
    setting = _Fields(fields)
    set_precision(setting.precision, "cpu")
    step = _step(setting, "cpu", _network(setting), form)
    height, width, channels = setting.image_shape
    batch = []
    for n in (setting.batch, setting.clean_batch):
        images = torch.randn(n, height, width, channels).permute(0, 3, 1, 2)
        batch += [images, torch.randint(0, setting.num_classes, (n,))]
    before = _status("VmRSS")
    for _ in range(3):
        step(*batch)
    return max(_status("VmHWM") - before, 0)


class _Fields:
    """A setting by its fields; the class itself belongs to the program and not to its child."""

    def __init__(self, fields):
        self.__dict__ |= fields


def _status(field):
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(match[1]) if match else 0
