"""Where a step's time goes, and what was tried to make it quicker and not kept.

python -m experiments.benchmark --parts --models=lenet,wrn-10-2 --output=results/parts-cpu
"""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
from flax import nnx

from experiments import ours
from l2rw_jax import example_weights, losses
from l2rw_jax.models.pooling import max_pool
from l2rw_jax.training.state import kernels

# Options of XLA's CPU compiler that might change what convolutions cost.
OPTIONS = {
    "one thread": {"xla_cpu_multi_thread_eigen": False},
    "oneDNN": {"xla_cpu_use_onednn": True, "xla_cpu_experimental_onednn_custom_call": True},
    "YNNPACK": {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
    },
}


def makers():
    """``{name: make}``: whole steps, the parts of one, and steps by other means."""
    made: dict = {}
    for name, form in (("ours plain", ours.plain), ("ours l2rw forward", ours.forward)):
        made[name] = functools.partial(ours.prepare, form=form)
    for part in (forward_pass, with_tangent, with_input_gradients, with_all_gradients, clean):
        name = f"ours part: {part.__name__.replace('_', ' ')}"
        made[name] = functools.partial(prepare_part, part=part)
    made["ours l2rw layerwise"] = functools.partial(ours.prepare, form=layerwise)
    for name, form in (("ours plain", ours.plain), ("ours l2rw forward", ours.forward)):
        made[f"{name}, by matmul"] = functools.partial(by_matmul, form=form)
        for kind, options in OPTIONS.items():
            made[f"{name}, {kind}"] = functools.partial(ours.prepare, form=form, options=options)
    return made


def forward_pass(losses_fn, params, batch, clean):
    """1 convolution pass."""
    return losses_fn(params, batch)


def with_tangent(losses_fn, params, batch, clean):
    """The forward pass with a directional derivative: 3 passes."""
    return jax.jvp(lambda p: losses_fn(p, batch), (params,), (params,))


def with_input_gradients(losses_fn, params, batch, clean):
    """All gradients but the kernels': 2 passes."""

    def loss(others):
        return losses_fn(jax.tree.map(_choose, kernels(params), params, others), batch).mean()

    return jax.grad(loss)(params)


def with_all_gradients(losses_fn, params, batch, clean):
    """What a plain step needs: 3 passes."""
    return jax.grad(lambda p: losses_fn(p, batch).mean())(params)


def clean(losses_fn, params, batch, clean):
    """The clean batch's gradient: 3 passes over m examples."""
    return jax.grad(lambda p: losses_fn(p, clean).mean())(params)


def _choose(is_kernel, kernel, other):
    return kernel if is_kernel else other


def prepare_part(setting, part):
    """``part(losses_fn, params, batch, clean)``, compiled on its own."""
    model, params, model_state = ours.initial(setting)

    @jax.jit
    def run(params, batch, clean):
        def losses_fn(params, batch):
            rng = jax.random.key(0)
            logits, _ = model.apply(params, model_state, batch["x"], train=True, rng=rng)
            return losses.cross_entropy(logits, batch["y"])

        return part(losses_fn, params, batch, clean)

    arguments = (params, *ours.batches(setting))
    compiled = run.lower(*arguments).compile()

    def step():
        jax.block_until_ready(compiled(*arguments))
        return 0.0

    return ours.Prepared(step, analysis=ours.analyse(compiled))


def by_matmul(setting, form):
    """Each convolution as one matrix product with the shifted images side by side."""

    def init(self, *args, **kwargs):
        original(self, *args, conv_general_dilated=_convolve, **kwargs)

    original = nnx.Conv.__init__
    with mock.patch.object(nnx.Conv, "__init__", init):
        return ours.prepare(setting, form)


def _convolve(x, kernel, strides, padding, **options):
    height, width, _, n_out = kernel.shape
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (height, width), strides, padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    ends = x.shape[1] - height + 1, x.shape[2] - width + 1
    shifted = [
        x[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
        for i in range(height)
        for j in range(width)
    ]
    return jnp.concatenate(shifted, -1) @ kernel.reshape(-1, n_out)


def layerwise(losses_fn):
    r"""LeNet's weighted gradient in 4 passes over the batch instead of 5.

    An example's gradient is bilinear in a layer's input :math:`x_i` and the gradient
    :math:`\delta_i` of its output. So one backward pass, of the unweighted losses, gives both the
    scores, :math:`\sum_l \langle \delta_{l,i}, x_{l,i} * v_l \rangle`, and, each :math:`\delta_i`
    times its weight, the weighted gradient. It needs a look into every layer, and examples that do
    not depend on each other: no batch normalisation.
    """

    def gradient(params, batch, clean):
        if "hidden" not in params:
            raise ValueError("batch normalisation ties the examples to each other")
        direction = jax.grad(lambda p: losses_fn(p, clean)[0].mean())(params)

        def tapped(taps, scale):
            seen = {}

            def layer(name, x):
                y = _affine(params[name], x)
                seen[name] = x, y
                moved = _affine(direction[name], jax.lax.stop_gradient(x))
                scales = scale.reshape(-1, *[1] * (y.ndim - 1))
                return y + scales * moved + (taps[name] if taps else 0)

            return losses.cross_entropy(_lenet(layer, batch["x"]), batch["y"]), seen

        zeros = jnp.zeros(len(batch["y"]))
        _, shapes = jax.eval_shape(tapped, {}, zeros)
        taps = {name: jnp.zeros(y.shape, y.dtype) for name, (_, y) in shapes.items()}
        values, pullback, seen = jax.vjp(tapped, taps, zeros, has_aux=True)
        deltas, scores = pullback(jnp.ones_like(values))
        weights = example_weights(scores)
        grads = {}
        for name, delta in deltas.items():
            _, to_params = jax.vjp(lambda p, x=seen[name][0]: _affine(p, x), params[name])
            (grads[name],) = to_params(weights.reshape(-1, *[1] * (delta.ndim - 1)) * delta)
        return ((weights * values).sum(), {}), grads

    return gradient


def _lenet(layer, images):
    """``l2rw_jax.models``' LeNet by ``layer(name, x)``."""
    x = images
    for name in ("conv_0", "conv_1", "conv_2"):
        x = nnx.relu(max_pool(layer(name, x)))
    x = nnx.relu(layer("hidden", x.reshape(len(x), -1)))
    z = layer("output", x)
    return jnp.pad(z, ((0, 0), (1, 0))) if z.shape[1] == 1 else z


def _affine(params, x):
    if params["kernel"].ndim == 2:
        return x @ params["kernel"] + params["bias"]
    order = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=order)
    return y + params["bias"]
