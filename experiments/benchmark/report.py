"""The benchmark's rows: their ratios, a table and a figure; needs no PyTorch."""

from matplotlib import pyplot as plt

from l2rw_jax.reports import to_markdown
from l2rw_jax.reports.figures import write
from l2rw_jax.reports.style import COLORS, styled

METHODS = {  # of the table of ratios: ours, then PyTorch's; of several, the quickest counts
    "plain": ("ours plain", "torch plain"),
    "l2rw": ("ours l2rw forward", "torch forward_ad_separate", "torch create_graph"),
    "l2rw, double backward": ("ours l2rw reverse", "torch create_graph"),
    "l2rw, last layer": ("ours l2rw head", "torch head"),
    "evidence": ("ours evidence", "torch evidence"),
    "mwnet": ("ours mwnet", "torch mwnet_forward_ad", "torch mwnet_create_graph"),
}
IN_TABLE = list(dict.fromkeys(name for names in METHODS.values() for name in names))
# Of PyTorch, ours that computes the same; of the others, l2rw forward.
COUNTERPARTS = {
    "torch plain": "ours plain",
    "torch evidence": "ours evidence",
    "torch head": "ours l2rw head",
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


def _both(by_name, method):
    """Our row of a method and PyTorch's quickest; None for one that did not run."""
    ours, *theirs = METHODS[method]
    found = [by_name[name] for name in theirs if name in by_name]
    return by_name.get(ours), min(found, key=lambda row: row["median_ms"], default=None)


def ratio_table(rows):
    """A line a setting: each method's times of a plain step, ours and PyTorch's.

    >>> row = {"model": "lenet", "batch": 100, "clean_batch": 10, "precision": "float32"}
    >>> rows = [row | {"implementation": "ours plain", "median_ms": 50.0}]
    >>> rows.append(row | {"implementation": "ours evidence", "median_ms": 60.0, "over_plain": 1.2})
    >>> print(ratio_table(rows).splitlines()[-1])
    | lenet | 100 | 10 | 50 / - ms | - | - | - | 1.20 / - | - |
    """
    found: dict = {}
    for row in rows:
        if row.get("precision") == "float32" and row.get("median_ms"):
            setting = (row["model"], row["batch"], row["clean_batch"])
            found.setdefault(setting, {})[row["implementation"]] = row
    lines = []
    for setting, by_name in found.items():
        cells = []
        for method in METHODS:
            each = _both(by_name, method)
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


def pairs(rows):
    """Each float32 setting's multiples of a plain step: ``{setting: {method: (ours, PyTorch's)}}``.

    Only methods of ``METHODS`` that both frameworks have run.

    >>> row = {"model": "lenet", "batch": 100, "clean_batch": 10, "precision": "float32"}
    >>> names = {"ours mwnet": 1.1, "torch mwnet_forward_ad": 1.3, "torch mwnet_create_graph": 1.2}
    >>> rows = [
    ...     row | {"implementation": name, "over_plain": x, "median_ms": 50 * x}
    ...     for name, x in (names | {"torch head": 1.4}).items()
    ... ]
    >>> pairs(rows)
    {'lenet, b = 100, m = 10': {'mwnet': (1.1, 1.2)}}
    """
    found: dict = {}
    for row in rows:
        if row["precision"] == "float32" and "over_plain" in row:
            setting = f"{row['model']}, b = {row['batch']}, m = {row['clean_batch']}"
            found.setdefault(setting, {})[row["implementation"]] = row
    return {
        setting: {
            method: (ours["over_plain"], theirs["over_plain"])
            for method in METHODS
            if method != "plain"
            for ours, theirs in [_both(by_name, method)]
            if ours and theirs
        }
        for setting, by_name in found.items()
    }


@styled
def plot(rows, path, *, title):
    """What each method costs over a plain step, ours beside PyTorch's, a panel a setting."""
    found = {setting: each for setting, each in pairs(rows).items() if each}
    if not found:  # a run of one framework alone
        return
    every = [pair for each in found.values() for pair in each.values()]
    less = sum(ours < theirs for ours, theirs in every)
    heights = [0.5 + len(each) for each in found.values()]
    figure, grid = plt.subplots(
        len(found),
        figsize=(7, 0.9 + 0.42 * sum(heights)),
        sharex=True,
        squeeze=False,
        layout="constrained",
        height_ratios=heights,
    )
    for axes, (setting, each) in zip(grid[:, 0], found.items(), strict=True):
        places = range(len(each))
        axes.hlines(places, *zip(*each.values(), strict=True), color="#bbbbbb", zorder=1)
        for name, marker, x in zip(
            ("this library", "PyTorch"), "os", zip(*each.values(), strict=True), strict=True
        ):
            color = COLORS[0] if marker == "o" else COLORS[3]
            axes.plot(x, places, marker, color=color, label=name)
        axes.set_yticks(places, list(each))
        axes.set_ylim(len(each) - 0.4, -0.6)
        axes.axvline(1, color="#dddddd", zorder=0)
        axes.set_title(setting)
    grid[-1, 0].set_xlabel(f"times a plain step of the same framework ({title})")
    grid[0, 0].legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(
        "Reweighting multiplies a plain step by less here\n"
        f"than in PyTorch in {less} of {len(every)} pairs"
    )
    write(figure, path, dpi=120)
    plt.close(figure)
