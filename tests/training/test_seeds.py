"""Seeds trained side by side leave what each alone would have left."""

import json
import shutil

import numpy as np
import pytest

from l2rw_jax.training import ConfigError, RunError, default_config, seeds
from l2rw_jax.training.errors import OutOfMemory
from l2rw_jax.training.seeds import train_seeds
from l2rw_jax.training.workdir import read_metrics


def _config(**fields):
    config = default_config()
    defaults = {"noise.kind": "uniform", "noise.ratio": 0.4, "model": "mlp-16", "steps": 10}
    defaults |= {"log_every": 5, "eval_every": 5, "checkpoint_every": 5, "seed": 3}
    config.update_from_flattened_dict(defaults | fields)
    return config


@pytest.mark.parametrize(
    "method",
    ["l2rw", *(pytest.param(m, marks=pytest.mark.slow) for m in ("s_model_conf", "mwnet"))],
)
def test_seeds_side_by_side_leave_each_seed_s_files(method, tmp_path):
    config = _config(method=method, val_size=50, finetune_steps=5)
    folders = {kind: [tmp_path / kind / f"seed{i}" for i in (3, 4)] for kind in ("one", "two")}
    alone = train_seeds(config, folders["one"], together=False)
    together = train_seeds(config, folders["two"], together=True)
    assert (tmp_path / "two/seeds3-4").exists() and not (tmp_path / "one/seeds3-4").exists()
    for i in range(2):
        assert together[i]["seed"] == alone[i]["seed"] == 3 + i
        assert together[i].pop("side_by_side") == 2
        assert together[i].keys() == alone[i].keys()
        for name in ("test_accuracy", "val_accuracy", "test_accuracy_before_finetune"):
            np.testing.assert_allclose(together[i][name], alone[i][name], atol=0.02)
        one, two = folders["one"][i], folders["two"][i]
        assert (one / "config.json").read_text() == (two / "config.json").read_text()
        for a, b in zip(read_metrics(one), read_metrics(two), strict=True):
            assert a.keys() == b.keys()
            np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-3)
        a, b = np.load(one / "weights.npz"), np.load(two / "weights.npz")
        np.testing.assert_array_equal(a["count"], b["count"])
        np.testing.assert_array_equal(a["corrupted"], b["corrupted"])
        np.testing.assert_allclose(a["mean_weight"], b["mean_weight"], atol=1e-4)
        np.testing.assert_allclose(a["mean_margin"], b["mean_margin"], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_what_is_done_is_not_trained_again_and_what_does_not_fit_is_halved(tmp_path, monkeypatch):
    config = _config(seed=0)
    folders = [tmp_path / f"seed{i}" for i in range(5)]
    calls = []
    train = seeds.train_and_evaluate

    def with_room_for_two(config, workdir):
        calls.append((config.seed, config.seeds))
        if config.seeds > 2:
            workdir.mkdir()
            raise OutOfMemory("RESOURCE_EXHAUSTED: out of memory")
        return train(config, workdir)

    monkeypatch.setattr(seeds, "train_and_evaluate", with_room_for_two)
    train_seeds(config, folders[:1], together=True)
    assert calls == [(0, 1)]
    train_seeds(config, folders, together=True)
    assert [seed_and_count for seed_and_count in calls if seed_and_count[1] > 1] == [
        (1, 4),
        (1, 2),
        (3, 2),
    ]
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    assert [result["seed"] for result in results] == [0, 1, 2, 3, 4]
    calls.clear()
    shutil.rmtree(tmp_path / "seeds1-2")
    shutil.rmtree(folders[4])  # as if killed before its files were split off
    assert train_seeds(config, folders, together=True)[4] == results[4]
    assert all(count == 1 for _, count in calls)  # they only read their results


def test_seeds_that_cannot_go_on_together_train_one_by_one(tmp_path, monkeypatch):
    train = seeds.train_and_evaluate

    def alone_only(config, workdir):
        if config.seeds > 1:
            raise RunError("step 7")
        return train(config, workdir)

    monkeypatch.setattr(seeds, "train_and_evaluate", alone_only)
    results = train_seeds(_config(), [tmp_path / "seed3", tmp_path / "seed4"], together=True)
    assert [result["seed"] for result in results] == [3, 4]


def test_a_seed_that_cannot_go_on_leaves_the_others(tmp_path, monkeypatch):
    train = seeds.train_and_evaluate

    def all_but_four(config, workdir):
        if config.seed == 4:
            raise RunError("step 7")
        return train(config, workdir)

    monkeypatch.setattr(seeds, "train_and_evaluate", all_but_four)
    folders = [tmp_path / f"seed{i}" for i in (3, 4, 5)]
    three, four, five = train_seeds(_config(), folders, together=False)
    assert (three["seed"], five["seed"]) == (3, 5)
    assert isinstance(four, RunError) and str(four) == "step 7"
    assert [(folder / "result.json").exists() for folder in folders] == [True, False, True]


def test_several_seeds_of_several_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"config.seeds: got 2; takes 1 where seeds"):
        train_seeds(_config(seeds=2), [tmp_path / "seed3"])
