"""Means with 95 % intervals over seeds, and the table that shows them."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

METRICS = ("test_accuracy", "best_test_accuracy", "test_balanced_accuracy", "noise_auroc")


def mean_interval(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    r"""Mean and half-width of the 95 % confidence interval of the mean, by Student's t.

    .. math:: \bar x \pm t_{0.975,\,n-1} \, s / \sqrt n

    Args:
      values: the seeds' values; None among them makes the mean None.

    Returns:
      ``(mean, half_width)``; one value has no interval and a half-width of None.

    >>> mean, half_width = mean_interval([1.0, 2.0, 3.0])
    >>> round(mean, 4), round(half_width, 4)
    (2.0, 2.4841)
    >>> mean_interval([0.5])
    (0.5, None)
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None, None
    mean, n = float(np.mean(known)), len(known)
    if n < 2:
        return mean, None
    from scipy import stats  # slow to import

    return mean, float(stats.t.ppf(0.975, n - 1) * stats.sem(known))


def summarize(results: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each combination of ``keys``: the metrics' means and intervals over seeds.

    Args:
      results: result dicts, as in result.json, with the ``keys`` in them.
      keys: what tells rows apart, ``("method",)`` for example.

    Returns:
      Dicts with the keys, ``seeds`` (their number), ``steps_per_second`` (the median) and for each
      metric ``{"mean", "ci95"}``, in the order in which the rows first come.
    """
    rows: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for result in results:
        rows.setdefault(tuple(result[key] for key in keys), []).append(result)
    summary = []
    for values, group in rows.items():
        row: dict[str, Any] = dict(zip(keys, values, strict=True)) | {"seeds": len(group)}
        for metric in METRICS:
            mean, ci95 = mean_interval([result[metric] for result in group])
            row[metric] = {"mean": mean, "ci95": ci95}
        speeds = [r["steps_per_second"] for r in group if r["steps_per_second"]]
        row["steps_per_second"] = statistics.median(speeds) if speeds else None
        summary.append(row)
    return summary


def table(
    summary: Iterable[Mapping[str, Any]], keys: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a table with the rows of ``summarize``; accuracies in percent."""
    header = [
        *keys,
        "test accuracy % (last)",
        "best evaluation %",
        "balanced %",
        "noise AUROC",
        "seeds",
    ]
    rows = []
    for row in summary:
        cells = [str(row[key]) for key in keys]
        cells += [cell(row[metric], 100, 1) for metric in METRICS[:3]]
        cells.append(cell(row["noise_auroc"], 1, 3))
        rows.append([*cells, str(row["seeds"])])
    return header, rows


def to_markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; rows with fewer cells than the header end in dashes.

    >>> print(to_markdown(["a", "b"], [[1, "x|y"], [2]]))
    | a | b |
    |---|---|
    | 1 | x/y |
    | 2 | - |
    """
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for row in rows:
        cells = [str(cell).replace("|", "/") for cell in row]
        cells += ["-"] * (len(header) - len(cells))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(metric: Mapping[str, float | None], scale: float, digits: int) -> str:
    """A metric of ``summarize`` as ``mean ± half-width``, times ``scale``; a dash for None."""
    if metric["mean"] is None:
        return "-"
    mean = f"{scale * metric['mean']:.{digits}f}"
    return mean if metric["ci95"] is None else f"{mean} ± {scale * metric['ci95']:.{digits}f}"
