"""What an audit leaves: its tables and summary.json. How they are put in place: see `folder`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from l2rw_jax._files import write_whole
from l2rw_jax.audit.calibrate import shares
from l2rw_jax.audit.folder import PROGRAM, SUMMARY
from l2rw_jax.audit.table import Audit
from l2rw_jax.audit.tables import write_csv
from l2rw_jax.training.workdir import environment

MEASURED = "measured on your verified rows"
GUESS = "a guess from the model alone; verify some rows"
NO_ISSUE = (
    "No issue was found: either the labels are right, or the model memorised the wrong ones or "
    "cannot tell the classes apart. Verify some rows."
)
SUREST = 0.9  # probability of being wrong from which corrected.csv replaces a label


def write_tables(folder: Path, audit: Audit, facts: dict[str, Any]) -> dict[str, Any]:
    """Writes issues.csv, corrected.csv and summary.json.

    Args:
        folder: where to.
        audit: what was found.
        facts: what else the summary says, such as the command.

    Returns:
        The summary.
    """
    table = audit.table
    order = np.argsort(table["label_score"].to_numpy(), kind="stable")
    write_csv(folder / "issues.csv", table.iloc[order])
    replace = audit.wrong >= SUREST
    labels = np.where(replace, audit.suggested, table["given_label"])
    write_csv(folder / "corrected.csv", pd.DataFrame({"id": table["id"], "label": labels}))
    summary = {
        "program": PROGRAM,
        **facts,
        **_estimates(audit),
        "replaced_labels": int(replace.sum()),
        "replaced_from_probability": SUREST,
        **environment(),
    }
    write_whole(folder / SUMMARY, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
    return summary


def in_words(summary: dict[str, Any]) -> str:
    """What the command prints: the issues, the share of wrong labels and how sure it is."""
    share = summary["wrong_share"]
    if share["estimate"] is None:
        return str(summary["doubt"])
    interval = "" if share["low"] is None else f" ({share['low']:.1%} to {share['high']:.1%})"
    wrong = "may be" if summary["wrong_share_is"] == GUESS else "are"
    text = (
        f"{summary['issues']} label issues; about {share['estimate']:.1%}{interval} of the labels "
        f"{wrong} wrong: {summary['wrong_share_is']}"
    )
    return f"{text}\n{summary['doubt']}" if summary["doubt"] else text


def _estimates(audit: Audit) -> dict[str, Any]:
    table = audit.table
    classes, given = np.unique(table["given_label"].to_numpy(str), return_inverse=True)
    total, *each = shares(
        table["label_score"].to_numpy(), given, len(classes), audit.wrong, audit.calibrated
    )
    issue = table["is_label_issue"].to_numpy()
    rows, issues = np.bincount(given), np.bincount(given[issue], minlength=len(classes))
    flagged = table[issue]
    pairs = flagged.groupby(["given_label", "predicted_label"]).size().sort_values(ascending=False)
    return {
        "rows": len(table),
        "trusted_rows": int(table["trusted"].sum()),
        "steering_rows": audit.steering,
        "issues": int(issue.sum()),
        "wrong_share": _interval(total),
        "wrong_share_is": GUESS if audit.calibrated is None else MEASURED,
        "doubt": audit.doubt or (None if issue.any() else NO_ISSUE),
        "estimated_from": "confident counts" if audit.calibrated is None else "trusted rows",
        "classes": {
            str(name): {
                "rows": int(rows[i]),
                "issues": int(issues[i]),
                "wrong_share": _interval(each[i]),
            }
            for i, name in enumerate(classes)
        },
        "confusion": [
            {"given": str(a), "predicted": str(b), "issues": int(count)}
            for (a, b), count in pairs.items()
        ],
    }


def _interval(share: Any) -> dict[str, float | None]:
    return {
        name: None if np.isnan(value) else round(float(value), 5)
        for name, value in share._asdict().items()
    }
