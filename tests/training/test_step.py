"""The step is a pure function of the state; its update and its metrics are what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2rw_jax import by_loss, losses
from l2rw_jax.data import sample, sample_without_replacement
from l2rw_jax.methods import Method, get_method
from l2rw_jax.models import Model, create_model
from l2rw_jax.training import default_config
from l2rw_jax.training.batches import make_batches
from l2rw_jax.training.optimizers import make_optimizer, make_schedule, with_weighting
from l2rw_jax.training.prepare import prepare
from l2rw_jax.training.state import create_state, initial_transition, mean_over_draws, method_params
from l2rw_jax.training.step import make_chunk, make_predict
from l2rw_jax.training.step import make_step as make_step_of


def make_step(config, model, optimizer, **options):
    """The step that a config describes."""
    method = get_method("clean_only" if options.get("finetune") else config.method)
    batches = make_batches(config, balanced=method.balanced)
    fields = {
        "schedule": make_schedule(config),
        "clean_smoothing": config.clean_smoothing,
        "clean_weight_decay": config.clean_weight_decay,
        "ema": config.ema,
    }
    return make_step_of(method, model, optimizer, batches, **fields | options)


def _setup(**fields):
    config = default_config()
    config.update_from_flattened_dict(
        {"model": "mlp-16", "noise.kind": "uniform", "noise.ratio": 0.4, "batch_size": 32} | fields
    )
    run_data, num_classes = prepare(config)
    shape = run_data.images.shape[1:]
    model = create_model(config.model, num_classes=num_classes, image_shape=shape)
    optimizer = make_optimizer(config)
    state = create_state(jax.random.key(0), model, optimizer, len(run_data.train.index))
    return config, model, optimizer, state, jax.tree.map(jnp.asarray, run_data)


KEY = jax.random.key(7)


@pytest.mark.parametrize("method", [pytest.param("baseline", marks=pytest.mark.slow), "l2rw"])
def test_a_chunk_is_its_steps_one_by_one(method):
    config, model, optimizer, state, run_data = _setup(method=method)
    step = make_step(config, model, optimizer)
    chunked, metrics = jax.jit(make_chunk(step, 5))(state, run_data, KEY)
    single = jax.jit(make_chunk(step, 1))
    for i in range(5):
        state, values = single(state, run_data, KEY)
        np.testing.assert_allclose(values["loss"], metrics["loss"][i], rtol=1e-5)
    assert int(chunked.step) == int(state.step) == 5
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), chunked, state
    )


def test_the_same_state_gives_the_same_step_and_another_step_another_batch():
    config, model, optimizer, state, run_data = _setup()
    step = jax.jit(make_step(config, model, optimizer))
    first, again = step(state, run_data, KEY)[0], step(state, run_data, KEY)[0]
    jax.tree.map(np.testing.assert_array_equal, first, again)
    later, _ = step(state._replace(step=state.step + 1), run_data, KEY)
    assert not np.array_equal(first.weight_count, later.weight_count)


def test_the_baseline_s_step_is_optax_s_on_the_mean_loss_with_l2_on_kernels():
    config, model, optimizer, state, run_data = _setup(method="baseline", weight_decay=0.01)
    state = state._replace(params=jax.tree.map(lambda p: p + 0.1, state.params))  # biases too
    stepped, metrics = jax.jit(make_step(config, model, optimizer))(state, run_data, KEY)

    keys = jax.random.split(jax.random.fold_in(KEY, 0), 5)
    rows = sample(keys[0], len(run_data.train.index), 32)
    images = run_data.images[run_data.train.index[rows]] / 255.0

    def objective(params):
        logits, _ = model.apply(params, {}, images, train=True)
        loss = losses.cross_entropy(logits, run_data.train.label[rows]).mean()
        squares = sum(jnp.sum(layer["kernel"] ** 2) for layer in params.values())
        return loss + 0.01 / 2 * squares, loss

    (_, loss), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(state.params)
    reference = optax.sgd(0.1, momentum=0.9)
    updates, _ = reference.update(grads, reference.init(state.params), state.params)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        stepped.params,
        optax.apply_updates(state.params, updates),
    )


def test_weights_are_added_to_the_examples_that_were_drawn():
    config, model, optimizer, state, run_data = _setup(method="baseline")
    state, _ = jax.jit(make_chunk(make_step(config, model, optimizer), 4))(state, run_data, KEY)
    assert int(state.weight_count.sum()) == 4 * 32
    np.testing.assert_allclose(state.weight_sum.sum(), 4, rtol=1e-6)
    drawn = np.asarray(state.weight_count) > 0
    means = mean_over_draws(np.asarray(state.weight_sum), np.asarray(state.weight_count))
    np.testing.assert_allclose(means[drawn], 1 / 32, rtol=1e-5)
    np.testing.assert_array_equal(means[~drawn], 0)


@pytest.mark.parametrize("method", ["baseline", "l2rw", "clean_only"])
def test_margins_of_the_given_labels_are_added_to_the_examples_that_were_drawn(method):
    config, model, optimizer, state, run_data = _setup(method=method)
    stepped, _ = jax.jit(make_step(config, model, optimizer))(state, run_data, KEY)
    keys = jax.random.split(jax.random.fold_in(KEY, 0), 5)
    rows = np.asarray(sample(keys[0], len(run_data.train.index), 32))
    images = run_data.images[run_data.train.index[rows]] / 255.0
    logits = np.asarray(model.apply(state.params, {}, images, train=True)[0])
    want = np.zeros(len(run_data.train.index))
    for row, z, label in zip(rows, logits, run_data.train.label[rows], strict=True):
        want[row] += z[label] - np.delete(z, label).max()
    np.testing.assert_allclose(stepped.margin_sum, want, rtol=1e-4, atol=1e-5)


def test_metrics_of_uniform_weights():
    config, model, optimizer, state, run_data = _setup(method="baseline")
    _, metrics = jax.jit(make_step(config, model, optimizer))(state, run_data, KEY)
    np.testing.assert_allclose(metrics["active_share"], 1)
    np.testing.assert_allclose(metrics["effective_sample_size"], 32, rtol=1e-6)
    np.testing.assert_allclose(metrics["weight_corrupted"], 1 / 32, rtol=1e-6)
    np.testing.assert_allclose(metrics["weight_uncorrupted"], 1 / 32, rtol=1e-6)


def test_without_any_weight_the_metrics_are_zero_not_nan():
    config, model, optimizer, state, run_data = _setup(method="clean_only")
    _, metrics = jax.jit(make_step(config, model, optimizer))(state, run_data, KEY)
    for name in ("active_share", "effective_sample_size", "weight_corrupted"):
        assert float(metrics[name]) == 0


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("", [0.1, 0.1, 0.1, 0.1]),
        ("exponential_decay(decay_rate=0.25)", [0.1, 0.05, 0.025, 0.025]),
        ("exponential_decay(decay_rate=1.0)", [0.1, 0.1, 0.1, 0.1]),
        ("warmup_constant_schedule(warmup_steps=10)", [0.0, 0.05, 0.1, 0.1]),
        ("linear_schedule(end_value=0.05)", [0.1, 0.075, 0.05, 0.05]),
    ],
)
def test_a_schedule_runs_over_the_steps_and_ends_with_them(schedule, rates):
    """Its first or highest rate is the config's; fine-tuning goes on at its last."""
    config = default_config()
    config.schedule, config.steps = schedule, 10
    got = [make_schedule(config)(step) for step in (0, 5, 10, 20)]
    np.testing.assert_allclose(got, rates, rtol=1e-6, atol=1e-9)


