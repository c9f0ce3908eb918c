"""Parameters and running moments, from the JAX side's nested dicts to a module and back.

======================  ====================  ============================
JAX                     PyTorch               order of axes
======================  ====================  ============================
``kernel`` [h, w, i, o]  ``weight`` of Conv2d   [o, i, h, w]
``kernel`` [i, o]        ``weight`` of Linear   [o, i]
``scale``                ``weight`` of a norm
``bias``                 ``bias``
``mean``, ``var``        ``running_mean``, ``running_var``
``position`` [t, d]      ``position``
======================  ====================  ============================

What lies under ``blocks`` is stacked, with the layers as first axis; on PyTorch's side each layer
is a module. A running variance follows the biased variance of a batch on the JAX side and the
unbiased one on PyTorch's, as each framework's own layer does; the two differ by n / (n - 1), n =
b h w.
"""

import numpy as np
import torch

NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
NAMES |= {"mean": "running_mean", "var": "running_var", "position": "position"}
STACKED = "blocks"


@torch.no_grad()
def to_torch(params, model_state, network):
    """Copies parameters and running moments into ``network``, in place, and returns it."""
    for tree in (params, model_state):
        for path, array in _leaves(tree):
            for tensor, part in zip(_tensors(network, path), _parts(path, array), strict=True):
                axes = _torch_axes(path, part.ndim)
                tensor.copy_(torch.from_numpy(np.transpose(part, axes).copy()))
    return network


def to_jax(network, like):
    """The leaves of ``network`` as numpy arrays, in a tree like ``like``."""
    arrays: dict = {}
    for path, _ in _leaves(like):
        node = arrays
        for name in path[:-1]:
            node = node.setdefault(name, {})
        parts = [
            np.transpose(
                tensor.detach().cpu().contiguous().numpy(),
                np.argsort(_torch_axes(path, tensor.ndim)),
            )
            for tensor in _tensors(network, path)
        ]
        node[path[-1]] = np.stack(parts) if path[0] == STACKED else parts[0].copy()
    return arrays


def _torch_axes(path, rank):
    """Where each of PyTorch's axes is among those of the JAX side."""
    return {2: (1, 0), 4: (3, 2, 0, 1)}[rank] if path[-1] == "kernel" else tuple(range(rank))


def _tensors(network, path):
    """The tensors of an array: one for each layer where layers are stacked."""
    prefixes = [path[:-1]]
    if path[0] == STACKED:
        prefixes = [(STACKED, str(i), *path[1:-1]) for i in range(len(network.blocks))]
    name = NAMES[path[-1]]
    return [getattr(network.get_submodule(".".join(prefix)), name) for prefix in prefixes]


def _parts(path, array):
    return np.asarray(array) if path[0] == STACKED else [np.asarray(array)]


def _leaves(tree, path=()):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value
