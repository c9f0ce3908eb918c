"""The benchmark's rows: their ratios, a table and a figure; needs no PyTorch."""

import numpy as np
from matplotlib import pyplot as plt

from l2rw_jax.reports import to_markdown

METHODS = {  # of the table of ratios: ours, and PyTorch's best of the same
    "plain": ("ours plain", "torch plain"),
    "l2rw": ("ours l2rw forward", "torch forward_ad_separate"),
    "l2rw, double backward": ("ours l2rw reverse", "torch create_graph"),
    "l2rw every 4th step": ("ours l2rw every 4th", "torch every 4th"),
    "l2rw, last layer": ("ours l2rw head", "torch head"),
    "evidence": ("ours evidence", "torch evidence"),
    "mwnet": ("ours mwnet", "torch mwnet_forward_ad"),
}
# Of PyTorch, ours that computes the same; of the others, l2rw forward.
COUNTERPARTS = {
    "torch plain": "ours plain",
    "torch evidence": "ours evidence",
    "torch head": "ours l2rw head",
    "torch every 4th": "ours l2rw every 4th",
    "torch mwnet_forward_ad": "ours mwnet",
    "torch mwnet_create_graph": "ours mwnet",
}


def add_ratios(rows):
    """Adds to one setting's rows what their medians are multiples of.

    ``over_plain`` is the median over that of ``plain``, the same framework's ordinary step (the
    compiled one's for a compiled step, where that ran). ``over_ours`` of a row of PyTorch's is the
    median over that of ours that computes the same: above 1 ours is faster.

    >>> rows = [{"implementation": "ours plain", "median_ms": 2.0}]
    >>> rows += [{"implementation": "ours l2rw forward", "median_ms": 5.0}]
    >>> add_ratios(rows)[1]["over_plain"]
    2.5
    """
    medians = {row["implementation"]: row["median_ms"] for row in rows if row.get("median_ms")}
    for row in rows:
        name = row["implementation"]
        if name not in medians:
            continue
        framework, *_ = name.split()
        _, comma, kind = name.partition(",")
        plain = f"{framework} plain{comma}{kind}"
        row["plain"] = plain if plain in medians else f"{framework} plain"
        if row["plain"] in medians:
            row["over_plain"] = medians[name] / medians[row["plain"]]
        counterpart = COUNTERPARTS.get(name.partition(",")[0], "ours l2rw forward")
        if framework == "torch" and counterpart in medians:
            row["over_ours"] = medians[name] / medians[counterpart]
    return rows


def ratio_table(rows):
    """A line a setting: each method's times of a plain step, ours and PyTorch's.

    >>> row = {"model": "lenet", "batch": 100, "clean_batch": 10, "precision": "float32"}
    >>> rows = [row | {"implementation": "ours plain", "median_ms": 50.0}]
    >>> rows.append(row | {"implementation": "ours evidence", "median_ms": 60.0, "over_plain": 1.2})
    >>> print(ratio_table(rows).splitlines()[-1])
    | lenet | 100 | 10 | 50 / - ms | - | - | - | - | 1.20 / - | - |
    """
    found: dict = {}
    for row in rows:
        if row.get("precision") == "float32" and row.get("median_ms"):
            setting = (row["model"], row["batch"], row["clean_batch"])
            found.setdefault(setting, {})[row["implementation"]] = row
    lines = []
    for setting, by_name in found.items():
        cells = []
        for method, names in METHODS.items():
            each = [by_name.get(name) for name in names]
            if method == "plain":
                shown = [f"{row['median_ms']:.0f}" if row else "-" for row in each]
                cells.append(" / ".join(shown) + " ms")
                continue
            shown = [
                f"{row['over_plain']:.2f}" if row and "over_plain" in row else "-" for row in each
            ]
            cells.append(" / ".join(shown) if any(each) else "-")
        lines.append([*setting, *cells])
    return to_markdown(["model", "b", "m", *METHODS], lines)


