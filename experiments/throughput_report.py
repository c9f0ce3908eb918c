"""The figures and the tables of `experiments.throughput`."""

import numpy as np


def summarize(rows, times):
    """Adds the figures of their turns to the rows.

    Args:
      rows: ``{setting: row}``.
      times: ``{setting: [seconds a step, of each round]}``, of the settings that ran.

    Returns:
      The rows, a list.

    >>> row, = summarize({"a": {}}, {"a": [0.002, 0.004, 0.003]})
    >>> row["median_ms"], row["rounds"]
    (3.0, 3)
    """
    first = times.get(next(iter(rows)))
    for setting, seconds in times.items():
        row = rows[setting]
        q1, median, q3 = np.percentile(1e3 * np.array(seconds), [25, 50, 75]).tolist()
        row |= {"q1_ms": q1, "median_ms": median, "q3_ms": q3, "rounds": len(seconds)}
        row["steps_per_second"] = 1e3 / median
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
    titles += ["of peak"] if any("peak_share" in row for row in rows) else []
    timed = []
    for row in rows:
        cells = [row["comparison"], row["model"], row["setting"]]
        if row["error"]:
            cells.append(row["error"].replace("|", "/"))
        else:
            cells += [
                "{steps_per_second:.4g}".format_map(row),
                "{median_ms:.4g} ({q1_ms:.4g}-{q3_ms:.4g})".format_map(row),
            ]
            form = "{ratio:.3f} ({ratio_q1:.3f}-{ratio_q3:.3f})" if "ratio" in row else "-"
            cells += [form.format_map(row), str(row["rounds"])]
            cells.append(f"{row['compile_seconds']:.1f}" if "compile_seconds" in row else "-")
            cells.append(f"{row['peak_share']:.1%}" if "peak_share" in row else "-")
        timed.append(cells)
    counted = []
    for row in devices:
        cells = [row["model"], str(row["devices"])]
        if row["error"]:
            cells.append(row["error"].replace("|", "/"))
        else:
            off = row.get("loss_difference")
            cells += ["-" if off is None else f"{off:.1g}", str(row["collectives"])]
            cells += [f"{row[f]:,}" for f in ("collective_bytes", "parameter_bytes")]
        counted.append(cells)
    seen = ["model", "virtual devices", "loss off one device's by", "collectives a step"]
    seen += ["their bytes", "parameters' bytes"]
    return _markdown(titles, timed) + "\n" + _markdown(seen, counted)


def _markdown(titles, rows):
    lines = [titles, ["---"] * len(titles)]
    lines += [(row + ["-"] * len(titles))[: len(titles)] for row in rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines).replace(" --- ", "---")
