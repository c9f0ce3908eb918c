"""What README and docs report is what lies in results/."""

import json
from pathlib import Path

import numpy as np
import pytest

from l2rw_jax import reports

ROOT = Path(__file__).parents[1]
TEXT = "\n".join(
    path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
)


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.md")), ids=lambda p: p.stem)
def test_a_table_of_results_stands_in_the_docs_and_follows_from_its_runs(path):
    table = path.read_text().strip()
    assert table in TEXT or f"results/{path.name})" in TEXT  # or it is linked
    stored = json.loads(path.with_suffix(".json").read_text())
    if "keys" in stored:  # made by experiments.sweep
        summary = reports.summarize(stored["runs"], stored["keys"])
        assert reports.markdown_table(summary, stored["keys"]) == table


ROWS = {
    "evidence": "evidence",
    "inverse_loss": "1/(loss + 0.3)",
    "gce": "GCE",
    "label_smoothing": "label smoothing",
    "groups": "groups",
    "mwnet": "Meta-Weight-Net",
    "l2rw`, `weighting=sign": "l2rw, sign",
    "l2rw": "l2rw",
}
COLUMNS = (
    *("human, 1000 clean", "human, 100 clean", "none"),
    *("uniform 0.2", "uniform 0.6", "background 0.4"),
)


def test_the_table_of_methods_follows_from_its_runs():
    stored = json.loads((ROOT / "results/human-cpu.json").read_text())
    last = {(e["row"], e["column"]): e["last"]["values"] for e in stored["summary"]}
    lines = (ROOT / "docs/explanation/choosing.md").read_text().splitlines()
    table = {line.split("|")[1].strip(): line for line in lines if line.count("|") == 8}
    cells = [f"{np.mean(last['baseline', column]):.1f}" for column in COLUMNS]
    assert table["equal weights, accuracy"].endswith(f"| {' | '.join(cells)} |")
    for name, row in ROWS.items():
        cells = []
        for column in COLUMNS:
            gains = np.subtract(last[row, column], last["baseline", column])
            cells.append("{:.2f} ± {:.2f}".format(*reports.mean_interval(gains)))
        line = table[f"`{name}`"].replace("**", "")
        assert line.endswith(f"| {' | '.join(cells)} |"), row


def test_the_table_of_networks_from_pixels_follows_from_its_runs():
    digits = json.loads((ROOT / "results/digits-methods.json").read_text())["runs"]
    mnist = json.loads((ROOT / "results/mnist-cpu.json").read_text())["summary"]
    lines = (ROOT / "docs/explanation/choosing.md").read_text().replace("**", "").splitlines()
    for method, row in {
        "baseline": "baseline",
        "gce": "GCE",
        "l2rw": "l2rw",
        "evidence": "evidence",
    }.items():
        values = [[100 * r["test_accuracy"] for r in digits if r["method"] == method]]
        values += [e["last"]["values"] for e in mnist if e["row"] == row]
        cells = ["{:.1f} ± {:.1f}".format(*reports.mean_interval(each)) for each in values]
        assert f"| `{method}` | {' | '.join(cells)} |" in lines


def test_figures_that_are_shown_exist():
    for line in (ROOT / "README.md").read_text().splitlines():
        if line.startswith("!["):
            assert (ROOT / line.split("(")[1].rstrip(")")).exists()