def table(rows):
    """The rows as a Markdown table."""
    header = ["model", "b", "m", "precision", "implementation", "step ms (quartiles)"]
    header += ["times plain", "times ours", "first step s", "memory MB", "of"]
    lines = []
    for row in rows:
        cells = [row["model"], row["batch"], row["clean_batch"], row["precision"]]
        cells.append(row["implementation"])
        if row["error"]:
            cells.append(row["error"])
        else:
            cells.append(f"{row['median_ms']:.4g} ({row['q1_ms']:.4g}-{row['q3_ms']:.4g})")
            cells += [f"{row[x]:.2f}" if x in row else "-" for x in ("over_plain", "over_ours")]
            memory = row.get("memory_bytes")
            cells += [f"{row['compile_seconds']:.1f}", f"{memory / 1e6:.0f}" if memory else "-"]
            cells.append(row.get("memory_kind", "not measured"))
        lines.append(cells)
    return to_markdown(header, lines)


def summary_table(rows):
    """A line a setting, as README has it: step times, in brackets as multiples of the plain step's.

    >>> row = {"model": "lenet", "batch": 100, "clean_batch": 10, "implementation": "ours plain"}
    >>> print(summary_table([row | {"median_ms": 57.98, "over_plain": 1.0}]).splitlines()[-1])
    | lenet, b = 100, m = 10 | 58 | - | - | - | - |
    """
    columns = {
        "ours plain": "ours, plain",
        "ours l2rw forward": "ours, reweighted",
        "torch plain": "PyTorch, plain",
        "torch create_graph": "`create_graph`",
        "torch forward_ad_separate": "dual numbers",
    }
    found: dict = {}
    for row in rows:
        setting = f"{row['model']}, b = {row['batch']}, m = {row['clean_batch']}"
        cells = found.setdefault(setting, dict.fromkeys(columns, "-"))
        if row["implementation"] in cells and row.get("median_ms"):
            ratio = f" ({row['over_plain']:.2f})" if "plain" not in row["implementation"] else ""
            cells[row["implementation"]] = f"{row['median_ms']:.0f}{ratio}"
    lines = [[name, *cells.values()] for name, cells in found.items()]
    return to_markdown(["step, ms", *columns.values()], lines)


def _without_figure(error):
    """Why a row has no figure, in two words."""
    if not error:
        return ""
    return " (no time)" if error.startswith("not run") else " (failed)"


def plot(rows, path, *, title):
    """Bars of the step time, a panel a setting; whiskers are quartiles."""
    panels: dict = {}
    for row in rows:
        key = f"{row['model']}, b={row['batch']}, m={row['clean_batch']}, {row['precision']}"
        panels.setdefault(key, []).append(row)
    height = 0.6 + 0.25 * max(map(len, panels.values()))
    figure, grid = plt.subplots(
        len(panels), figsize=(9, height * len(panels)), squeeze=False, layout="constrained"
    )
    for axes, (key, panel) in zip(grid[:, 0], panels.items(), strict=True):
        median = np.array([row.get("median_ms", 0.0) for row in panel])
        low, high = (np.array([row.get(q, 0.0) for row in panel]) for q in ("q1_ms", "q3_ms"))
        colors = ["#0072B2" if "ours" in row["implementation"] else "#E69F00" for row in panel]
        labels = [row["implementation"] + _without_figure(row["error"]) for row in panel]
        axes.barh(labels, median, xerr=(median - low, high - median), color=colors)
        axes.invert_yaxis()
        axes.set(title=key, xlabel="ms a step")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_growth(rows, path, *, title):
    """Step time over b where m = b, a line an implementation, on logarithmic axes."""
    lines: dict = {}
    for row in rows:
        if row["batch"] == row["clean_batch"] and row.get("median_ms"):
            name = f"{row['model']}, {row['implementation']}, {row['precision']}"
            lines.setdefault(name, []).append(row)
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, line in lines.items():
        line = sorted(line, key=lambda row: row["batch"])
        if len(line) > 1:
            style = "-" if "ours" in name else "--"
            x, y = ([row[field] for row in line] for field in ("batch", "median_ms"))
            axes.plot(x, y, style, marker="o", markersize=4, label=name)
    axes.set(xscale="log", yscale="log", xlabel="b = m", ylabel="ms a step", title=title)
    axes.grid(alpha=0.25, which="both")
    if axes.lines:
        axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
