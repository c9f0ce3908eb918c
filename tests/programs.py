"""Programs run in this process: what they print, and the status that they would exit with."""

import contextlib
import importlib
import io
import sys
from typing import NamedTuple
from unittest import mock

from absl.testing import flagsaver

from experiments import cli


class Done(NamedTuple):
    """How a program ended."""

    status: int
    out: str
    errors: str


def run_program(program, arguments, required=("config", "workdir")):
    """Runs ``python -m experiments.PROGRAM`` with these arguments, as ``cli.run`` does."""
    module = importlib.import_module(f"experiments.{program}")
    argv = [program, *map(str, arguments)]
    out, errors, status = io.StringIO(), io.StringIO(), 0
    with (
        flagsaver.flagsaver(),
        mock.patch.object(sys, "argv", argv),  # where ml_collections looks for overrides
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        try:
            cli.one_line(cli.parse, argv, required)
            cli.one_line(cli.start, module.main)
        except SystemExit as end:
            status = end.code
    return Done(status, out.getvalue(), errors.getvalue())
