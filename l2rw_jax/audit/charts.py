"""The report's figures and tables, as HTML and SVG that need no script."""

import html
from typing import Any

import numpy as np

from l2rw_jax._html import table as _table

_MATRIX = 15  # classes up to which the confusion is a matrix
_PAIRS = 30
_BINS = 20


def figures(summary: dict[str, Any]) -> str:
    """The numbers at the top of the page."""
    share = summary["wrong_share"]
    verified = summary["trusted_rows"]
    numbers = [
        (f"{summary['rows']:,}", f"rows in {len(summary['classes'])} classes"),
        (f"{summary['issues']:,}", "labels more likely wrong than right"),
        (percent(share), f"of all labels wrong, {summary['wrong_share_is']}"),
        (f"{verified:,}", "rows verified so far"),
    ]
    told = "".join(
        f"<div><dt>{html.escape(text)}</dt><dd>{html.escape(number)}</dd></div>"
        for number, text in numbers
    )
    doubt = f'<p class="doubt">{html.escape(summary["doubt"])}</p>' if summary["doubt"] else ""
    return f"<dl>{told}</dl>{doubt}"


def percent(share: dict[str, float | None]) -> str:
    """An estimate with its interval.

    >>> percent({"estimate": 0.172, "low": 0.16, "high": 0.19})
    '17.2 % (16.0–19.0)'
    """
    if share["estimate"] is None:
        return "–"
    text = f"{100 * share['estimate']:.1f} %"
    if share["low"] is None or share["high"] is None:
        return text
    return f"{text} ({100 * share['low']:.1f}–{100 * share['high']:.1f})"


def histogram(scores: np.ndarray, issue: np.ndarray) -> str:
    """Bars of the scores in twenty bins; issues are marked. Heights are square roots of counts."""
    bins = np.clip((scores * _BINS).astype(int), 0, _BINS - 1)
    total = np.bincount(bins, minlength=_BINS)
    flagged = np.bincount(bins[issue], minlength=_BINS)
    high = np.sqrt(np.max(total))
    bars = []
    for i in range(_BINS):
        text = (
            f"score {i / _BINS:.2f} to {(i + 1) / _BINS:.2f}: {total[i]} rows, {flagged[i]} issues"
        )
        tall, part = 100 * np.sqrt(total[i]) / high, flagged[i] / max(total[i], 1)
        bars.append(
            f"<g><title>{text}</title>"
            f'<rect class="hit" x="{10 * i}" y="0" width="10" height="100"/>'
            f'<rect class="row" x="{10 * i + 1}" y="{100 - tall:.2f}" width="8" '
            f'height="{tall:.2f}"/>'
            f'<rect class="issue" x="{10 * i + 1}" y="{100 - tall * part:.2f}" width="8" '
            f'height="{tall * part:.2f}"/></g>'
        )
    return (
        f'<svg viewBox="0 0 {10 * _BINS} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="Histogram of label scores">{"".join(bars)}</svg>'
    )


def confusion(summary: dict[str, Any]) -> str:
    """Issues by given and suggested class: a matrix, or with many classes the largest counts."""
    pairs = summary["confusion"]
    if not pairs:
        return "<p>No issues.</p>"
    names = list(summary["classes"])
    if len(names) > _MATRIX:
        rows = [
            (html.escape(p["given"]), html.escape(p["predicted"]), f"{p['issues']:,}")
            for p in pairs[:_PAIRS]
        ]
        return _table(("Given", "Suggested", "Issues"), rows)
    count = {(p["given"], p["predicted"]): p["issues"] for p in pairs}
    most = max(count.values())
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
    body = "".join(
        f'<tr><th scope="row">{html.escape(given)}</th>'
        + "".join(_cell(count.get((given, name), 0), most, given == name) for name in names)
        + "</tr>"
        for given in names
    )
    corner = '<td class="corner">given ↓ suggested →</td>'
    return (
        f'<table class="matrix"><thead><tr>{corner}{head}</tr></thead><tbody>{body}</tbody></table>'
    )


def classes(summary: dict[str, Any]) -> str:
    """The table of classes, those with the most wrong labels first."""

    def wrong(item: tuple[str, Any]) -> float:
        return -(item[1]["wrong_share"]["estimate"] or 0)

    rows = [
        (
            html.escape(name),
            f"{each['rows']:,}",
            f"{each['issues']:,}",
            percent(each["wrong_share"]),
        )
        for name, each in sorted(summary["classes"].items(), key=wrong)
    ]
    how = "estimated" if summary["estimated_from"] == "trusted rows" else "a guess"
    return _table(("Class", "Rows", "Issues", f"Wrong, {how}"), rows)


def _cell(count: int, most: int, diagonal: bool) -> str:
    if diagonal:
        return '<td class="diagonal"></td>'
    level = 0 if count == 0 else 1 + round(3 * count / most)
    return f'<td class="level{level}">{count or "·"}</td>'
