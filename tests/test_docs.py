"""What README and docs report follows from results/."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmark import report as benchmark
from experiments.scaling import report as scaling
from l2rw_jax import reports

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
    if not path.is_relative_to(DOCS / "_build")
}
TEXT = "\n".join(PAGES.values())
# A number, alone or with what else a table says of it: 92.1 ± 1.5, 1.61 (1.504-1.719), 86% to 96%.
FIGURE = re.compile(r"-?\d[\d,.]*(e[+-]?\d+|%)?( (±|/|to) [\d.]+%?( [±\d./() -]*)?| \(.*\))?")


def stored(name):
    return json.loads((ROOT / f"results/{name}.json").read_text())


def without_code(text):
    return re.sub(r"^(`{3,}|:{3,}).*?^\1\s*$", "", text, flags=re.MULTILINE | re.DOTALL)


def tables(text):
    """The tables of a page: ``(header, [row, ...])``, without the stars of bold cells."""
    found = re.findall(r"(?:^\|.*\|\n?)+", without_code(text), re.MULTILINE)
    for header, _, *rows in (table.replace("**", "").splitlines() for table in found):
        yield header, rows


def has_figures(rows):
    return any(FIGURE.fullmatch(cell.strip()) for row in rows for cell in row.split("|")[2:])


def line(*cells):
    return f"| {' | '.join(map(str, cells))} |"


def interval(values, digits):
    mean, half = reports.mean_interval(list(values))
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


METHODS = {
    "evidence": "evidence",
    "inverse_loss": "1/(loss + 0.3)",
    "gce": "GCE",
    "label_smoothing": "label smoothing",
    "groups": "groups",
    "mwnet": "Meta-Weight-Net",
    "l2rw": "l2rw",
}
SETTINGS = (
    *("human, 1000 clean", "human, 100 clean", "none"),
    *("uniform 0.2", "uniform 0.6", "background 0.4"),
)


def gains_on_features():
    """Accuracy above ordinary training, seed by seed."""
    last = {(e["row"], e["column"]): e["last"]["values"] for e in stored("human-cpu")["summary"]}
    means = [f"{np.mean(last['baseline', setting]):.1f}" for setting in SETTINGS]
    yield line("equal weights, accuracy", *means)
    for name, row in METHODS.items():
        gains = (np.subtract(last[row, s], last["baseline", s]) for s in SETTINGS)
        yield line(f"`{name}`", *(interval(gain, 2) for gain in gains))


def networks_from_pixels():
    digits, mnist = stored("digits-methods")["runs"], stored("mnist-cpu")["summary"]
    for method, row in {"baseline": "baseline", **METHODS}.items():
        values = [[100 * r["test_accuracy"] for r in digits if r["method"] == method]]
        values += [e["last"]["values"] for e in mnist if e["row"] == row]
        if len(values) == 3:
            yield line(f"`{method}`", *(interval(each, 1) for each in values))


def a_dead_run():
    """Lines of 50 steps; the accuracy stands in some."""
    for text in (ROOT / "results/stability-dead-run.jsonl").read_text().splitlines():
        chunk = json.loads(text)
        sizes = (f"{chunk[f'effective_sample_size{x}']:.0f}" for x in ("", "_min"))
        norms = (
            f"{x:.2g}" if x >= 10 else f"{x:.1f}"
            for x in (chunk["grad_norm"], chunk["grad_norm_max"])
        )
        accuracy = f"{chunk['test_accuracy']:.2f}" if "test_accuracy" in chunk else ""
        cells = [chunk["step"], accuracy, " / ".join(norms), f"{chunk['param_norm']:.0f}"]
        yield line(*cells, " / ".join(sizes)).replace("|  |", "| |")


def passes():
    """A plain step's three and, over b and over m, the others': tests/test_cost.py counts them."""
    kinds = {
        "plain": ("forward, 2 backward", "", 3, 0),
        "forward": ("forward, 2 tangent, 2 backward", "3", 5, 3),
        "reverse": ("7", "3", 7, 3),
    }
    for name, (over_b, over_m, b, m) in kinds.items():
        cells = [f"{b + m:g} ({(b + m) / 3:.2f})", f"{b + m / 10:g} ({(b + m / 10) / 3:.2f})"]
        if not m:
            cells = [b, b]
        yield line(name, over_b, over_m, *cells).replace("|  |", "| |")


def lines_of_results():
    """``{header: [row, ...]}`` of the tables beside the JSON files."""
    found: dict = {}
    for path in sorted((ROOT / "results").glob("*.md")):
        for header, rows in tables(path.read_text()):
            found.setdefault(header, []).extend(rows)
    return found


def from_json():
    """``{header: [row, ...]}`` of the tables that no program writes."""
    columns = ("people, 1,000 trusted", "people, 100 trusted", "no noise")
    pixels = ("digits, 40 % uniform, 50 trusted", "MNIST, 40 % uniform", "MNIST, 40 % background")
    died = ("step", "test accuracy", "gradient norm, mean / largest", "parameters' norm")
    counted = ("step", "passes over the batch (b)", "over the clean batch (m)", "m = b")
    header, _, *rows = benchmark.ratio_table(stored("benchmark-cpu")["rows"]).splitlines()
    return {
        line("method", *columns, "uniform 20 %", "uniform 60 %", "background 40 %"): [
            *gains_on_features()
        ],
        line("method", *pixels): [*networks_from_pixels()],
        line(*died, "effective sample size, mean / least"): [*a_dead_run()],
        line(*counted, "m = b / 10"): [*passes()],
        header: rows,
    }


KNOWN = lines_of_results() | from_json()


@pytest.mark.parametrize("page", PAGES)
def test_tables_of_figures_follow_from_results(page):
    for header, rows in tables(PAGES[page]):
        if has_figures(rows):
            strange = [row for row in rows if row not in KNOWN.get(header, ())]
            assert not strange, f"{header}\nhas rows that nothing in results/ says"


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.md")), ids=lambda p: p.stem)
def test_a_table_of_results_is_shown_or_named_and_follows_from_its_runs(path):
    text = path.read_text().strip()
    assert text in TEXT or f"results/{path.name}" in TEXT
    content = stored(path.stem)
    if "keys" in content:  # made by experiments.sweep
        summary = reports.summarize(content["runs"], content["keys"])
        assert reports.to_markdown(*reports.table(summary, content["keys"])) == text


def test_the_tables_of_speed_follow_from_their_rows():
    def text(name):
        return (ROOT / f"results/{name}.md").read_text().strip()

    rows = stored("benchmark-cpu")["rows"]
    assert text("benchmark-cpu") == f"{benchmark.ratio_table(rows)}\n\n{benchmark.table(rows)}"
    assert text("scaling-cpu") == scaling.tables(stored("scaling-cpu")).strip()


def test_a_table_that_is_made_up_is_found():
    made_up = "| method | seeds |\n|---|---|\n| l2rw | 99.9 ± 0.1 |\n"
    ((header, rows),) = tables(made_up)
    assert has_figures(rows)
    assert header not in KNOWN
    assert not has_figures(["| `cpu` | fewer steps |", "| + FT | 5,000 more steps |"])


def test_files_that_pages_name_exist():
    for page, text in PAGES.items():
        folder = (ROOT / page).parent
        places = re.findall(r"^```\{include\} (\S+)|!\[[^\]]*\]\(([^)]+)\)", text, re.MULTILINE)
        for place in filter(None, sum(places, ())):
            if place.startswith("https://img.shields.io/"):
                continue
            assert (folder / place).is_file(), f"{page}: no {place}"
        for name in re.findall(r"`((?:results|configs|tests|docs)/[\w./-]+\.\w+)`", text):
            assert (ROOT / name).is_file(), f"{page}: no {name}"


def test_pictures_say_in_words_what_they_show():
    for page, text in PAGES.items():
        for words in re.findall(r"(?<!\[)!\[([^\]]*)\]\(", text):  # a badge is a link
            assert words.strip(), page


def test_no_line_is_a_comment_by_mistake():
    """Sphinx leaves out a line that begins with a percent sign: 40 % must not be broken there."""
    for page, text in PAGES.items():
        assert not re.search(r"^\s*% ", without_code(text), re.MULTILINE), page
