"""A step of the PyTorch side made ready for the benchmark."""

import functools
import json
import os
import subprocess
import sys
from importlib import metadata

import torch

from experiments.benchmark.torch_baseline import convert, meta_weight_net, models, steps


def versions():
    """Versions of what the PyTorch side runs on."""
    found = {"torch": torch.__version__, "cudnn": torch.backends.cudnn.version()}
    try:
        return found | {"higher": metadata.version("higher")}
    except metadata.PackageNotFoundError:
        return found | {"higher": "not installed"}


def prepare(setting, device, form, params, model_state, arrays, *, compiled=False):
    """Builds one implementation's step.

    Args:
      setting: the benchmark's ``Setting``.
      device: ``cpu`` or ``cuda``.
      form: a name in ``steps.FORMS``.
      params: parameters of the JAX side.
      model_state: running moments of the JAX side.
      arrays: images ``[b, h, w, c]`` and labels, clean images and labels, on the host.
      compiled: whether to use ``torch.compile``.

    Returns:
      ``(step, measure_memory)``: ``step()`` takes a step, waits for it, and returns the loss;
      ``measure_memory()`` returns the fields to add to its row, or is None where there is no way.
    """
    set_precision(setting.precision)
    network = convert.to_torch(params, model_state, create_network(setting, form))
    step = create_step(setting, device, form, network=network, compiled=compiled)
    batch = to_device(arrays, device)

    def synchronised():
        _, loss = step(*batch)
        if device == "cuda":  # the loss is there before the update is
            torch.cuda.synchronize()
        return loss.item()

    if device == "cpu":
        # Compiling takes more memory than the step does.
        measure = None if compiled else functools.partial(_fresh_process, setting, form)
        return synchronised, measure

    def measure_on_device():
        resident = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        synchronised()
        peak = torch.cuda.max_memory_allocated() - resident
        return {"memory_bytes": peak, "memory_kind": "device peak of a step above its state"}

    return synchronised, measure_on_device


def set_precision(precision):
    """Sets what float32 convolutions and products compute in, and the threads, for the process."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def create_step(setting, device, form, *, network=None, compiled=False):
    """A step of ``form`` on a new network, or on the one given."""
    if network is None:
        network = create_network(setting, form)
    network = network.to(device, memory_format=torch.channels_last).train()
    optimizer = steps.make_optimizer(
        network, rate=setting.rate, weight_decay=setting.weight_decay, momentum=setting.momentum
    )
    bfloat16 = setting.precision == "bfloat16"
    return steps.make_step(form, network, optimizer, compiled=compiled, bfloat16=bfloat16)


def create_network(setting, form):
    """The setting's network, with PyTorch's own initial values, and what else the form trains."""
    network = models.create_network(
        setting.model,
        num_classes=setting.num_classes,
        image_shape=setting.image_shape,
        dropout=setting.dropout,
    )
    return meta_weight_net.add_weighting(network) if form.startswith("mwnet") else network


def to_device(arrays, device):
    """Images and labels twice, as ``[b, c, h, w]`` in the channels_last layout that hosts have."""
    images, labels, clean_images, clean_labels = (torch.from_numpy(a).to(device) for a in arrays)
    to_chw = (0, 3, 1, 2)
    return images.permute(to_chw), labels.long(), clean_images.permute(to_chw), clean_labels.long()


def _fresh_process(setting, form):
    """Memory of a step on the CPU, in a fresh process: what else ran here would hide it."""
    command = [sys.executable, "-m", "experiments.benchmark.torch_baseline.memory"]
    done = subprocess.run(
        [*command, json.dumps(setting), form], check=True, capture_output=True, text=True
    )
    kind = "growth of a fresh process's peak, 3 steps"
    return {"memory_bytes": int(done.stdout.split()[-1]), "memory_kind": kind}
