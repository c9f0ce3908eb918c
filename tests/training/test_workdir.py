"""Damaged files of a run: told in one line, and nothing that can be kept is lost."""

import errno
import json
import os
import resource
import shutil

import numpy as np
import pytest

from l2rw_jax.training import ConfigError, RunError, default_config, train_and_evaluate
from l2rw_jax.training.workdir import (
    append_metrics,
    read_metrics,
    read_weights,
    remove_unsaved,
    write_json,
)


def _config(**fields):
    config = default_config()
    every = {"log_every": 5, "eval_every": 10, "checkpoint_every": 10}
    config.update_from_flattened_dict({"model": "mlp-16", "steps": 20} | every | fields)
    return config


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The folder of a run that is done."""
    folder = tmp_path_factory.mktemp("done")
    train_and_evaluate(_config(), folder)
    return folder


@pytest.fixture
def run(done, tmp_path):
    """A copy of it."""
    return shutil.copytree(done, tmp_path / "run")


def _cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def _zeros(path):
    content = path.read_bytes()
    path.write_bytes(content[:30] + bytes(40) + content[70:])


def _blank(path):
    path.write_text("\n\n")


def _not_utf8(path):
    path.write_bytes(b"\xff\xfe\n" + path.read_bytes())


def _other(path):
    path.write_text('[1]\n{"step": "5"}\n{"step": true}\n' + path.read_text())


def _nested(path):
    path.write_text("[" * 100_000 + "\n" + path.read_text())


def _missing(path):
    path.unlink()


@pytest.mark.parametrize("damage", [_cut, _zeros, _blank, _not_utf8, _other, _nested, _missing])
def test_a_damaged_log_costs_no_more_than_its_lines(run, done, damage, caplog):
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints/20")
    damage(run / "metrics.jsonl")
    result = train_and_evaluate(_config(), run)
    want = json.loads((done / "result.json").read_text())
    for name in ("test_accuracy", "best_test_accuracy", "steps"):
        assert result[name] == want[name]
    assert "metrics.jsonl" in caplog.text
    kept = [line["step"] for line in read_metrics(run)]
    assert kept[-2:] == [15, 20] and kept == sorted(set(kept)) and set(kept) <= {5, 10, 15, 20}


def test_without_its_log_a_finished_run_still_writes_its_result(run, done):
    (run / "metrics.jsonl").unlink()
    (run / "result.json").unlink()
    result = train_and_evaluate(_config(), run)
    want = json.loads((done / "result.json").read_text())
    differ = dict.fromkeys(("steps_per_second", "compile_seconds"))
    assert result | differ == want | differ


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "\0", "null"])
def test_a_damaged_result_is_one_line(run, content):
    (run / "result.json").write_text(content)
    with pytest.raises(
        RunError, match=r"result.json cannot be read: no JSON.*; remove it"
    ) as error:
        train_and_evaluate(_config(), run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "\0"])
def test_a_damaged_config_is_one_line(run, content):
    (run / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config.json is not a config; take another"):
        train_and_evaluate(_config(), run)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "result.json", "weights.npz"])
def test_a_folder_in_the_place_of_a_file_is_named(run, name):
    (run / name).unlink()
    (run / name).mkdir()
    with pytest.raises(ConfigError, match=rf"{name} is no file, as a run's is; take another"):
        train_and_evaluate(_config(), run)


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
def test_a_file_in_the_place_of_a_folder_is_named(name, tmp_path):
    (tmp_path / name).write_text("")
    with pytest.raises(ConfigError, match=rf"{name} is no folder, as a run's is; take another"):
        train_and_evaluate(_config(), tmp_path)


def test_a_device_in_the_place_of_a_file_is_named(run):
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(ConfigError, match=r"metrics.jsonl is no file, as a run's is; take another"):
        train_and_evaluate(_config(), run)


def test_a_result_of_other_types_is_one_line(run):
    for content in ('{"method": 3, "test_accuracy": 0.5}', '{"method": "a", "test_accuracy": "b"}'):
        (run / "result.json").write_text(content)
        with pytest.raises(RunError, match=r"its (method|test_accuracy) is none; remove it"):
            train_and_evaluate(_config(), run)


def test_what_cannot_be_written_leaves_nothing_half_done(tmp_path):
    (tmp_path / "result.json").mkdir()
    with pytest.raises(RunError, match=r"cannot be written: Is a directory; what was saved"):
        write_json(tmp_path / "result.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "result.json", "weights.npz"])
def test_a_link_in_the_place_of_a_file_is_named(run, name, tmp_path):
    (run / name).rename(tmp_path / "mine")
    for target in (tmp_path / "mine", tmp_path / "none"):
        (run / name).symlink_to(target)
        with pytest.raises(ConfigError, match=rf"{name} is no file, as a run's is; take another"):
            train_and_evaluate(_config(), run)
        (run / name).unlink()
    assert not (tmp_path / "none").exists()


def test_a_run_leaves_the_files_of_others(tmp_path):
    names = ["result.json.tmp", "metrics.jsonl.tmp", ".lock", "notes.txt", "checkpoints.old/1/a"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    train_and_evaluate(_config(steps=5, log_every=5, eval_every=5), tmp_path)
    assert {(tmp_path / name).read_text() for name in names} == {"mine"}
    remove_unsaved(tmp_path)  # as if it had not fitted into memory
    assert {(tmp_path / name).read_text() for name in names} == {"mine"}
    assert (tmp_path / "result.json").exists() and not (tmp_path / "metrics.jsonl").exists()


def test_the_lock_is_not_made_behind_a_link(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"cannot be written: Too many levels of symbolic links"):
        train_and_evaluate(_config(), tmp_path / "run")
    assert not (tmp_path / "elsewhere").exists()


def test_a_line_that_does_not_fit_is_not_left_half(run):
    before = (run / "metrics.jsonl").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(RunError, match=r"metrics.jsonl cannot be written: "):
            append_metrics(run, {"step": 25, "loss": 0.123456789})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_full_disk_names_the_folder_and_the_bytes(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_json(tmp_path / "result.json", {"a": 1})
    monkeypatch.setattr(os, "fsync", full)
    told = rf"{tmp_path}/result.json cannot be written: No space left on device for 13 bytes"
    with pytest.raises(RunError, match=told):
        write_json(tmp_path / "result.json", {"a": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert json.loads((tmp_path / "result.json").read_text()) == {"a": 1}


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"{}"])
def test_damaged_weights_are_one_line(run, content):
    (run / "weights.npz").write_bytes(content)
    with pytest.raises(RunError, match=r"weights.npz cannot be read: .*; remove ") as error:
        read_weights(run)
    assert "\n" not in str(error.value)


def test_weights_of_unlike_lengths_are_one_line(run):
    arrays = {"mean_weight": [1.0], "mean_margin": [1.0], "count": [1, 2], "corrupted": [True]}
    np.savez(run / "weights.npz", **arrays)
    with pytest.raises(RunError, match=r"weights.npz cannot be read: its arrays are of unlike"):
        read_weights(run)


def test_weights_come_back(run):
    weights = read_weights(run)
    assert weights["count"].sum() == 20 * 100
    np.testing.assert_allclose((weights["mean_weight"] * weights["count"]).sum(), 20, rtol=1e-4)


@pytest.mark.parametrize("name", ["", "a\0b", "gs://bucket/run", "s3://x", "x" * 300])
def test_a_name_that_is_no_folder_s_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^workdir: ") as error:
        train_and_evaluate(_config(), name)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
