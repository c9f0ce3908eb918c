"""Training in memory is the trainer's step, network by network, on rows that are read as drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2rw_jax import data, l2rw
from l2rw_jax.methods import get_method
from l2rw_jax.models import create_model
from l2rw_jax.training import ConfigError, RunError, default_config, validate
from l2rw_jax.training import fit as fit_module
from l2rw_jax.training.batches import make_batches
from l2rw_jax.training.fit import fit, probabilities, recipe
from l2rw_jax.training.optimizers import make_lookahead, make_optimizer, make_schedule
from l2rw_jax.training.prepare import Part, RunData
from l2rw_jax.training.state import create_state, mean_over_draws, method_params, seed_keys
from l2rw_jax.training.step import make_step

DIGITS = data.load("digits")
IMAGES, LABELS = DIGITS.train_images[:300], DIGITS.train_labels[:300]
CLEAN_IMAGES, CLEAN_LABELS = DIGITS.train_images[300:340], DIGITS.train_labels[300:340]
DATA = (IMAGES, LABELS, CLEAN_IMAGES, CLEAN_LABELS, 10)


def config_of(**fields):
    config = default_config()
    config.update(model="mlp-8", batch_size=16, clean_batch_size=16, clean_size=40, seed=3)
    config.update(steps=10, log_every=5, eval_every=10, checkpoint_every=10)
    config.update_from_flattened_dict(fields)
    return config


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "l2rw", "l2rw.lookahead": "sgd(momentum=0.9)"},
        *(
            pytest.param(fields, marks=pytest.mark.slow)
            for fields in (
                {"method": "evidence"},
                {"method": "s_model", "ema": 0.5},
                {"method": "baseline", "balanced": True},
            )
        ),
    ],
    ids=lambda fields: fields["method"],
)
def test_one_network_is_the_loop_of_its_steps(fields):
    config = config_of(**fields)
    _, fitted = fit(config, *DATA)

    model = create_model(config.model, num_classes=10, image_shape=IMAGES.shape[1:])
    optimizer = make_optimizer(config)
    run_data = RunData(
        images=np.concatenate([IMAGES, CLEAN_IMAGES]),
        train=Part(np.arange(300), LABELS),
        corrupted=np.zeros(300, bool),
        confusion=np.diag(np.bincount(LABELS, minlength=10)).astype(np.float32),
        clean=Part(300 + np.arange(40), CLEAN_LABELS),
        val=None,
        test_images=None,
        test_labels=None,
    )
    method = get_method(config.method)
    lookahead = make_lookahead(config)
    if lookahead:
        method = method._replace(weighting=lambda info: l2rw(lookahead))
    batches = make_batches(config, balanced=config.balanced)
    fields = {"schedule": make_schedule(config), "ema": config.ema}
    step = make_step(method, model, optimizer, batches, **fields)
    init_key, key = seed_keys(3)
    own = method_params(method, init_key, jnp.asarray(run_data.confusion))
    options = {"lookahead": lookahead, "ema": config.ema > 0}
    state = create_state(init_key, model, optimizer, 300, own, **options)
    run_data = jax.tree.map(jnp.asarray, run_data)
    jitted = jax.jit(step)
    for _ in range(config.steps):
        state, _ = jitted(state, run_data, key)
    params = dict(state.ema_params if config.ema else state.params)
    params.pop("transition", None)
    assert_close(jax.tree.map(lambda p: p[0], fitted.params), params)
    np.testing.assert_array_equal(fitted.counts, state.weight_count)
    assert_close(fitted.weights, mean_over_draws(state.weight_sum, state.weight_count))


def test_networks_side_by_side_are_those_of_their_seeds():
    _, together = fit(config_of(seeds=2), *DATA)
    singles = [fit(config_of(seed=seed), *DATA)[1] for seed in (3, 4)]
    for i, single in enumerate(singles):
        own = jax.tree.map(lambda p, i=i: p[i : i + 1], together.params)
        assert_close(own, single.params)
    counts = sum(single.counts for single in singles)
    np.testing.assert_array_equal(together.counts, counts)
    total = sum(single.counts * single.weights for single in singles)
    assert_close(together.weights, total / np.maximum(counts, 1))


@pytest.mark.parametrize(
    "n, m, steps", [(3, 2, None), (3, 2, 1), (90, 90, 130), (10**6, 500, None)]
)
def test_the_recipe_is_a_config_for_any_size(n, m, steps):
    config = validate(recipe(n, m, steps=steps, batch_size=100, method="gce"))
    assert config.batch_size <= n and config.clean_batch_size <= m
    assert config.steps >= (steps or 500) and config.steps * config.batch_size >= n


class Recorded:
    """Images that can only be indexed; keeps what was asked for."""

    def __init__(self, images):
        self.images, self.asked = images, []
        self.shape = images.shape

    def __len__(self):
        return len(self.images)

    def __getitem__(self, rows):
        self.asked.append(self.images[rows].shape[:-3])
        return self.images[rows]


def test_rows_are_read_as_they_are_drawn():
    recorded = Recorded(IMAGES)
    _, fitted = fit(config_of(seeds=2), recorded, *DATA[1:])
    assert recorded.asked == [(2, 5, 16)] * 2  # networks, steps of a chunk, batch
    assert_close(fitted.params, fit(config_of(seeds=2), *DATA)[1].params)


def test_a_memory_map_trains_as_an_array_does(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    assert_close(fit(config_of(), mapped, *DATA[1:])[1], fit(config_of(), *DATA)[1])


def test_balanced_batches_draw_every_class_alike():
    rare = np.flatnonzero(LABELS == 0)[:2]
    kept = np.sort(np.concatenate([rare, np.flatnonzero(LABELS != 0)]))
    labels = (LABELS[kept] != 0).astype(np.int32)
    few = (IMAGES[kept], labels, CLEAN_IMAGES, (CLEAN_LABELS != 0).astype(np.int32), 2)
    share = {}
    for balanced in (False, True):
        config = config_of(balanced=balanced, steps=50, eval_every=50, checkpoint_every=50)
        counts = fit(config, *few)[1].counts
        share[balanced] = counts[labels == 0].sum() / counts.sum()
    assert share[False] < 0.05 and 0.4 < share[True] < 0.6


def test_the_next_training_on_such_data_compiles_nothing():
    fit(config_of(), *DATA)
    before = fit_module._programs.cache_info()
    fit(config_of(seed=9, seeds=2), IMAGES[:100], LABELS[:100], *DATA[2:])
    after = fit_module._programs.cache_info()
    assert (after.hits, after.misses) == (before.hits + 1, before.misses)


def test_a_training_that_diverges_ends_with_a_line():
    with pytest.raises(RunError, match="not finite for 2 steps in a row; try a smaller learning"):
        fit(config_of(learning_rate=1e38, max_bad_steps=2), *DATA)


def test_a_field_that_cannot_be_is_named():
    with pytest.raises(ConfigError, match=r"config\.model"):
        fit(config_of(model="mlp"), *DATA)


@pytest.mark.parametrize("n", [1, 3, 40, 300])
def test_probabilities_are_the_mean_of_the_networks(n, monkeypatch):
    monkeypatch.setattr(fit_module, "_ROWS", 64)
    model, fitted = fit(config_of(seeds=2), *DATA)
    images = IMAGES[:n]
    got = probabilities(model, fitted.params, fitted.model_state, images, low=-1.0)
    scaled = images / 255 * 2 - 1
    logits = [
        model.apply(jax.tree.map(lambda p, i=i: p[i], fitted.params), {}, scaled, train=False)[0]
        for i in range(2)
    ]
    np.testing.assert_allclose(got, np.mean([jax.nn.softmax(z) for z in logits], 0), atol=1e-5)
    assert got.shape == (n, 10)


def test_a_network_draws_each_example_as_often_as_its_share():
    shares = np.ones((2, len(LABELS)))
    shares[0, :100] = 0
    shares[1, 100:] = 0
    shares[1, 0] = 50
    _, fitted = fit(config_of(method="baseline", seeds=2, steps=20), *DATA, shares=shares)
    counts = fitted.counts
    assert counts.sum() == 2 * 20 * 16
    # The second network draws its first example a third of the time: 107 of 320, give or take.
    assert 70 < counts[0] < 145
    assert counts[:100].sum() == counts[100:].sum() == 320


def test_certain_soft_labels_are_labels():
    config = config_of(method="baseline")
    soft = np.eye(10)[LABELS]
    for method in ("baseline", "gce"):
        config.method = method
        hard = fit(config, *DATA)[1]
        certain = fit(config, IMAGES, soft, *DATA[2:])[1]
        assert_close(hard.params, certain.params)
