"""The house's rules: imports run one way, the method stays short, what is public is described."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "l2rw_jax"
MODULES = sorted(LIBRARY.rglob("*.py"))
METHOD = ("weights", "scores", "gradients", "transform", "learned", "evidence", "chain")
PARTS = {"_types", "_partition", "_passes", "_tangents", "_validate", "micro_batches"}

# The order of the house: a part imports from those before it only.
ORDER = [
    {"_types", "_extras", "_messages", "_html"},
    {"_partition", "_passes"},
    {"_tangents", "_validate"},
    {"weights", "micro_batches"},
    {"scores"},
    {"gradients"},
    {"transform", "learned", "evidence"},
    {"chain"},
    {"losses", "models", "data"},
    {"_weightings"},
    {"_learned_weightings"},
    {"methods"},
    {"training"},
    {"reports"},
    {"quality"},
    {"classifier"},
    {"audit"},
    {"_audit_command"},
]


def part(path):
    """The part of the library that a module belongs to; a package is one part."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imports(path):
    """Full names of what a module imports, functions' own imports included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ids(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
def test_imports_run_one_way(path):
    names = [name.split(".") for name in imports(path)]
    assert not {"experiments", "configs", "tests"} & {name[0] for name in names}
    if part(path) == "__init__":
        return  # the front door shows what is behind it
    place = {name: i for i, level in enumerate(ORDER) for name in level}
    here = place[part(path)]
    for name in names:
        if name[0] == "l2rw_jax":
            there = place[name[1]] if len(name) > 1 else None
            assert there is not None, f"{path} imports the front door"
            same = name[1] == part(path)
            assert there < here or same, f"{path} imports {'.'.join(name)}"


@pytest.mark.parametrize("name", [*METHOD, *sorted(PARTS)])
def test_the_method_stands_on_jax_and_optax_alone(name):
    standard = {"typing", "functools", "collections", "inspect"}
    for full in imports(LIBRARY / f"{name}.py"):
        first, second = [*full.split("."), ""][:2]
        # JAX brings NumPy.
        assert first in {"jax", "numpy", "optax", *standard} or (
            first == "l2rw_jax" and second in {*METHOD, *PARTS}
        ), full


def test_the_method_can_be_read_in_one_sitting():
    def lines(names):
        return sum(len((LIBRARY / f"{name}.py").read_text().splitlines()) for name in names)

    assert lines(["weights", "scores", "gradients", "transform"]) < 600
    assert lines([*METHOD, *PARTS]) < 1600


@pytest.mark.parametrize("path", MODULES, ids=ids(MODULES))
def test_modules_are_short_and_what_is_public_has_a_docstring(path):
    text = path.read_text()
    assert len(text.splitlines()) < 300
    tree = ast.parse(text)
    assert not text or ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
            methods = node.body if isinstance(node, ast.ClassDef) else []
            for method in methods:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    assert ast.get_docstring(method), f"{node.name}.{method.name}"


# What a run needs late or never, and what takes longer to import than all of the trainer.
SLOW = {"PIL", "grain", "matplotlib", "pandas", "scipy", "sklearn", "tensorboardX", "torch"}
SLOW |= {"tensorflow", "tensorflow_datasets"}


@pytest.mark.parametrize(
    ("names", "slow"),
    [
        ("l2rw_jax", SLOW | {"flax", "orbax", "ml_collections"}),
        ("experiments.train, experiments.reproduce.report", SLOW),
    ],
)
def test_what_is_slow_to_import_is_imported_where_it_is_needed(names, slow):
    code = f"import sys, {names}; print(*sorted({slow!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "\n", done.stdout + done.stderr
