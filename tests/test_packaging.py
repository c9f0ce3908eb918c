"""What the method alone needs, jax and optax; and what the package says of itself."""

import configparser
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
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


@pytest.fixture(scope="module")
def setup():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def test_the_version_is_the_same_everywhere(setup):
    version = setup["metadata"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    headings = re.findall(r"^## \[(.+)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == (version, citation["date-released"])
    assert citation["version"] == version
    assert citation["license"] == setup["metadata"]["license"]


def test_ci_tests_the_versions_that_the_package_allows(setup):
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    versions = re.findall(r":: (3\.\d+)$", setup["metadata"]["classifiers"], re.M)
    pairs = [(each["python"], each["jax"]) for each in job["strategy"]["matrix"]["include"]]
    assert pairs == [(versions[0], "oldest"), (versions[-1], "newest")]
    (oldest,) = re.findall(r"^jax>=([\d.]+)$", setup["options"]["install_requires"], re.M)
    assert f"'jax=={oldest}.0 jaxlib=={oldest}.0'" in job["env"]["CONSTRAINTS"]


def test_actions_are_pinned_by_commit():
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        for used in re.findall(r"uses: (.*)", path.read_text()):
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+", used), (path, used)


def test_every_file_that_is_no_module_is_in_the_wheel(setup):
    listed = {
        Path(package.replace(".", "/")) / name
        for package, names in setup["options.package_data"].items()
        for name in names.split()
    }
    found = {path.relative_to(ROOT) for path in (ROOT / "l2rw_jax").rglob("*") if path.is_file()}
    assert {path for path in found if path.suffix not in (".py", ".pyc")} == listed
