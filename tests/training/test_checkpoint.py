"""A checkpoint comes back as it was saved; one that is torn is passed over, and said so."""

import logging
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2rw_jax.training import ConfigError, RunError, checkpoint
from l2rw_jax.training.state import TrainState


def _state(step, size=5000):
    values = np.random.default_rng(step).normal(size=size).astype(np.float32)
    empty: dict = {}
    zero = np.zeros((), np.int32)
    counts = np.arange(3, dtype=np.int32)
    params = {"kernel": values}
    step = np.array(step, np.int32)
    return TrainState(step, params, *[empty] * 4, values, values, counts, zero, zero)


def _save(folder, *steps, keep=2):
    with checkpoint.open_checkpoints(folder, keep) as checkpoints:
        for step in steps:
            checkpoint.save(checkpoints, _state(step), {"of": step})


def _restore(folder, size=5000):
    """The state; the notes are of the same step."""
    with checkpoint.open_checkpoints(folder, 2) as checkpoints:
        restored = checkpoint.restore_newest(checkpoints, _state(0, size))
    if restored is not None:
        assert restored[1] == {"of": int(restored[0].step)}
        return restored[0]


def _files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _largest(folder):
    return max(folder.glob("state/**/*"), key=lambda path: path.stat().st_size * path.is_file())


def _delete(folder):
    _largest(folder).unlink()


