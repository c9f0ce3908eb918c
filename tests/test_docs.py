"""What README and docs report is what lies in results/."""

import json
from pathlib import Path

import pytest

from l2rw_jax import reports

ROOT = Path(__file__).parents[1]
TEXT = "\n".join(
    path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
)


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.md")), ids=lambda p: p.stem)
def test_a_table_of_results_stands_in_the_docs_and_follows_from_its_runs(path):
    table = path.read_text().strip()
    assert table in TEXT
    stored = json.loads(path.with_suffix(".json").read_text())
    if "keys" in stored:  # made by experiments.sweep
        summary = reports.summarize(stored["runs"], stored["keys"])
        assert reports.markdown_table(summary, stored["keys"]) == table


def test_figures_that_are_shown_exist():
    for line in (ROOT / "README.md").read_text().splitlines():
        if line.startswith("!["):
            assert (ROOT / line.split("(")[1].rstrip(")")).exists()
