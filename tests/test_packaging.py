"""What a user of the method alone has to install: jax and optax."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    """An environment that holds jax, optax, what these two need, and this package."""
    folder = tmp_path_factory.mktemp("packages")
    names, waiting = set(), ["jax", "optax"]
    while waiting:
        name = waiting.pop()
        if name in names:
            continue
        names.add(name)
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            target = folder / top
            if not target.exists():
                target.symlink_to(distribution.locate_file(top))
        for text in distribution.requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    for package in ("l2rw_jax", "experiments"):
        (folder / package).symlink_to(ROOT / package)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-S", *arguments],
            env=os.environ | {"PYTHONPATH": str(folder)},
            cwd=folder,
            capture_output=True,
            text=True,
        )

    return run


def test_the_method_runs_with_jax_and_optax_alone(light):
    """Every example of the README and of the public docstrings that needs no more."""
    code = """
import doctest, importlib, sys
import l2rw_jax
for name in ("weights", "scores", "gradients", "transform", "chain", "losses", "methods"):
    module = importlib.import_module(f"l2rw_jax.{name}")
    failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert tried and not failed, name
for name in ("flax", "chex", "sklearn", "ml_collections", "tensorflow_datasets", "matplotlib"):
    assert name not in sys.modules and importlib.util.find_spec(name) is None, name
"""
    result = light("-c", code)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("name", "extra"),
    [*((name, "train") for name in ("models", "data", "training", "reports")), ("audit", "audit")],
)
def test_a_missing_extra_is_named(light, name, extra):
    result = light("-c", f"import l2rw_jax.{name}")
    last = result.stderr.strip().splitlines()[-1]
    text = f"not installed; takes the extra '{extra}': pip install 'l2rw_jax[{extra}]'"
    pattern = rf"ImportError: .*: {re.escape(text)}"
    assert re.match(pattern, last)


def test_a_program_without_its_extra_is_one_line(light):
    result = light("-m", "experiments.train")
    assert result.returncode == 1 and result.stdout == ""
    assert re.fullmatch(r"Error: .*the extra 'train': pip install .*\n", result.stderr)


def test_the_audit_without_its_extra_is_one_line(light):
    code = "import sys; from l2rw_jax._audit_command import main; sys.exit(main())"
    result = light("-c", code)
    assert result.returncode == 1 and result.stdout == ""
    assert re.fullmatch(r"error: .*the extra 'audit': pip install .*\n", result.stderr)


def test_the_base_dependencies_are_jax_and_optax():
    requires = importlib.metadata.requires("l2rw_jax") or []
    base = {Requirement(x).name for x in requires if Requirement(x).marker is None}
    assert base == {"jax", "optax"}
