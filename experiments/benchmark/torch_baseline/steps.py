"""A training step in PyTorch: ordinary, and reweighted in the ways that PyTorch offers.

A form is a function ``form(network, params, rate) -> gradient``, and
``gradient(epsilon, images, labels, clean_images, clean_labels) -> (weights, loss, grads)``;
``epsilon`` is ``[b]`` zeros that require a gradient, which some forms differentiate by. The
look-ahead is plain SGD with learning rate ``rate``; it cancels in the weights.
"""

import contextlib

import torch
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812


def example_weights(scores):
    """Rectified scores over their sum, ``[b]``; all zero if none is positive (Eqs. 7-8)."""
    rectified = torch.where(torch.isfinite(scores), scores.clamp(min=0), 0)
    total = rectified.sum()
    return rectified / torch.where(total > 0, total, 1)


def plain(network, params, rate):
    """Ordinary training: every weight is 1 / b."""
    del rate

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        del clean_images, clean_labels
        return _weighted(network, params, torch.full_like(epsilon, 1 / len(labels)), images, labels)

    return gradient


def random(network, params, rate):
    """Rectified Gaussian weights, the paper's control."""
    del rate

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        del clean_images, clean_labels
        weights = example_weights(torch.randn_like(epsilon.detach()))
        return _weighted(network, params, weights, images, labels)

    return gradient


def create_graph(network, params, rate):
    """Algorithm 1 as the public ports write it: backward through a backward pass."""
    named = dict(network.named_parameters())

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        losses = _losses(network, named, images, labels)
        grads = torch.autograd.grad((epsilon * losses).sum(), params, create_graph=True)
        lookahead = {name: p - rate * g for (name, p), g in zip(named.items(), grads, strict=True)}
        clean_loss = _losses(network, lookahead, clean_images, clean_labels).mean()
        (epsilon_grad,) = torch.autograd.grad(clean_loss, epsilon)
        return _weighted(network, params, example_weights(-epsilon_grad), images, labels)

    return gradient


def forward_ad_shared(network, params, rate):
    """Dual numbers; the primal part of the pass that scores is the training pass's forward half.

    PyTorch records the tangents for a backward pass too, which no one asks for: this costs memory.
    """
    named = dict(network.named_parameters())

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        del epsilon
        direction = _clean_direction(network, params, rate, clean_images, clean_labels)
        with forward_ad.dual_level():
            duals = _duals(named, named.values(), direction)
            losses, tangents = forward_ad.unpack_dual(
                _losses(network, duals, images, labels, update_moments=True)
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
        direction = _clean_direction(network, params, rate, clean_images, clean_labels)
        with torch.no_grad(), forward_ad.dual_level():
            duals = _duals(named, (p.detach() for p in params), direction)
            losses = _losses(network, duals, images, labels)
            weights = example_weights(-forward_ad.unpack_dual(losses).tangent)
        return _weighted(network, params, weights, images, labels)

    return gradient


def higher(network, params, rate):
    """Algorithm 1 by the library ``higher``: an inner step on a patched copy of the network."""
    import higher as library

    inner = torch.optim.SGD(network.parameters(), lr=rate)

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        with library.innerloop_ctx(network, inner) as (fast, inner_optimizer):
            losses = F.cross_entropy(fast(images), labels, reduction="none")
            inner_optimizer.step((epsilon * losses).sum())
            clean_loss = F.cross_entropy(fast(clean_images), clean_labels)
            (epsilon_grad,) = torch.autograd.grad(clean_loss, epsilon)
        return _weighted(network, params, example_weights(-epsilon_grad), images, labels)

    return gradient


def torchopt(network, params, rate):
    """Algorithm 1 by TorchOpt: a differentiable step on the network itself, taken back after."""
    import torchopt as library

    inner = library.MetaSGD(network, lr=rate)

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        before = library.extract_state_dict(network), library.extract_state_dict(inner)
        losses = F.cross_entropy(network(images), labels, reduction="none")
        inner.step((epsilon * losses).sum())
        clean_loss = F.cross_entropy(network(clean_images), clean_labels)
        (epsilon_grad,) = torch.autograd.grad(clean_loss, epsilon)
        library.recover_state_dict(network, before[0])
        library.recover_state_dict(inner, before[1])
        return _weighted(network, params, example_weights(-epsilon_grad), images, labels)

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
        torchopt,
    )
}


def make_optimizer(network, *, rate, weight_decay=0.0, momentum=0.9):
    """SGD with momentum, and L2 decay on the kernels alone; fused, which is PyTorch's fastest."""
    params = list(network.parameters())
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in params if p.ndim == 1]},
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


def cuda_graph(step):
    """Replays ``step`` as one CUDA graph; the first call takes three more steps to warm up."""
    graph = torch.cuda.CUDAGraph()
    batch: list = []
    outputs: list = []

    def replay(*arrays):
        if not outputs:
            batch.extend(array.clone() for array in arrays)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    step(*batch)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph):
                outputs.extend(step(*batch))
        for static, array in zip(batch, arrays, strict=True):
            static.copy_(array)
        graph.replay()
        return tuple(outputs)

    return replay


def _compile(function):
    """One graph where this PyTorch can trace ``autograd.grad``; else a graph between any two."""
    config = torch._dynamo.config
    whole = hasattr(config, "trace_autograd_ops")
    if whole:
        config.trace_autograd_ops = True
    return torch.compile(function, fullgraph=whole, dynamic=False)


def _losses(network, params, images, labels, **options):
    """Cross-entropy ``[b]`` with ``params`` in the network's place."""
    logits = functional_call(network, params, (images,), options)
    return F.cross_entropy(logits, labels, reduction="none")


def _weighted(network, params, weights, images, labels):
    """The weights, the weighted sum of the losses, and its gradient; updates running moments."""
    losses = F.cross_entropy(network(images, update_moments=True), labels, reduction="none")
    loss = (weights * losses).sum()
    return weights, loss.detach(), torch.autograd.grad(loss, params)


def _clean_direction(network, params, rate, images, labels):
    """The look-ahead loss's gradient at gradient zero: minus rate times the clean gradient."""
    grads = torch.autograd.grad(F.cross_entropy(network(images), labels), params)
    return [-rate * grad for grad in grads]


def _duals(named, primals, tangents):
    return {
        name: forward_ad.make_dual(primal, tangent)
        for name, primal, tangent in zip(named, primals, tangents, strict=True)
    }
