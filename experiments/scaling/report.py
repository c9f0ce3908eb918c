"""The three tables of `experiments.scaling` and its figure, from what its JSON file holds."""

from l2rw_jax.reports import figures, to_markdown
from l2rw_jax.reports.style import COLORS, set_titles, styled

SHOWN = (1, 8, 64, 256)  # devices in the table of the model; the JSON file has all


def tables(content):
    """All three in Markdown: what is timed, virtual devices, the model."""
    made = (timed(content["rows"]), counted(content["devices"]), modelled(content["model"]["rows"]))
    return "\n\n".join(made) + "\n"


def timed(rows):
    """A line for each setting of each comparison."""
    titles = ["compared", "model", "setting", "steps/s", "ms a step (quartiles)"]
    titles += ["times the first (quartiles)", "rounds", "compiling s"]
    lines = []
    for row in rows:
        cells = [row["comparison"], row["model"], row["setting"]]
        if row["error"]:
            cells.append(row["error"])
        else:
            cells.append("{steps_per_second:.4g}".format_map(row))
            cells.append("{median_ms:.4g} ({q1_ms:.4g}-{q3_ms:.4g})".format_map(row))
            form = "{ratio:.3f} ({ratio_q1:.3f}-{ratio_q3:.3f})" if "ratio" in row else "-"
            cells += [form.format_map(row), row["rounds"]]
            cells.append(f"{row['compile_seconds']:.1f}" if "compile_seconds" in row else "-")
        lines.append(cells)
    return to_markdown(titles, lines)


def counted(rows):
    """A line for each model on each count of virtual devices."""
    titles = ["model", "virtual devices", "loss off one device's by", "collectives a step"]
    titles += ["their bytes", "parameters' bytes"]
    lines = []
    for row in rows:
        cells = [row["model"], row["devices"]]
        if row["error"]:
            cells.append(row["error"])
        else:
            off = row.get("loss_difference")
            cells += ["-" if off is None else f"{off:.1g}", row["collectives"]]
            cells += [f"{row[f]:,}" for f in ("collective_bytes", "parameter_bytes")]
        lines.append(cells)
    return to_markdown(titles, lines)


def modelled(rows):
    """A line for each network on some counts of each accelerator."""
    columns = {
        "model": "{model}",
        "hardware": "{hardware}",
        "devices": "{devices}",
        "Tflop": "{teraflop:.3g}",
        "GB": "{gigabytes:.3g}",
        "compute ms": "{compute_ms:.3g}",
        "all-reduce ms": "{all_reduce_ms:.2g}",
        "batch that hides it": "{hiding_batch}",
        "weak": "{weak_in_sequence:.0%} to {weak_overlapped:.0%}",
        "strong": "{strong_in_sequence:.0%} to {strong_overlapped:.0%}",
    }
    shown = [row for row in rows if row["devices"] in SHOWN]
    return to_markdown(
        list(columns), [[form.format_map(row) for form in columns.values()] for row in shown]
    )


@styled
def plot(rows, path):
    """Weak-scaling efficiency over devices: overlapped a line, from there to in sequence a band."""
    figure, axes = figures.new_axes()
    lines: dict = {}
    for row in rows:
        lines.setdefault(f"{row['model']}, {row['hardware']}", []).append(row)
    for (label, line), color in zip(lines.items(), COLORS, strict=False):
        low, high = ([r[f"weak_{how}"] for r in line] for how in ("in_sequence", "overlapped"))
        devices = [r["devices"] for r in line]
        axes.fill_between(devices, low, high, alpha=0.2, color=color, linewidth=0)
        axes.plot(devices, high, marker="o", markersize=3, color=color, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(devices, devices)
    axes.set(xlabel="devices", ylabel="weak-scaling efficiency", ylim=(0, 1.02))
    most = max(row["devices"] for row in rows)
    kept = {k: line[-1]["weak_overlapped"] for k, line in lines.items()}
    least = min(kept, key=lambda name: kept[name])
    answer = f"On {most} devices, {least} keeps {100 * kept[least]:.0f} % of its speed"
    set_titles(axes, answer, "A model, not measured: 100 examples a device")
    figures.save(figure, axes, path)