def test_an_argument_that_is_optax_s_own_default_is_taken():
    config = default_config()
    config.optimizer = "optimistic_gradient_descent(alpha=1.0, beta=1.0)"
    make_optimizer(config)


def test_the_schedule_drops_tenfold_at_the_boundaries_and_clipping_bounds_the_update():
    config = default_config()
    config.boundaries, config.clip_norm = (1,), 0.5
    config.optimizer = "sgd"
    optimizer = make_optimizer(config)
    params = {"kernel": jnp.zeros(4)}
    opt_state = optimizer.init(params)
    norms = []
    for _ in range(2):
        updates, opt_state = optimizer.update({"kernel": jnp.full(4, 9.0)}, opt_state, params)
        norms.append(float(optax.tree.norm(updates)))
    np.testing.assert_allclose(norms, [0.1 * 0.5, 0.01 * 0.5], rtol=1e-5)


def test_a_learned_weighting_has_adam_with_l2_and_the_network_its_own_optimizer():
    config = default_config()
    config.update_from_flattened_dict({"weight_decay": 0.1, "clip_norm": 1.0})
    own, optimizer = make_optimizer(config), with_weighting(make_optimizer(config))
    network = {"layer": {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([3.0])}}
    params = network | {"weighting": {"kernel": jnp.array([3e4, 0.2])}}
    grads = jax.tree.map(jnp.ones_like, params) | {"weighting": {"kernel": jnp.array([-2.0, 9.0])}}
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    alone = {name: grads[name] for name in network}
    want, _ = own.update(alone, own.init(network), network)
    jax.tree.map(np.testing.assert_array_equal, {"layer": updates["layer"]}, want)
    # Adam's first step is of length 0.001 whatever the gradient; the L2 term turns the first one.
    np.testing.assert_allclose(updates["weighting"]["kernel"], [-1e-3, -1e-3], rtol=1e-4)


