"""What the programs share."""

import sys

import pytest
from programs import run_program

from experiments import cli, train
from l2rw_jax.training import ConfigError, RunError, Stopped

ARGUMENTS = ["--config=configs/digits.py", "--workdir=unused"]


class Late:
    """Raises where no one catches."""

    def __init__(self, text):
        self.text = text

    def __del__(self):
        raise RuntimeError(self.text)


def test_what_a_failed_save_still_answers_is_not_told_and_all_else_is(monkeypatch):
    told = []
    hook = cli._without_late_answers(lambda it: told.append(str(it.exc_value)))
    monkeypatch.setattr(sys, "unraisablehook", hook)
    for text in ("Event loop is closed", "something else"):
        Late(text)
    assert told == ["something else"]


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("two\n lines"), 2, "error: two lines"),
        (RunError("step 3"), 1, "error: step 3"),
        (Stopped("stopped after step 3"), 75, "stopped after step 3"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
    ],
)
def test_what_ends_a_program_early_is_one_line_and_a_status(error, status, line, monkeypatch):
    def main():
        raise error

    monkeypatch.setattr(train, "main", main)
    assert run_program("train", ARGUMENTS) == (status, "", line + "\n")


def test_flags_are_read_behind_a_space_and_from_files(tmp_path, monkeypatch):
    (tmp_path / "flags").write_text("--config.steps=20\n# a comment\n--config.boundaries=(10,15)\n")
    seen = {}
    monkeypatch.setattr(train, "main", lambda: seen.update(cli.CONFIG.value.to_dict()))
    flags = [f"--flagfile={tmp_path}/flags", "--config.seed", "3", "--config.flip"]
    done = run_program("train", [*ARGUMENTS, *flags, "--noconfig.clean_balanced"])
    assert done.status == 0, done
    assert (seen["steps"], seen["boundaries"], seen["seed"]) == (20, (10, 15), 3)
    assert seen["flip"] is True and seen["clean_balanced"] is False


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("1", 0.5, 1.0),
        ("1e-3", 0.5, 1e-3),
        ("50", 1, 50),
        ("true", False, True),
        ("False", True, False),
        ("(10,20)", (), (10, 20)),
        ("10", (), (10,)),
        ("()", (5,), ()),
        ("3", "a", "3"),
    ],
)
def test_a_value_has_its_field_s_type(text, default, value):
    parsed = cli.parse_value("--sweep=field", text, default)
    assert parsed == value and type(parsed) is type(value)
