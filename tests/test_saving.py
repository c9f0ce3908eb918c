"""A saved classifier is two files that are replaced as one, and nothing else is touched."""

import contextlib
import itertools
import json
import os

import numpy as np
import pytest

from l2rw_jax._saved import model_file, put


def about(number):
    return {"format": 1, "parameters": {}, "classes": [], "network": [], "number": number}


def save(folder, number):
    put(folder, {"x": np.full(1000, number)}, about(number))


def load(folder):
    """The numbers of the arrays and of config.json."""
    config = json.loads((folder / "config.json").read_text())
    return int(np.load(model_file(folder, config))["x"][0]), config["number"]


def test_it_writes_over_an_earlier_save_alone(tmp_path):
    for name in ("config.json", "model.npz"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("{}")
        with pytest.raises(ValueError, match=rf"holds a {name} that save did not write"):
            save(folder, 1)
        (folder / name).rename(folder / "mine")
        (folder / name).symlink_to("mine")
        with pytest.raises(OSError, match="Is a symbolic link"):
            save(folder, 1)
        assert (folder / "mine").read_text() == "{}" and len(list(folder.iterdir())) == 2
    both = tmp_path / "a/new/folder"
    for number in (1, 2):
        save(both, number)
        (both / "notes.txt").write_text("mine")
        assert load(both) == (number, number)
    assert {path.name for path in both.iterdir()} == {"config.json", "model.npz", "notes.txt"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_anywhere_leaves_the_old_one_or_the_new_one(tmp_path, monkeypatch, error):
    found = []
    for name, number in itertools.product(("fsync", "replace"), range(1, 7)):
        save(tmp_path, 1)
        count, function = itertools.count(1), getattr(os, name)

        def fail(*args, function=function, number=number, count=count):
            if next(count) == number:
                raise error
            return function(*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with contextlib.suppress(OSError, KeyboardInterrupt):
                save(tmp_path, 2)
        found.append(load(tmp_path))
    assert set(found) == {(1, 1), (2, 2)}
    save(tmp_path, 3)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.npz"]


def test_config_json_cannot_name_another_file(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "other.npz").touch()
    for name in ("other.npz", "../x/.model-0123456789abcdef.npz", 3, None, ["a"], "/dev/zero"):
        assert model_file(tmp_path, about(1) | {"unfinished": name}) == tmp_path / "model.npz"
