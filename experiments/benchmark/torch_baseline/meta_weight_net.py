"""Meta-Weight-Net in PyTorch: the weighting's gradient by double backward, and by dual numbers.

Both step the weighting and the network at once, as ``l2rw_jax`` does. The weighting is the
network's submodule ``weighting``, which ``add_weighting`` makes.
"""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from experiments.benchmark.torch_baseline.passes import (
    attention_by_parts,
    losses_of,
    tangents_along,
)


class Weighting(nn.Module):
    """A network of the loss, 1-100-1, ``[b] -> [b]`` in (0, 1)."""

    def __init__(self):
        super().__init__()
        self.hidden, self.output = nn.Linear(1, 100), nn.Linear(100, 1)

    def forward(self, losses):
        """The weights, not yet over b."""
        return torch.sigmoid(self.output(F.relu(self.hidden(losses[:, None]))))[:, 0]


def add_weighting(network):
    """Gives ``network`` its ``weighting``, whose parameters come last, and returns it."""
    network.weighting = Weighting()
    return network


def mwnet_create_graph(network, params, rate):
    """By a backward pass through the step, as its authors do."""
    del params
    named, phi = _named(network)

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        del epsilon
        with attention_by_parts():
            losses = losses_of(network, named, images, labels, update_moments=True)
        weights = network.weighting(losses.detach()) / len(losses)
        loss = (weights * losses).sum()
        grads = torch.autograd.grad(loss, list(named.values()), create_graph=True)
        moved = {name: p - rate * g for (name, p), g in zip(named.items(), grads, strict=True)}
        clean_loss = losses_of(network, moved, clean_images, clean_labels).mean()
        phi_grads = torch.autograd.grad(clean_loss, phi)
        return weights.detach(), loss.detach(), (*(g.detach() for g in grads), *phi_grads)

    return gradient


def mwnet_forward_ad(network, params, rate):
    """By the losses' derivatives along the clean gradient after the step: no double backward."""
    del params
    named, phi = _named(network)

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        del epsilon
        losses = losses_of(network, named, images, labels, update_moments=True)
        weights = network.weighting(losses.detach()) / len(losses)
        loss = (weights.detach() * losses).sum()
        grads = torch.autograd.grad(loss, list(named.values()))
        moved = {
            name: (p - rate * g).detach().requires_grad_()
            for (name, p), g in zip(named.items(), grads, strict=True)
        }
        clean_loss = losses_of(network, moved, clean_images, clean_labels).mean()
        clean_grads = torch.autograd.grad(clean_loss, list(moved.values()))
        direction = [-rate * g for g in clean_grads]
        slopes = tangents_along(network, named, direction, images, labels)
        phi_grads = torch.autograd.grad(weights, phi, slopes)
        return weights.detach(), loss.detach(), (*grads, *phi_grads)

    return gradient


def _named(network):
    """The network's own parameters by name, and the weighting's."""
    named = dict(network.named_parameters())
    own = {name: p for name, p in named.items() if not name.startswith("weighting.")}
    return own, list(network.weighting.parameters())
