"""The page of a sweep: its table, its figures and the labels it doubts most, in one file."""

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from l2rw_jax._files import StrPath, write_whole
from l2rw_jax.reports.doubts import Doubt

_SIDE = 96  # least pixels of a picture; smaller ones are enlarged by the browser


def write_page(
    path: StrPath,
    *,
    title: str,
    lead: str,
    command: str,
    table: str,
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
      table: a Markdown table, as ``markdown_table`` makes it.
      figures: PNG files by the text that describes each.
      doubts: labels to show, in order; without any, their section is left out.
      source: the run that doubts them.
    """
    template = resources.files("l2rw_jax.reports").joinpath("page.html").read_text("utf-8")
    parts = {
        "title": html.escape(title),
        "lead": html.escape(lead),
        "command": html.escape(command),
        "table": _table(table),
        "figures": "".join(_figure(text, file) for text, file in figures.items()),
        "doubts": _doubts(doubts, source) if doubts else "",
    }
    write_whole(path, Template(template).substitute(parts).encode())


def _table(markdown: str) -> str:
    """The rows of a Markdown table as HTML; the second line only divides head and body."""
    head, _, *body = ([_plain(cell) for cell in _cells(line)] for line in markdown.splitlines())
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    rows = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:])
        for row in body
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table>"


def _cells(line: str) -> list[str]:
    return re.split(r"(?<!\\)\|", line.strip())[1:-1]


def _plain(cell: str) -> str:
    return html.escape(cell.strip().replace("\\|", "|"))


def _figure(text: str, file: StrPath) -> str:
    uri = _data_uri(Path(file).read_bytes())
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
    picture = _data_uri(_png(doubt.image))
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


def _png(image: np.ndarray) -> bytes:
    """A picture ``[h, w, c]`` uint8 as PNG, shrunk if it is large."""
    from PIL import Image  # slow to import

    shown = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    shown.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    shown.save(file, "PNG", optimize=True)
    return file.getvalue()


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
