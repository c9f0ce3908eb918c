"""What the pages of a sweep and of an audit share: a table, and pictures inside the page."""

import base64
import io
from collections.abc import Sequence
from typing import Any

_SIDE = 96  # most pixels of a picture's side; smaller ones are enlarged by the browser


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first cell of each row names it. The cells are HTML: escape what is not.

    >>> table(["a", "b"], [["1", "2"]]).partition("</thead>")[2]
    '<tbody><tr><th scope="row">1</th><td>2</td></tr></tbody></table>'
    """
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{c}</td>" for c in rest) + "</tr>"
        for first, *rest in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def picture_uri(image: Any) -> str:
    """A picture of Pillow's as the address of an ``img``; shrunk, in place, if it is large."""
    image.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return png_uri(file.getvalue())


def png_uri(png: bytes) -> str:
    """A PNG file as the address of an ``img``."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