def test_a_method_is_told_the_learning_rate_of_the_step():
    """That of the optimizer, which counts good steps."""
    config, model, optimizer, state, run_data = _setup(boundaries=(4,), steps=100)
    method = Method(lambda info: by_loss(lambda losses, batch: info.learning_rate * (losses > 0)))
    batches = make_batches(config, balanced=False)
    options = {"schedule": make_schedule(config)}
    step = jax.jit(make_step_of(method, model, optimizer, batches, **options))
    for bad, rate in ((0, 0.01), (2, 0.1)):
        at = state._replace(step=jnp.array(5), bad_steps=jnp.array(bad))
        np.testing.assert_allclose(
            step(at, run_data, KEY)[0].weight_sum.sum(), 32 * rate, rtol=1e-5
        )


@pytest.mark.parametrize("finetune", [False, True])
def test_a_network_is_trained_with_a_learned_weighting(finetune):
    config, model, _, _, run_data = _setup(method="mwnet")
    optimizer, method = with_weighting(make_optimizer(config)), get_method("mwnet")
    own = method_params(method, jax.random.key(0), run_data.confusion)
    state = create_state(jax.random.key(0), model, optimizer, len(run_data.train.index), own)
    step = jax.jit(make_step(config, model, optimizer, finetune=finetune))
    stepped, metrics = step(state, run_data, KEY)
    assert int(stepped.bad_steps) == 0 and np.isfinite(metrics["clean_loss"])
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), stepped.params, state.params)
    moved = {name: max(jax.tree.leaves(each)) for name, each in difference.items()}
    weighting = moved.pop("weighting")
    assert finetune or weighting == pytest.approx(1e-3, rel=0.01)
    assert min(moved.values()) > 1e-4


def test_the_average_of_the_parameters_forgets_by_its_decay():
    config, model, optimizer, state, run_data = _setup(method="baseline", ema=0.9)
    state = create_state(jax.random.key(0), model, optimizer, len(run_data.train.index), ema=True)
    step = jax.jit(make_step(config, model, optimizer))
    want = state.params
    for _ in range(3):
        state, _ = step(state, run_data, KEY)
        want = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, want, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.ema_params, want)


def test_prediction_is_the_model_s():
    config, model, _, state, run_data = _setup()
    images = run_data.test_images[:53]
    predicted = make_predict(model, make_batches(config, balanced=False))(state.params, {}, images)
    logits, _ = model.apply(state.params, {}, images / 255.0, train=False)
    np.testing.assert_array_equal(predicted, jnp.argmax(logits, -1))


