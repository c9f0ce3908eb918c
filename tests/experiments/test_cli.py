"""What the programs share."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RAISE_WHERE_NO_ONE_CATCHES = """
import sys
from experiments import cli

class Late:
    def __del__(self):
        raise RuntimeError(sys.argv[1])

cli.run(lambda: Late() and None, required=())
"""


def _errors(text):
    program = [sys.executable, "-c", RAISE_WHERE_NO_ONE_CATCHES, text]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True).stderr


def test_what_a_failed_save_still_answers_is_not_told_and_all_else_is():
    assert "Event loop" not in _errors("Event loop is closed")
    assert "RuntimeError: something else" in _errors("something else")
