"""The figures and the tables of `experiments.scaling.throughput`."""

import numpy as np

from l2rw_jax.reports import to_markdown


def add_ratios(rows, times):
    """Adds speeds to the rows of ``timing.measure``, and ratios of turns in the same round.

    Args:
      rows: ``{setting: row}``.
      times: ``{setting: [seconds a step, of each round]}``, of the settings that ran.

    Returns:
      The rows, a list; the ratios are to the first of them.

    >>> rows = {"a": {"median_ms": 2.0}, "b": {"median_ms": 4.0}}
    >>> add_ratios(rows, {"a": [0.002, 0.002], "b": [0.004, 0.004]})[1]["ratio"]
    2.0
    """
    first = times.get(next(iter(rows)))
    for setting, seconds in times.items():
        row = rows[setting]
        row["steps_per_second"] = 1e3 / row["median_ms"]
        if first:
            ratios = np.array(seconds) / first
            for field, share in (("ratio_q1", 25), ("ratio", 50), ("ratio_q3", 75)):
                row[field] = float(np.percentile(ratios, share))
        if row.get("flops"):
            row["peak_share"] = row["flops"] * row["steps_per_second"] / row["peak"]
    return list(rows.values())


def table(rows, devices):
    """Both tables, in Markdown."""
    titles = ["compared", "model", "setting", "steps/s", "ms a step (quartiles)"]
    titles += ["times the first (quartiles)", "rounds", "compiling s"]
    shares = any("peak_share" in row for row in rows)
    titles += ["of peak"] * shares
    timed = []
    for row in rows:
        cells = [row["comparison"], row["model"], row["setting"]]
        if row["error"]:
            cells.append(row["error"])
        else:
            cells += [
                "{steps_per_second:.4g}".format_map(row),
                "{median_ms:.4g} ({q1_ms:.4g}-{q3_ms:.4g})".format_map(row),
            ]
            form = "{ratio:.3f} ({ratio_q1:.3f}-{ratio_q3:.3f})" if "ratio" in row else "-"
            cells += [form.format_map(row), row["rounds"]]
            cells.append(f"{row['compile_seconds']:.1f}" if "compile_seconds" in row else "-")
            cells += [f"{row['peak_share']:.1%}" if "peak_share" in row else "-"] * shares
        timed.append(cells)
    counted = []
    for row in devices:
        cells = [row["model"], row["devices"]]
        if row["error"]:
            cells.append(row["error"])
        else:
            off = row.get("loss_difference")
            cells += ["-" if off is None else f"{off:.1g}", row["collectives"]]
            cells += [f"{row[f]:,}" for f in ("collective_bytes", "parameter_bytes")]
        counted.append(cells)
    seen = ["model", "virtual devices", "loss off one device's by", "collectives a step"]
    seen += ["their bytes", "parameters' bytes"]
    return f"{to_markdown(titles, timed)}\n\n{to_markdown(seen, counted)}\n"
