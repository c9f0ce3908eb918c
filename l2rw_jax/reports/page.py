"""The page of a sweep: its table, its figures and the labels it doubts most, in one file."""

import html
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from l2rw_jax._files import StrPath, write_whole
from l2rw_jax._html import picture_uri, png_uri, table
from l2rw_jax.reports.doubts import Doubt


def write_page(
    path: StrPath,
    *,
    title: str,
    lead: str,
    command: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    figures: Mapping[str, StrPath],
    doubts: Sequence[Doubt] = (),
    source: str = "",
) -> None:
    """Writes a page that needs neither a server nor a network.

    Args:
      path: the HTML file to write.
      title: what was trained on what.
      lead: the result in a sentence.
      command: what makes the page again.
      header: the titles of the table's columns.
      rows: its cells.
      figures: PNG files by the text that describes each.
      doubts: labels to show, in order; without any, their section is left out.
      source: the run that doubts them.
    """
    template = resources.files("l2rw_jax.reports").joinpath("page.html").read_text("utf-8")
    parts = {
        "title": html.escape(title),
        "lead": html.escape(lead),
        "command": html.escape(command),
        "table": table(_escaped(header), [_escaped(row) for row in rows]),
        "figures": "".join(_figure(text, file) for text, file in figures.items()),
        "doubts": _doubts(doubts, source) if doubts else "",
    }
    write_whole(path, Template(template).substitute(parts).encode())


def _escaped(cells: Sequence[str]) -> list[str]:
    return [html.escape(cell) for cell in cells]


def _figure(text: str, file: StrPath) -> str:
    uri = png_uri(Path(file).read_bytes())
    return f'<figure><img src="{uri}" alt="{html.escape(text)}"></figure>'


def _doubts(doubts: Sequence[Doubt], source: str) -> str:
    """The section of doubted labels: how many of them are wrong, if that is known, and each."""
    wrong = [doubt.true != doubt.given for doubt in doubts if doubt.true is not None]
    told = f"The true labels are known here: {sum(wrong)} of these {len(wrong)} are wrong. "
    cards = "".join(f"<li>{_card(doubt)}</li>" for doubt in doubts)
    return (
        f"<section><h2>The {len(doubts)} labels that {html.escape(source)} doubts most</h2>"
        f'<p class="soft">{told if wrong else ""}Each picture has its given label, what the '
        "network says at the end, how sure it is, and the example's mean weight (1 is an equal "
        "share). Lowest mean margin of the given label first.</p>"
        f'<ol class="doubts">{cards}</ol></section>'
    )


def _card(doubt: Doubt) -> str:
    given, says = html.escape(doubt.given), html.escape(doubt.says)
    picture = picture_uri(_picture(doubt.image))
    mark = ""
    if doubt.true is not None:
        right = doubt.says == doubt.true
        kind, sign = ("good", "✓") if right else ("bad", "✗")
        mark = f'<span class="{kind}">true: {html.escape(doubt.true)} {sign}</span>'
    return (
        f'<img src="{picture}" alt="A picture labelled {given}">'
        f'<b><span class="given">{given}</span> → <span class="says">{says}</span></b>'
        f"<span>{100 * doubt.probability:.1f} % sure</span>"
        f"<span>weight {doubt.weight:.2f}</span>{mark}"
    )


def _picture(image: np.ndarray) -> Any:
    """Pillow's picture of ``[h, w, c]`` uint8."""
    from PIL import Image  # slow to import

    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
