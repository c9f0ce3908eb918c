"""What each method is: its weights, and the gradient they make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2rw_jax.methods import METHODS, get_method


def _losses(params, batch):
    """Squared error of a linear model, with something to pass through."""
    predicted = batch["image"] @ params
    return jnp.square(predicted - batch["label"]), {"mean": predicted.mean()}


@pytest.fixture
def problem():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        batch = {"image": jnp.asarray(rng.normal(size=(8, 3))), "label": jnp.arange(8.0)}
        clean = {"image": jnp.asarray(rng.normal(size=(5, 3))), "label": jnp.ones(5)}
        yield jnp.asarray(rng.normal(size=3)), batch, clean


def _apply(name, problem, seed=0):
    return METHODS[name](_losses, rng=jax.random.key(seed))(*problem)


def test_baseline_is_the_mean_loss(problem):
    params, batch, _ = problem
    (loss, aux), grads = _apply("baseline", problem)
    expected, expected_grads = jax.value_and_grad(lambda p: _losses(p, batch)[0].mean())(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-14)
    np.testing.assert_allclose(grads, expected_grads, rtol=1e-13)
    np.testing.assert_array_equal(aux.weights, np.full(8, 1 / 8))


def test_clean_only_is_the_mean_loss_of_the_clean_batch(problem):
    params, _, clean = problem
    (loss, aux), grads = _apply("clean_only", problem)
    expected, expected_grads = jax.value_and_grad(lambda p: _losses(p, clean)[0].mean())(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-14)
    np.testing.assert_allclose(grads, expected_grads, rtol=1e-13)
    np.testing.assert_array_equal(aux.weights, np.zeros(8))


def test_random_weights_are_a_rectified_gaussian_that_changes_with_the_key(problem):
    params, batch, _ = problem
    (_, aux), grads = _apply("random", problem)
    gaussian = np.maximum(jax.random.normal(jax.random.key(0), (8,), jnp.float64), 0)
    np.testing.assert_allclose(aux.weights, gaussian / gaussian.sum(), rtol=1e-14)
    weighted = jax.grad(lambda p: jnp.dot(aux.weights, _losses(p, batch)[0]))(params)
    np.testing.assert_allclose(grads, weighted, rtol=1e-13)
    assert not np.array_equal(aux.weights, _apply("random", problem, seed=1)[0][1].weights)


def test_l2rw_weights_are_the_rectified_products_with_the_clean_gradient(problem):
    params, batch, clean = problem
    (_, aux), _ = _apply("l2rw", problem)
    clean_grad = jax.grad(lambda p: _losses(p, clean)[0].mean())(params)
    rectified = np.maximum(jax.jacobian(lambda p: _losses(p, batch)[0])(params) @ clean_grad, 0)
    np.testing.assert_allclose(aux.weights, rectified / rectified.sum(), rtol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_returns_the_same_structure_and_passes_aux_through(name, problem):
    (loss, aux), grads = _apply(name, problem)
    assert loss.shape == () and aux.val_loss.shape == ()
    assert aux.weights.shape == aux.scores.shape == aux.losses.shape == (8,)
    assert grads.shape == problem[0].shape
    assert aux.aux["mean"].shape == ()


@pytest.mark.parametrize("name", METHODS)
def test_over_a_mapped_axis_the_gradient_is_the_whole_batch_s(name, problem):
    params, batch, clean = problem
    clean = jax.tree.map(lambda x: x[:4], clean)
    halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), (batch, clean))

    def half(batch, clean):
        method = METHODS[name](_losses, rng=jax.random.key(0), axis_name="half")
        (loss, aux), grads = method(params, batch, clean)
        return loss, aux.weights, grads

    losses, weights, grads = jax.vmap(half, axis_name="half")(*halves)
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-14)
    if name == "random":  # draws other numbers, but still one set of weights over both halves
        np.testing.assert_allclose(weights.sum(), 1, rtol=1e-14)
        expected = jax.grad(lambda p: jnp.dot(weights.ravel(), _losses(p, batch)[0]))(params)
        np.testing.assert_allclose(grads[0], expected, rtol=1e-12)
        return
    (loss, aux), expected = _apply(name, (params, batch, clean))
    np.testing.assert_allclose(losses[0], loss, rtol=1e-13)
    np.testing.assert_allclose(weights.ravel(), aux.weights, rtol=1e-12)
    np.testing.assert_allclose(grads[0], expected, rtol=1e-12)


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"method: got 'l2rv'.*did you mean 'l2rw'\?"):
        get_method("l2rv")
