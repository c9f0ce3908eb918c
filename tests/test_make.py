"""What ``make clean`` removes, and what it leaves."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
@pytest.mark.parametrize("own", [False, True])
def test_clean_removes_only_what_make_made(tmp_path, own):
    shutil.copy(ROOT / "Makefile", tmp_path)
    names = ["runs/a/checkpoints/1", "results/mine.md", "build/mine", "mine.egg-info/a", ".venv/a"]
    for name in [*names, "docs/_build/html/index.html", "docs/mine.md"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    if not own:
        (tmp_path / ".venv/.of-make").touch()
        names.remove(".venv/a")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"Makefile", "docs/mine.md", *names}
