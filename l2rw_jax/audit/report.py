"""The page for checking labels by hand: one file that needs neither a server nor a network."""

import base64
import hashlib
import html
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from l2rw_jax._files import write_whole
from l2rw_jax._html import picture_uri
from l2rw_jax.audit import charts
from l2rw_jax.audit.calibrate import check_first
from l2rw_jax.audit.features import nearest_rows
from l2rw_jax.audit.pictures import Picture
from l2rw_jax.audit.table import Audit

SHOWN = 500


def write_report(
    path: Path, audit: Audit, summary: dict[str, Any], X: Any, picture: Picture | None
) -> None:
    """Writes the page.

    Args:
        path: the file.
        audit: what was found.
        summary: what `write_tables` returned.
        X: the rows; read where there are no pictures, for the nearest rows.
        picture: from an id to its picture; None where there are none.
    """
    text = render(summary, _cards(audit, X, picture), audit)
    write_whole(path, text.encode(errors="backslashreplace"))  # a path need not be UTF-8


def render(summary: dict[str, Any], cards: dict[str, Any], audit: Audit) -> str:
    """The page's text: what comes from the data is escaped, as HTML or inside the JSON."""
    template = resources.files("l2rw_jax.audit").joinpath("report.html").read_text("utf-8")
    scores = audit.table["label_score"].to_numpy()
    parts = {
        "data": _json(cards),
        "figures": charts.figures(summary),
        "histogram": charts.histogram(scores, audit.table["is_label_issue"].to_numpy()),
        "confusion": charts.confusion(summary),
        "classes": charts.classes(summary),
        "command": html.escape(summary["command"]),
        "script_hash": _script_hash(template),
    }
    # In one pass: what is filled in is not searched again.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _cards(audit: Audit, X: Any, picture: Picture | None) -> dict[str, Any]:
    """What the page's script reads: the rows to check, in two lists."""
    table = audit.table
    scores, trusted = table["label_score"].to_numpy(), table["trusted"].to_numpy()
    order = np.argsort(scores, kind="stable")
    order = order[~trusted[order]]
    worst = order[:SHOWN]
    first = order[:0] if trusted.any() else check_first(order)
    shown = np.unique(np.concatenate([worst, first]))
    place = {int(row): i for i, row in enumerate(shown)}
    classes = np.unique(table["given_label"].to_numpy(str))
    names = {str(name): i for i, name in enumerate(classes)}
    doubted = table["is_label_issue"].to_numpy() | (
        (table["predicted_label"] != table["given_label"]).to_numpy() & (scores < 0.5)
    )
    near = _near(audit, X, shown, classes, doubted) if picture is None else {}
    cards = []
    for row in shown:
        row_id = str(table["id"].iloc[row])
        cards.append(
            {
                "id": row_id,
                "given": names[str(table["given_label"].iloc[row])],
                "suggested": names[str(audit.suggested[row])] if doubted[row] else None,
                "score": round(float(scores[row]), 4),
                "issue": bool(table["is_label_issue"].iloc[row]),
                "picture": _data_uri(picture(row_id)) if picture else None,
                "near": near.get(int(row), []),
            }
        )
    lists = {"issues": [place[int(r)] for r in worst], "first": [place[int(r)] for r in first]}
    content = {
        "classes": [str(name) for name in classes],
        "cards": cards,
        "lists": lists,
        "verified": _verified(audit),
    }
    key = hashlib.sha256(
        json.dumps([table["id"].iloc[0], len(table), content], default=str).encode()
    )
    return {"key": f"l2rw-audit-{key.hexdigest()[:16]}", **content}


def _near(
    audit: Audit, X: Any, shown: np.ndarray, classes: np.ndarray, doubted: np.ndarray
) -> dict[int, list[Any]]:
    """The nearest trusted rows; without five of these, the nearest of the suggested class.

    Where the given label is not ``doubted``, [n] bools, those of its own class.
    """
    table = audit.table
    labels = np.searchsorted(classes, table["given_label"].to_numpy(str))
    trusted = table["trusted"].to_numpy()
    if _verified(audit):
        labels = np.searchsorted(classes, table["predicted_label"].to_numpy(str))
        allowed, group = np.where(trusted, labels, -1), np.full(len(shown), -1)
    else:
        allowed = np.where(table["is_label_issue"], -1, labels)
        suggested = np.searchsorted(classes, audit.suggested[shown].astype(str))
        group = np.where(doubted[shown], suggested, labels[shown])
    found = nearest_rows(X, shown, allowed, group)
    return {
        int(row): [[str(table["id"].iloc[i]), int(labels[i])] for i in near if i >= 0]
        for row, near in zip(shown, found, strict=True)
    }


def _verified(audit: Audit) -> bool:
    return bool(audit.table["trusted"].sum() >= 5)


def _data_uri(image: Any) -> str | None:
    return None if image is None else picture_uri(image)


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in, nor start a comment."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _script_hash(template: str) -> str:
    """The hash by which the page's policy lets its one script run, and no other."""
    (script,) = re.findall(r"<script>(.*?)</script>", template, re.DOTALL)
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
