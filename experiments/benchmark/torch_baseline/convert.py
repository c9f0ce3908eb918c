"""Parameters and running moments, from the JAX side's nested dicts to a module and back.

======================  ====================  ============================
JAX                     PyTorch               order of axes
======================  ====================  ============================
``kernel`` [h, w, i, o]  ``weight`` of Conv2d   [o, i, h, w]
``kernel`` [i, o]        ``weight`` of Linear   [o, i]
``scale``                ``weight`` of a norm
``bias``                 ``bias``
``mean``, ``var``        ``running_mean``, ``running_var``
======================  ====================  ============================

A running variance follows the biased variance of a batch on the JAX side and the unbiased one on
PyTorch's, as each framework's own layer does; the two differ by n / (n - 1), n = b h w.
"""

import numpy as np
import torch

NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
NAMES |= {"mean": "running_mean", "var": "running_var"}


@torch.no_grad()
def to_torch(params, model_state, network):
    """Copies parameters and running moments into ``network``, in place, and returns it."""
    for tree in (params, model_state):
        for path, array in _leaves(tree):
            tensor = _tensor(network, path)
            axes = _torch_axes(path, np.ndim(array))
            tensor.copy_(torch.from_numpy(np.transpose(np.asarray(array), axes).copy()))
    return network


def to_jax(network, like):
    """The leaves of ``network`` as numpy arrays, in a tree like ``like``."""
    arrays: dict = {}
    for path, array in _leaves(like):
        tensor = _tensor(network, path).detach().cpu().contiguous().numpy()
        node = arrays
        for name in path[:-1]:
            node = node.setdefault(name, {})
        axes = np.argsort(_torch_axes(path, np.ndim(array)))
        node[path[-1]] = np.transpose(tensor, axes).copy()
    return arrays


def _torch_axes(path, rank):
    """Where each of PyTorch's axes is among those of the JAX side."""
    return {2: (1, 0), 4: (3, 2, 0, 1)}[rank] if path[-1] == "kernel" else tuple(range(rank))


def _tensor(network, path):
    return getattr(network.get_submodule(".".join(path[:-1])), NAMES[path[-1]])


def _leaves(tree, path=()):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value
