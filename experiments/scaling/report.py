"""What `experiments.scaling` shows beside its arithmetic: this machine's peak, tables, a figure."""

import timeit

import jax
import jax.numpy as jnp

from l2rw_jax.reports import figures, to_markdown
from l2rw_jax.reports.style import COLORS, set_titles, styled

MODELLED = {
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
MEASURED = {
    "model": "{model}",
    "b": "{batch}",
    "m": "{clean_batch}",
    "step": "{implementation}",
    "Gflop": "{gigaflop:.3g}",
    "Gflop by XLA": "{xla_gigaflop:.3g}",
    "measured ms": "{median_ms:.4g}",
    "Gflop/s": "{gigaflop_per_second:.3g}",
    "of a matrix product's": "{share:.0%}",
}


def matmul_gigaflop_per_second(n=2048):
    """The best rate of float32 matrix products on this machine."""
    product, x = jax.jit(jnp.matmul), jnp.ones((n, n))
    times = timeit.repeat(lambda: product(x, x).block_until_ready(), repeat=20, number=1)
    return 2 * n**3 / min(times) / 1e9


def table(rows, columns):
    """A Markdown table; ``columns`` are ``{title: format of a row's fields}``."""
    return to_markdown(
        list(columns), [[form.format_map(row) for form in columns.values()] for row in rows]
    )


@styled
def plot(rows, path, *, title):
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
    set_titles(axes, answer, title)
    figures.save(figure, axes, path)
