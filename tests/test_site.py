"""What the site shows of the code is all that the code has, and its pages lead somewhere."""

import re
import sys
from pathlib import Path

import pytest

from l2rw_jax.methods import METHODS
from l2rw_jax.training.config import default_config, flatten

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))


@pytest.fixture
def from_code(monkeypatch):
    pytest.importorskip("sphinx", reason="the extra `docs` is not installed")
    monkeypatch.syspath_prepend(DOCS / "_ext")
    yield __import__("from_code")
    sys.modules.pop("from_code")


def test_the_table_of_config_fields_has_all_of_them(from_code):
    import inspect

    defaults = flatten(default_config().to_dict())
    tables = list(from_code.config_fields(inspect.getsource(default_config), defaults))
    rows = {name: default for table in tables for name, default, _ in table}
    assert rows == defaults
    titles = (DOCS / "reference/config.md").read_text().split("{config-fields}\n")[1]
    assert len(titles.split("```")[0].splitlines()) == len(tables)


def test_a_config_field_without_a_comment_is_refused(from_code):
    with pytest.raises(ValueError, match=r"config.steps = 3: this field has no comment"):
        list(from_code.config_fields("    config.steps = 3\n", {"steps": 3}))


def test_two_fields_of_a_line_share_its_comment(from_code):
    fields = from_code.config_fields(
        "config.low, config.high = 0.0, 1.0  # c", {"low": 0, "high": 1}
    )
    assert list(fields) == [[("low", 0, "c"), ("high", 1, "c")]]


def test_links_to_tables_of_results_become_downloads(from_code):
    source = ["[a](../../results/x.md), [`b`](../results/y.md), [c](../results/z.json), [d](x.md)"]
    from_code.link_tables(None, "page", source)
    assert source[0] == (
        "{download}`a <../../results/x.md>`, {download}`b <../results/y.md>`, "
        "[c](../results/z.json), [d](x.md)"
    )


def test_the_table_of_methods_has_all_of_them():
    section = (
        (DOCS / "reference/api-trainer.md").read_text().split("## Methods")[1].split("\n## ")[0]
    )
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(re.findall("`(.+?)`", " ".join(cells))) == sorted(METHODS)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_is_on_the_front_page(path):
    assert f"\ntutorials/{path.stem}\n" in (DOCS / "index.md").read_text()


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_checks_what_it_concludes(path):
    (cell,) = re.findall(
        r"```\{code-cell\}\n:tags: \[remove-cell\]\n(.*?)```", path.read_text(), re.DOTALL
    )
    assert "\nassert " in cell


def test_links_between_files_of_the_repository_lead_somewhere():
    """Sphinx checks those of the site, where a page is; GitHub shows the others, too."""
    pages = [*ROOT.glob("*.md"), *(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)]
    broken = []
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!\w+:)([^)#\s]+)", text):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken
