"""What was tried computes the same step: its figures are worth no more than that."""

import jax
import numpy as np
import pytest

from experiments import ours, timing, tried
from experiments.torch_baseline.setting import LENET

TINY = LENET._replace(image_shape=(9, 8, 1), batch=6, clean_batch=4)


def three_losses(prepared):
    return [prepared.step() for _ in range(3)]


@pytest.fixture(scope="module")
def want():
    return three_losses(ours.prepare(TINY, ours.forward))


def test_layerwise(want):
    losses = three_losses(ours.prepare(TINY, tried.layerwise))
    np.testing.assert_allclose(losses, want, rtol=1e-5)
    assert np.ptp(losses) > 1e-3


def test_by_matmul(want):
    np.testing.assert_allclose(three_losses(tried.by_matmul(TINY, ours.forward)), want, rtol=1e-5)


def test_strides_by_matmul():
    x = np.random.default_rng(0).normal(size=(2, 7, 6, 3)).astype("f")
    kernel = np.random.default_rng(1).normal(size=(3, 3, 3, 4)).astype("f")
    order = ("NHWC", "HWIO", "NHWC")
    for strides in ((1, 1), (2, 2)):
        want = jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=order)
        got = tried._convolve(x, kernel, strides, "SAME")
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_layerwise_refuses_batch_normalisation():
    with pytest.raises(ValueError, match="ties the examples to each other"):
        tried.layerwise(None)({"conv": {}, "norm": {}}, {}, {})


@pytest.mark.slow
def test_parts():
    makers = {name: make for name, make in tried.makers().items() if "part" in name}
    rows = timing.measure(TINY, makers, repeats=1, seconds=60)
    flops = {row["implementation"].partition(": ")[2]: row["flops"] for row in rows}
    one = flops["forward pass"]
    assert all(row["median_ms"] > 0 for row in rows)
    # Passes as docs/performance.md counts them; the first layer, small here, needs fewer.
    assert 2 * one < flops["with tangent"] < 3.2 * one
    assert 1.5 * one < flops["with input gradients"] < 2.2 * one
    assert 2 * one < flops["with all gradients"] < 3.2 * one
