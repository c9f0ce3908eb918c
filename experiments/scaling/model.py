"""A model of a reweighted step on 1 to 256 devices: arithmetic, not measured."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from l2rw_jax.models import create_model

NETWORKS = ["resnet-32", "wrn-28-10"]
DEVICES = tuple(2**k for k in range(9))
BATCH, GLOBAL_BATCH = 100, 1024  # of a device for weak scaling, of all together for strong
PASSES = 8  # over a batch and an equally large clean one; a plain step has 3
WINDOW = 2  # an all-reduce can only overlap the backward pass that makes its gradient
# A pass moves an activation 5 times, in bfloat16: written by its convolution, read for the moments,
# read and written by normalisation, read by the next convolution. Parameters move once a pass and 5
# times in the update (momentum SGD), in float32.
MOVES, ACTIVATION_BYTES, PARAM_BYTES, UPDATE_MOVES = 5, 2, 4, 5
SHARE = {"flops": 0.35, "memory": 0.8, "links": 0.8}  # of the peaks: assumed


class Network(NamedTuple):
    """Number of parameters; flops and convolutions' outputs of one example's forward pass."""

    params: int
    flops: float
    activations: int


class Hardware(NamedTuple):
    """Peaks per second, and ``tiers(devices)``: rings of (size, bytes per second, s per hop)."""

    flops: float
    memory: float
    tiers: Callable


def h100_tiers(devices):
    """NVLink within a host of 8; one port of 400 Gb/s Ethernet a host, which its 8 share."""
    # Hops: NCCL's own estimate of its ring (src/graph/tuning.cc, protocol Simple).
    return [(min(devices, 8), 450e9, 3.4e-6), (max(devices // 8, 1), 50e9 / 8, 9.6e-6)]


def v5e_tiers(devices):
    """Rows and columns of a slice; 1,600 Gb/s a chip, on all links only in the whole torus."""
    rows = 2 ** (int(math.log2(devices)) // 2)
    bandwidth = 200e9 if devices == 256 else 100e9  # assumed, as is a microsecond a hop
    return [(rows, bandwidth, 1e-6), (devices // rows, bandwidth, 1e-6)]


# bfloat16, dense. NVIDIA H100 Tensor Core GPU datasheet (SXM); Google Cloud documentation, TPU v5e.
HARDWARE = {
    "H100": Hardware(989e12, 3.35e12, h100_tiers),
    "TPU v5e": Hardware(197e12, 819e9, v5e_tiers),
}


def table(names):
    """The rows of these networks on each kind and number of devices, and what they follow from."""
    networks = {name: network(name) for name in names}
    settings = itertools.product(networks.items(), HARDWARE, DEVICES)
    return {
        "hardware": {k: h._replace(tiers=h.tiers(256))._asdict() for k, h in HARDWARE.items()},
        "assumed_shares": SHARE,
        "networks": {name: size._asdict() for name, size in networks.items()},
        "rows": [modelled_row(name, size, kind, n) for (name, size), kind, n in settings],
    }


def network(name, image_shape=(32, 32, 3), num_classes=10):
    """The ``Network`` of a model's name; flops by XLA's analysis, and nothing runs."""
    model = create_model(name, num_classes=num_classes, image_shape=image_shape)
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    arguments = (*jax.eval_shape(model.init, jax.random.key(0)), images)

    def forward(params, model_state, images):
        return model.apply(params, model_state, images, train=True)[0]

    analysis: Any = jax.jit(forward).lower(*arguments).cost_analysis()
    equations: Any = jax.make_jaxpr(forward)(*arguments).eqns
    convolutions = [e for e in equations if e.primitive.name == "conv_general_dilated"]
    params = sum(p.size for p in jax.tree.leaves(arguments[0]))
    return Network(params, analysis["flops"], sum(e.outvars[0].aval.size for e in convolutions))


def all_reduce_seconds(size, tiers):
    r"""An all-reduce of ``size`` bytes by rings within rings, the innermost first.

    .. math:: \textstyle\sum_k 2 (n_k - 1) \big(\frac{B_k}{n_k \beta_k} + \alpha_k\big),
              \qquad B_{k+1} = B_k / n_k

    >>> all_reduce_seconds(8e9, [(4, 1e9, 0.0)])  # 2 * 3 / 4 * 8 GB at 1 GB/s
    12.0
    """
    seconds = 0.0
    for ring, bandwidth, hop in tiers:
        seconds += 2 * (ring - 1) * (size / ring / bandwidth + hop)
        size /= ring
    return seconds


def pass_bytes(network, batch):
    """Bytes that one pass over ``batch`` examples moves to and from memory, roughly."""
    return MOVES * ACTIVATION_BYTES * network.activations * batch + PARAM_BYTES * network.params


def pass_seconds(network, hardware, batch):
    """Seconds of one pass: its arithmetic or its memory traffic, whichever takes longer."""
    arithmetic = batch * network.flops / (SHARE["flops"] * hardware.flops)
    return max(arithmetic, pass_bytes(network, batch) / (SHARE["memory"] * hardware.memory))


def step(network, hardware, devices, batch):
    """A reweighted step on ``batch`` examples and as many clean ones a device: cost of a device.

    ``overlapped_ms``: each all-reduce runs beside the backward pass that makes its gradient;
    ``in_sequence_ms``: after it.
    """
    one, tiers = pass_seconds(network, hardware, batch), hardware.tiers(devices)
    update = UPDATE_MOVES * PARAM_BYTES * network.params
    compute = PASSES * one + update / (SHARE["memory"] * hardware.memory)
    reduce = all_reduce_seconds(PARAM_BYTES * network.params / SHARE["links"], tiers)
    # The weights' maximum, then their sum: one number each, up and down a tree, without overlap.
    busy = compute + 4 * sum(math.log2(ring) * hop for ring, _, hop in tiers)
    return {
        "teraflop": PASSES * batch * network.flops / 1e12,
        "gigabytes": (PASSES * pass_bytes(network, batch) + update) / 1e9,
        "compute_ms": 1e3 * compute,
        "all_reduce_ms": 1e3 * reduce,
        "overlapped_ms": 1e3 * (busy + 2 * max(0.0, reduce - WINDOW * one)),
        "in_sequence_ms": 1e3 * (busy + 2 * reduce),
    }


def modelled_row(model, network, kind, devices):
    """A step at ``BATCH``, the batch that hides an all-reduce, and the efficiencies."""
    hardware = HARDWARE[kind]
    row = {"model": model, "hardware": kind, "devices": devices}
    row |= step(network, hardware, devices, BATCH)
    row["hiding_batch"] = next(
        batch
        for batch in itertools.count()
        if 1e3 * WINDOW * pass_seconds(network, hardware, batch) >= row["all_reduce_ms"]
    )
    for how in ("overlapped", "in_sequence"):
        field = f"{how}_ms"
        row[f"weak_{how}"] = step(network, hardware, 1, BATCH)[field] / row[field]
        part = step(network, hardware, devices, GLOBAL_BATCH / devices)[field]
        row[f"strong_{how}"] = step(network, hardware, 1, GLOBAL_BATCH)[field] / (devices * part)
    return row
