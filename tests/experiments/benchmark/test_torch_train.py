"""Training in PyTorch: the same trajectory as ours, all of the data's way included."""

import json

import forked
import jax
import numpy as np
import optax
import pytest

from l2rw_jax.training import ConfigError, default_config, train_and_evaluate
from l2rw_jax.training import workdir as files

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")

from experiments.benchmark.torch_baseline import steps, train  # noqa: E402


def tiny():
    config = default_config()
    config.model = "lenet"
    config.clean_size = config.clean_batch_size = 20
    config.batch_size = 30
    config.noise.kind, config.noise.ratio = "uniform", 0.4
    config.pad, config.flip, config.low = 1, True, -1.0
    config.learning_rate, config.boundaries = 0.03, (4,)
    config.weight_decay, config.clip_norm = 1e-3, 1.0
    config.steps = config.eval_every = config.checkpoint_every = 6
    config.log_every = 1
    return config


@pytest.mark.slow
@pytest.mark.parametrize("method", ["baseline", "l2rw"])
def test_both_frameworks_take_the_same_steps(method, tmp_path):
    config = tiny()
    config.method = method
    want = train_and_evaluate(config, tmp_path / "ours")
    got = train.train_and_evaluate(config, tmp_path / "torch")
    losses = [
        [line["loss"] for line in files.read_metrics(tmp_path / side)] for side in ("torch", "ours")
    ]
    assert len(losses[0]) == config.steps and np.ptp(losses[1]) > 0.01
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert got["test_accuracy"] == pytest.approx(want["test_accuracy"], abs=0.01)
    assert got["noise_auroc"] == pytest.approx(want["noise_auroc"], abs=0.01)


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(tmp_path):
    config = tiny()
    first = train.train_and_evaluate(config, tmp_path)
    assert train.train_and_evaluate(config, tmp_path) == first
    assert len(files.read_metrics(tmp_path)) == config.steps


def test_random_weights_are_rectified_gaussians():
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    network.forward = lambda x, update_moments=False: torch.nn.Linear.forward(network, x)
    step = steps.make_step("random", network, steps.make_optimizer(network, rate=0.1))
    images, labels = torch.ones(1000, 3), torch.zeros(1000, dtype=torch.long)
    weights, _ = step(images, labels, images[:1], labels[:1])
    assert weights.sum() == pytest.approx(1, rel=1e-5)
    assert (weights == 0).float().mean() == pytest.approx(0.5, abs=0.05)
    # E max(z, 0)^2 = 1/2 and E max(z, 0) = 1 / sqrt(2 pi), so b sum w^2 is pi.
    assert 1000 * (weights**2).sum() == pytest.approx(np.pi, rel=0.15)


def test_what_only_ours_can_do_is_refused(tmp_path):
    config = tiny()
    config.optimizer = "adam"
    with pytest.raises(
        ConfigError, match=r"config.optimizer: got 'adam'; PyTorch's side takes only the default"
    ):
        train.train_and_evaluate(config, tmp_path / "run")
    config = tiny()
    config.method = "clean_only"
    with pytest.raises(ConfigError, match="takes one of baseline, random, l2rw"):
        train.train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_every_field_that_pytorch_does_not_honour_is_refused_by_name():
    defaults = files.flatten(default_config().to_dict())
    assert defaults.keys() >= train.HONOURED
    others = {bool: lambda x: not x, int: lambda x: x + 1, float: lambda x: x + 0.5}
    others |= {str: lambda x: f"{x}?", tuple: lambda x: (*x, 7)}
    wrong = []
    for field, default in defaults.items():
        config = default_config()
        config.update_from_flattened_dict({field: others[type(default)](default)})
        try:
            train.check_fields(config)
            refused = ""
        except ConfigError as error:
            refused = str(error).partition(":")[0]
        if refused != ("" if field in train.HONOURED else f"config.{field}"):
            wrong.append((field, refused))
    assert not wrong


def test_a_field_that_is_new_is_refused():
    config = default_config().unlock()
    config.l2rw = {"temperature": 2.0}
    with pytest.raises(ConfigError, match=r"config\.l2rw\.temperature: got 2\.0"):
        train.check_fields(config)


def test_the_rate_drops_where_optax_s_does():
    network = torch.nn.Linear(3, 2)
    optimizer = steps.make_optimizer(network, rate=0.03)
    config = tiny()
    config.boundaries = (2, 4)
    rates = []
    for step in range(6):
        train.set_rate(optimizer, config, step)
        rates.append([group["lr"] for group in optimizer.param_groups])
    schedule = optax.piecewise_constant_schedule(0.03, {2: 0.1, 4: 0.1})
    want = [[float(schedule(jax.numpy.asarray(step)))] * 2 for step in range(6)]
    np.testing.assert_allclose(rates, want, rtol=1e-6)


@pytest.mark.slow
def test_side_by_side(tmp_path):
    output = tmp_path / "out" / "both"
    start = ["--seeds=1", "--methods=l2rw", "--config=configs/digits.py:smoke"]
    start += [f"--workdir={tmp_path}/runs", f"--output={output}", "--config.model=lenet"]
    start += ["--config.learning_rate=0.01", "--config.batch_size=20"]
    start += [f"--config.{name}=4" for name in ("steps", "log_every", "eval_every")]
    ((status, out, errors),) = forked.run("benchmark.side_by_side", [start], tmp_path / "done")
    assert status == 0, errors
    written = json.loads(output.with_suffix(".json").read_text())
    assert [(r["framework"], r["method"], r["seeds"]) for r in written["summary"]] == [
        ("ours", "l2rw", 1),
        ("torch", "l2rw", 1),
    ]
    ours, theirs = (run["test_balanced_accuracy"] for run in written["runs"])
    assert written["differences"] == {"l2rw": {"mean": ours - theirs, "ci95": None}}
    assert abs(ours - theirs) <= 0.1
    assert "--seeds=1" in written["command"] and written["versions"]["torch"]
    assert "| torch | l2rw |" in out
    assert output.with_suffix(".md").read_text().strip() in out
    assert output.with_suffix(".png").stat().st_size > 10_000
