"""A training step in PyTorch: ordinary, and reweighted in the ways that PyTorch offers.

A form is a function ``form(network, params, rate) -> gradient``, and
``gradient(epsilon, images, labels, clean_images, clean_labels) -> (weights, loss, grads)``;
``epsilon`` is ``[b]`` zeros that require a gradient, which some forms differentiate by. The
look-ahead is plain SGD with learning rate ``rate``; it cancels in the weights of all but ``mwnet``.
"""

import contextlib

import torch
from torch.autograd import forward_ad
from torch.nn import functional as F  # noqa: N812

from experiments.benchmark.torch_baseline import last_layer, meta_weight_net
from experiments.benchmark.torch_baseline.passes import (
    attention_by_parts,
    clean_direction,
    duals,
    example_weights,
    losses_of,
    tangents_along,
    weighted,
)


def plain(network, params, rate):
    """Ordinary training: every weight is 1 / b."""
    del rate

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        del clean_images, clean_labels
        return weighted(network, params, torch.full_like(epsilon, 1 / len(labels)), images, labels)

    return gradient


def random(network, params, rate):
    """Rectified Gaussian weights, the paper's control."""
    del rate

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        del clean_images, clean_labels
        weights = example_weights(torch.randn_like(epsilon.detach()))
        return weighted(network, params, weights, images, labels)

    return gradient


def create_graph(network, params, rate):
    """Algorithm 1 as the public ports write it: backward through a backward pass."""
    named = dict(network.named_parameters())

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        with attention_by_parts():
            losses = losses_of(network, named, images, labels)
        grads = torch.autograd.grad((epsilon * losses).sum(), params, create_graph=True)
        lookahead = {name: p - rate * g for (name, p), g in zip(named.items(), grads, strict=True)}
        clean_loss = losses_of(network, lookahead, clean_images, clean_labels).mean()
        (epsilon_grad,) = torch.autograd.grad(clean_loss, epsilon)
        return weighted(network, params, example_weights(-epsilon_grad), images, labels)

    return gradient


def forward_ad_shared(network, params, rate):
    """Dual numbers; the primal part of the pass that scores is the training pass's forward half.

    PyTorch records the tangents for a backward pass too, which no one asks for: this costs memory.
    """
    named = dict(network.named_parameters())

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        del epsilon
        direction = clean_direction(network, params, rate, clean_images, clean_labels)
        with attention_by_parts(), forward_ad.dual_level():
            moved = duals(named, named.values(), direction)
            losses, tangents = forward_ad.unpack_dual(
                losses_of(network, moved, images, labels, update_moments=True)
            )
            weights = example_weights(-tangents.detach())
            loss = (weights * losses).sum()
            return weights, loss.detach(), torch.autograd.grad(loss, params)

    return gradient


def forward_ad_separate(network, params, rate):
    """Dual numbers without recording, then an ordinary weighted step: one more forward pass."""
    named = dict(network.named_parameters())

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        del epsilon
        direction = clean_direction(network, params, rate, clean_images, clean_labels)
        weights = example_weights(-tangents_along(network, named, direction, images, labels))
        return weighted(network, params, weights, images, labels)

    return gradient


def higher(network, params, rate):
    """Algorithm 1 by the library ``higher``: an inner step on a patched copy of the network."""
    import higher as library

    inner = torch.optim.SGD(network.parameters(), lr=rate)

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        with library.innerloop_ctx(network, inner) as (fast, inner_optimizer):
            with attention_by_parts():
                losses = F.cross_entropy(fast(images), labels, reduction="none")
            inner_optimizer.step((epsilon * losses).sum())
            clean_loss = F.cross_entropy(fast(clean_images), clean_labels)
            (epsilon_grad,) = torch.autograd.grad(clean_loss, epsilon)
        return weighted(network, params, example_weights(-epsilon_grad), images, labels)

    return gradient


FORMS = {
    form.__name__: form
    for form in (
        plain,
        random,
        create_graph,
        forward_ad_shared,
        forward_ad_separate,
        higher,
        last_layer.head,
        last_layer.evidence,
        meta_weight_net.mwnet_create_graph,
        meta_weight_net.mwnet_forward_ad,
    )
}


def make_optimizer(network, *, rate, weight_decay=0.0, momentum=0.9):
    """SGD with momentum, and L2 decay on the kernels alone; fused, which is PyTorch's fastest."""
    kernels = [name.endswith("weight") and p.ndim > 1 for name, p in network.named_parameters()]
    pairs = list(zip(kernels, network.parameters(), strict=True))
    groups = [
        {"params": [p for is_kernel, p in pairs if is_kernel], "weight_decay": weight_decay},
        {"params": [p for is_kernel, p in pairs if not is_kernel]},
    ]
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, fused=True)


def make_step(form, network, optimizer, *, clip_norm=0.0, compiled=False, bfloat16=False):
    """Returns ``step(images, labels, clean_images, clean_labels) -> (weights, loss)``.

    The step updates ``network`` and ``optimizer`` in place.

    Args:
      form: a name in ``FORMS``.
      network: a module in training mode, in the channels_last layout.
      optimizer: of its parameters.
      clip_norm: largest norm of the weighted gradient; 0 is unlimited.
      compiled: whether ``torch.compile`` turns all but the optimizer's update into one graph.
      bfloat16: whether to compute under autocast.
    """
    params = list(network.parameters())
    gradient = FORMS[form](network, params, optimizer.param_groups[0]["lr"])
    if compiled:
        gradient = _compile(gradient)
    kind = params[0].device.type

    def step(images, labels, clean_images, clean_labels):
        epsilon = torch.zeros(
            len(labels), dtype=params[0].dtype, device=images.device, requires_grad=True
        )
        cast = torch.autocast(kind, torch.bfloat16) if bfloat16 else contextlib.nullcontext()
        with cast:
            weights, loss, grads = gradient(epsilon, images, labels, clean_images, clean_labels)
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(params, clip_norm)
        optimizer.step()
        return weights, loss

    return step


def _compile(function):
    """One graph where this PyTorch can trace ``autograd.grad``; else a graph between any two."""
    config = torch._dynamo.config
    whole = hasattr(config, "trace_autograd_ops")
    if whole:
        config.trace_autograd_ops = True
    return torch.compile(function, fullgraph=whole, dynamic=False)
