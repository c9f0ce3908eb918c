"""Weights by the last layer alone, in PyTorch, without a double backward pass or dual numbers.

The last layer's gradient of an example is the outer product of its residual and its features, so
the clean batch costs a forward pass, and a score two small matrix products.
"""

import torch
from torch.nn import functional as F  # noqa: N812

from experiments.benchmark.torch_baseline.passes import example_weights


def head(network, params, rate):
    """l2rw whose look-ahead moves the last layer alone, by plain SGD."""
    del rate

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        del epsilon
        clean_features = _clean_features(network, clean_images)
        direction = _residuals(network, _logits(network, clean_features), clean_labels).detach()
        kernel, bias = direction.T @ clean_features / len(direction), direction.mean(0)
        features = network(images, update_moments=True, features=True)
        logits = _logits(network, features)
        residuals = _residuals(network, logits.detach(), labels)
        scores = (residuals * (features.detach() @ kernel.T + bias)).sum(1)
        return _step(params, example_weights(scores), logits, labels)

    return gradient


def evidence(network, params, rate):
    """The votes of the clean examples, see ``l2rw_jax.evidence``."""
    del rate

    def gradient(epsilon, images, labels, clean_images, clean_labels):
        del epsilon
        clean_features = _clean_features(network, clean_images)
        clean_logits = _logits(network, clean_features)
        features = network(images, update_moments=True, features=True)
        logits = _logits(network, features)
        weights = evidence_weights(
            *(logits.detach(), labels, features.detach()),
            *(clean_logits.detach(), clean_labels, clean_features),
        )
        return _step(params, weights, logits, labels)

    return gradient


PARTS = 10  # of the clean batch, which vote


@torch.no_grad()
def evidence_weights(logits, labels, features, clean_logits, clean_labels, clean_features):
    """Weights ``[b]`` by how sure it is that an example agrees with the clean ones."""
    log_p, clean_log_p = F.log_softmax(logits, 1), F.log_softmax(clean_logits, 1)
    residuals, clean_residuals = (
        each.exp() - F.one_hot(y, each.shape[1]).to(each.dtype)
        for each, y in ((log_p, labels), (clean_log_p, clean_labels))
    )
    each = (features @ clean_features.T + 1) * (residuals @ clean_residuals.T)
    parts = min(PARTS, each.shape[1])
    votes = torch.stack([each[:, part::parts].mean(1) for part in range(parts)], 1)
    mean, error = votes.mean(1), votes.std(1) / parts**0.5
    scores = torch.where(mean == 0, 0, mean / error)
    losses = F.nll_loss(log_p, labels, reduction="none")
    clean_loss = F.nll_loss(clean_log_p, clean_labels)
    excess = (losses.mean() - clean_loss).clamp(min=0)
    doubt = 1.5 * (losses - clean_loss).clamp(min=0) * excess / clean_loss**2
    return example_weights(torch.special.ndtr(scores + 2) / (1 + doubt))


@torch.no_grad()
def _clean_features(network, images):
    return network(images, features=True)


def _logits(network, features):
    """The last layer; one sigmoid unit z gives (0, z)."""
    z = network.output(features)
    return F.pad(z, (1, 0)) if z.shape[1] == 1 else z


def _residuals(network, logits, labels):
    """The loss's gradient by what the last layer gives, ``[b, units]``."""
    residuals = F.softmax(logits, 1) - F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return residuals[:, -network.output.out_features :]


def _step(params, weights, logits, labels):
    loss = (weights * F.cross_entropy(logits, labels, reduction="none")).sum()
    return weights, loss.detach(), torch.autograd.grad(loss, params)