def test_the_batch_and_the_clean_batch_are_thinned_by_dropout_of_their_own():
    config = default_config()
    config.update_from_flattened_dict({"batch_size": 20, "clean_batch_size": 20})
    run_data, _ = prepare(config)
    keys = set()

    def apply(params, model_state, images, *, train, rng):
        jax.debug.callback(lambda data: keys.add(tuple(data.tolist())), jax.random.key_data(rng))
        return images.reshape(20, -1)[:, :10] * params["kernel"], model_state

    model = Model(init=lambda key: ({"kernel": jnp.ones(10)}, {}), apply=apply)
    optimizer = make_optimizer(config)
    state = create_state(jax.random.key(0), model, optimizer, len(run_data.train.index))
    step = jax.jit(make_step(config, model, optimizer))
    step(state, jax.tree.map(jnp.asarray, run_data), KEY)
    jax.effects_barrier()
    assert len(keys) == 2


def test_fine_tuning_trains_on_the_clean_set_alone():
    config, model, optimizer, state, run_data = _setup(method="l2rw", clean_batch_size=50)
    step = jax.jit(make_step(config, model, optimizer, finetune=True))
    tuned, _ = step(state, run_data, KEY)

    keys = jax.random.split(jax.random.fold_in(KEY, 0), 5)
    rows = sample_without_replacement(keys[1], len(run_data.clean.index), 50)
    images = run_data.images[run_data.clean.index[rows]] / 255.0

    def clean_loss(params):
        logits, _ = model.apply(params, {}, images, train=True)
        return losses.cross_entropy(logits, run_data.clean.label[rows]).mean()

    expected = jax.tree.map(
        lambda p, g: p - 0.1 * g, state.params, jax.jit(jax.grad(clean_loss))(state.params)
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), tuned.params, expected
    )
    np.testing.assert_array_equal(tuned.weight_count, 0)


def test_the_clean_loss_takes_its_own_l2_on_kernels():
    """With it, the scores change by the products of the losses' gradients with lambda theta."""
    results = {}
    for decay in (0.0, 0.5):
        config, model, optimizer, state, run_data = _setup(clean_weight_decay=decay)
        _, metrics = jax.jit(make_step(config, model, optimizer))(state, run_data, KEY)
        results[decay] = metrics["clean_loss"]
    squares = sum(jnp.sum(layer["kernel"] ** 2) for layer in state.params.values())
    # The clean loss is taken at the parameters, for plain SGD looks ahead from there.
    np.testing.assert_allclose(results[0.5] - results[0.0], 0.25 * squares, rtol=1e-5)


def test_the_clean_loss_takes_label_smoothing():
    config, model, optimizer, state, run_data = _setup(clean_smoothing=0.2, clean_batch_size=50)
    _, metrics = jax.jit(make_step(config, model, optimizer))(state, run_data, KEY)
    keys = jax.random.split(jax.random.fold_in(KEY, 0), 5)
    rows = sample_without_replacement(keys[1], len(run_data.clean.index), 50)
    images = run_data.images[run_data.clean.index[rows]] / 255.0
    log_p = jax.nn.log_softmax(model.apply(state.params, {}, images, train=True)[0])
    own = log_p[jnp.arange(50), run_data.clean.label[rows]]
    want = -(0.8 * own + 0.2 * log_p.mean(1)).mean()
    np.testing.assert_allclose(metrics["clean_loss"], want, rtol=1e-6)


def test_a_class_without_examples_leaves_the_transition_finite():
    confusion = jnp.array([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    transition = initial_transition(get_method("s_model_conf"), confusion)
    rows = jax.nn.softmax(transition, axis=1)
    np.testing.assert_allclose(rows[0], [0.7458, 0.2508, 0.0033], atol=1e-3)
    np.testing.assert_allclose(rows[1], [0.0033, 0.9933, 0.0033], atol=1e-3)
