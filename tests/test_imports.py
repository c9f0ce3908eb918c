"""The house's rules: imports run one way, and what is public is described."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from looped import check_each

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "l2rw_jax"
MODULES = sorted(LIBRARY.rglob("*.py"))
METHOD = ("weights", "scores", "weightings", "gradients", "transform", "chain")
PARTS = {"_types", "_partition", "_passes", "_tangents", "_validate", "micro_batches"}

# The order of the house: a part imports from those before it only.
ORDER = [
    {"_types", "_extras", "_files", "_messages", "_html"},
    {"_partition", "_passes"},
    {"_tangents", "_validate"},
    {"weights", "micro_batches"},
    {"scores"},
    {"weightings"},
    {"gradients"},
    {"transform"},
    {"chain"},
    {"losses", "models", "data"},
    {"methods"},
    {"training"},
    {"reports"},
    {"quality", "_saved"},
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


def test_imports_run_one_way():
    place = {name: i for i, level in enumerate(ORDER) for name in level}

    def check(path):
        names = [name.split(".") for name in imports(path)]
        assert not {"experiments", "configs", "tests"} & {name[0] for name in names}
        if part(path) == "__init__":
            return  # the front door shows what is behind it
        here = place[part(path)]
        for name in names:
            if name[0] == "l2rw_jax":
                there = place[name[1]] if len(name) > 1 else None
                assert there is not None, "it imports the front door"
                assert there < here or name[1] == part(path), f"it imports {'.'.join(name)}"

    check_each(check, [(path,) for path in MODULES])


def test_the_method_stands_on_jax_and_optax_alone():
    standard = {"typing", "functools", "collections", "inspect"}
    standard |= {"dataclasses", "contextlib", "math", "warnings"}
    foreign = []
    for name in (*METHOD, *sorted(PARTS)):
        for full in imports(LIBRARY / f"{name}.py"):
            first, second = [*full.split("."), ""][:2]
            known = first in {"jax", "numpy", "optax", *standard}  # JAX brings NumPy
            if not known and not (first == "l2rw_jax" and second in {*METHOD, *PARTS}):
                foreign.append(f"{name} imports {full}")
    assert not foreign


def test_what_is_public_has_a_docstring():
    def undescribed(path):
        tree = ast.parse(path.read_text())
        if tree.body and not ast.get_docstring(tree):
            yield "the module"
        for node in tree.body:
            methods = node.body if isinstance(node, ast.ClassDef) else []
            for each in (node, *methods):
                if isinstance(each, ast.FunctionDef | ast.ClassDef):
                    hidden = each.name.startswith("_") or node.name.startswith("_")
                    if not hidden and not ast.get_docstring(each):
                        yield f"{node.name}.{each.name}"

    found = {str(path.relative_to(ROOT)): [*undescribed(path)] for path in MODULES}
    assert not {path: names for path, names in found.items() if names}


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