def _truncate(folder):
    path = _largest(folder)
    os.truncate(path, path.stat().st_size // 2)


def _flip(folder):
    path = _largest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _delete_metadata(folder):
    (folder / "state/_METADATA").unlink()


def _delete_checksum(folder):
    (folder / "about/metadata").unlink()


def _edit_notes(folder):
    path = folder / "about/metadata"
    path.write_text(path.read_text().replace('"of": 20', '"of": 21'))


TEARS = [_edit_notes, _delete, _truncate, _flip, _delete_metadata, _delete_checksum]


def test_the_newest_comes_back_and_the_oldest_go(tmp_path):
    _save(tmp_path, 10, 20, 30)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["20", "30"]
    jax.tree.map(np.testing.assert_array_equal, _restore(tmp_path), _state(30))


def test_without_a_checkpoint_there_is_none(tmp_path):
    assert _restore(tmp_path) is None


def test_notes_of_steps_of_unlike_lengths_come_back(tmp_path):
    """JSON makes text of the steps, and as text 1000 comes before 200."""
    with checkpoint.open_checkpoints(tmp_path, 1) as checkpoints:
        checkpoint.save(checkpoints, _state(1000), {"evaluations": {200: 0.5, 1000: 0.6}})
    with checkpoint.open_checkpoints(tmp_path, 1) as checkpoints:
        _, notes = checkpoint.restore_newest(checkpoints, _state(0))
    assert notes == {"evaluations": {"200": 0.5, "1000": 0.6}}


def test_what_is_saved_is_a_copy(tmp_path):
    """The loop donates the buffers of what it saved to its next steps."""
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = jax.tree.map(jnp.asarray, _state(10, size=2_000_000))
    with checkpoint.open_checkpoints(tmp_path, 3) as checkpoints:
        checkpoint.save(checkpoints, state, {"of": 10})
        for _ in range(5):
            state = advance(state)
        jax.block_until_ready(state)
        mutable = _state(20)
        checkpoint.save(checkpoints, mutable, {"of": 20})
        mutable.params["kernel"][:] = 0
    jax.tree.map(np.testing.assert_array_equal, _restore(tmp_path), _state(20))
    shutil.rmtree(tmp_path / "checkpoints/20")
    restored = _restore(tmp_path, size=2_000_000)
    jax.tree.map(np.testing.assert_array_equal, restored, _state(10, size=2_000_000))


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_checkpoint_is_passed_over(tmp_path, caplog, tear):
    _save(tmp_path, 10, 20)
    tear(tmp_path / "checkpoints/20")
    jax.tree.map(np.testing.assert_array_equal, _restore(tmp_path), _state(10))
    assert "checkpoint 20 cannot be read" in caplog.text
    (aside,) = (tmp_path / "checkpoints").glob("unreadable-20-*")  # kept, whatever it is good for
    assert any(path.is_file() for path in aside.rglob("*")) and str(aside) in caplog.text
    _save(tmp_path, 20)  # its step can be saved again
    assert aside.is_dir()
    jax.tree.map(np.testing.assert_array_equal, _restore(tmp_path), _state(20))


def test_with_all_torn_nothing_is_deleted(tmp_path):
    _save(tmp_path, 10, 20)
    _truncate(tmp_path / "checkpoints/10")
    _flip(tmp_path / "checkpoints/20")
    before = _files(tmp_path)
    with pytest.raises(RunError, match=r"none of the checkpoints \[20, 10\] can be read"):
        _restore(tmp_path)
    assert _files(tmp_path) == before


@pytest.mark.parametrize("name", ["3", "2024"])
def test_a_folder_of_someone_else_s_is_not_taken_for_a_step(tmp_path, name):
    _save(tmp_path, 10, 20)
    for mine in (name, "photos", "best"):
        (tmp_path / "checkpoints" / mine).mkdir()
        (tmp_path / "checkpoints" / mine / "notes.txt").write_text("mine")
    before = _files(tmp_path)
    with pytest.raises(RunError, match=rf"checkpoints/{name} is no checkpoint; move it away"):
        _save(tmp_path, 30)
    assert _files(tmp_path) == before
    (tmp_path / "checkpoints" / name).rename(tmp_path / "moved")
    _save(tmp_path, 30, 40, 50)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["40", "50", "best", "photos"]


def test_another_format_is_refused_by_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    _save(tmp_path, 10)
    monkeypatch.undo()
    before = _files(tmp_path)
    with pytest.raises(ConfigError, match=r"are of format 4, this version's are of format 3"):
        _restore(tmp_path)
    assert _files(tmp_path) == before


def test_what_a_killed_save_left_is_cleared_away(tmp_path):
    _save(tmp_path, 10)
    left = tmp_path / "checkpoints/20.orbax-checkpoint-tmp-1"
    left.mkdir()
    (left / "part").write_bytes(b"0" * 100)
    jax.tree.map(np.testing.assert_array_equal, _restore(tmp_path), _state(10))
    _save(tmp_path, 20)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["10", "20"]


def test_a_checkpoint_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    _save(tmp_path, 10)

    def full(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device [...]")

    def wrong(*args, **kwargs):
        raise ValueError("not the disk's fault")

    with checkpoint.open_checkpoints(tmp_path, 2) as checkpoints:
        monkeypatch.setattr(checkpoints, "save", full)
        with pytest.raises(
            RunError, match=r"written \(No space left on device\); make room and run the same"
        ):
            checkpoint.save(checkpoints, _state(20), {})
        monkeypatch.setattr(checkpoints, "save", wrong)
        with pytest.raises(ValueError, match="not the disk's fault"):
            checkpoint.save(checkpoints, _state(20), {})
    jax.tree.map(np.testing.assert_array_equal, _restore(tmp_path), _state(10))


def test_nothing_is_written_in_the_background_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), checkpoint.open_checkpoints(tmp_path, 2) as checkpoints:
        checkpoint.save(checkpoints, _state(1, size=5_000_000), {})
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


@pytest.mark.parametrize("logger", ["absl", "asyncio"])
@pytest.mark.parametrize(
    ("file", "text", "told"),
    [("orbax/save.py", "", 0), ("other.py", "no space in 25.orbax-tmp", 0), ("other.py", "", 1)],
)
def test_what_orbax_raises_is_not_logged_besides(tmp_path, caplog, logger, file, text, told):
    def log():
        try:
            exec(compile(f"raise OSError({text!r})", file, "exec"))  # as if that file had raised it
        except OSError:
            logging.getLogger(logger).exception("a task's exception was never retrieved")

    with checkpoint.open_checkpoints(tmp_path, 2):
        log()
    assert len(caplog.records) == told
    log()  # nothing of it stays
    assert len(caplog.records) == told + 1
