"""What the forms of a step in PyTorch are made of: passes over a batch, and weights by scores.

Passes that take a second or a forward derivative compute attention by matrix products and a softmax
(``attention_by_parts``): PyTorch's fused kernel has neither derivative. All others use that kernel.
"""

import functools

import torch
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

attention_by_parts = functools.partial(sdpa_kernel, SDPBackend.MATH)


def example_weights(scores):
    """Rectified scores over their sum, ``[b]``; all zero if none is positive (Eqs. 7-8)."""
    rectified = torch.where(torch.isfinite(scores), scores.clamp(min=0), 0)
    total = rectified.sum()
    return rectified / torch.where(total > 0, total, 1)


def losses_of(network, params, images, labels, **options):
    """Cross-entropy ``[b]`` with ``params`` in the network's place."""
    logits = functional_call(network, params, (images,), options)
    return F.cross_entropy(logits, labels, reduction="none")


def weighted(network, params, weights, images, labels):
    """The weights, the weighted sum of the losses, and its gradient; updates running moments."""
    losses = F.cross_entropy(network(images, update_moments=True), labels, reduction="none")
    loss = (weights * losses).sum()
    return weights, loss.detach(), torch.autograd.grad(loss, params)


def clean_direction(network, params, rate, images, labels):
    """The look-ahead loss's gradient at gradient zero: minus rate times the clean gradient."""
    grads = torch.autograd.grad(F.cross_entropy(network(images), labels), params)
    return [-rate * grad for grad in grads]


def duals(named, primals, tangents):
    """Dual numbers of parameters, ``{name: tensor}``."""
    return {
        name: forward_ad.make_dual(primal, tangent)
        for name, primal, tangent in zip(named, primals, tangents, strict=True)
    }


def tangents_along(network, named, direction, images, labels):
    """The losses' derivatives ``[b]`` along a direction of the parameters; nothing is recorded."""
    primals = (p.detach() for p in named.values())
    with attention_by_parts(), torch.no_grad(), forward_ad.dual_level():
        losses = losses_of(network, duals(named, primals, direction), images, labels)
        return forward_ad.unpack_dual(losses).tangent
