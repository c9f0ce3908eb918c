"""Meta-Weight-Net's gradient here and in PyTorch, by double backward as its authors have it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2rw_jax import reweighted_value_and_grad
from l2rw_jax.losses import cross_entropy
from l2rw_jax.methods import get_method

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")

from experiments.benchmark.ours import by_method  # noqa: E402

RATE = 0.3


def test_the_gradient_of_the_weighting_is_a_double_backward_s():
    rng = np.random.default_rng(0)
    arrays = {"hidden": rng.normal(size=(5, 7)), "output": rng.normal(size=(7, 3))}
    batches = [
        {"image": rng.normal(size=(n, 5)), "label": rng.integers(0, 3, n).astype(np.int64)}
        for n in (12, 6)
    ]
    with jax.enable_x64(True):
        method = get_method("mwnet")
        phi = jax.device_get(method.init_weighting(jax.random.key(0), 3))
        ours = jax.device_get(_ours((arrays, phi), *batches))
    loss, weights, grads, phi_grads = _theirs(arrays, phi, *batches)
    np.testing.assert_allclose(ours[0][0], loss, rtol=1e-12)
    np.testing.assert_allclose(ours[0][1].weights, weights, rtol=1e-12)
    ours_grads, got = ours[1]
    for name, want in grads.items():
        np.testing.assert_allclose(ours_grads[name], want, rtol=1e-10, atol=1e-14)
    for (layer, kind), want in phi_grads.items():
        assert np.abs(want).max() > 1e-6
        np.testing.assert_allclose(got[layer][kind], want, rtol=1e-8, atol=1e-14)


def _ours(params, batch, clean):
    def losses(params, batch):
        logits = jnp.tanh(batch["image"] @ params["hidden"]) @ params["output"]
        return cross_entropy(logits, batch["label"])

    fn = reweighted_value_and_grad(losses, losses, weighting=by_method("mwnet")(RATE))
    return jax.jit(fn)(params, batch, clean)


def _theirs(arrays, phi, batch, clean):
    """Loss, weights, and the gradients of the network and of the weighting."""
    params = {name: torch.tensor(x, requires_grad=True) for name, x in arrays.items()}
    weighting = {
        (layer, kind): torch.tensor(x, requires_grad=True)
        for layer, kinds in phi.items()
        for kind, x in kinds.items()
    }

    def losses(params, batch):
        images, labels = torch.tensor(batch["image"]), torch.tensor(batch["label"])
        logits = torch.tanh(images @ params["hidden"]) @ params["output"]
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

    def weights_of(costs):
        x = torch.relu(costs @ weighting["hidden", "kernel"] + weighting["hidden", "bias"])
        return torch.sigmoid(x @ weighting["output", "kernel"] + weighting["output", "bias"])

    costs = losses(params, batch)
    weights = weights_of(costs.detach()[:, None])[:, 0] / len(costs)
    loss = (costs * weights).sum()
    grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    moved = {name: p - RATE * g for (name, p), g in zip(params.items(), grads, strict=True)}
    clean_loss = losses(moved, clean).mean()
    phi_grads = torch.autograd.grad(clean_loss, list(weighting.values()))

    def named(names, tensors):
        return {n: x.detach().numpy() for n, x in zip(names, tensors, strict=True)}

    loss, weights = loss.detach().numpy(), weights.detach().numpy()
    return loss, weights, named(params, grads), named(weighting, phi_grads)
