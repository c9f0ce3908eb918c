"""The folder that an audit leaves: written beside its place, and put there once it is whole."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from l2rw_jax.audit.calibrate import shares
from l2rw_jax.audit.errors import AuditError
from l2rw_jax.audit.table import Audit
from l2rw_jax.audit.tables import write_csv
from l2rw_jax.training.workdir import environment

PROGRAM = "l2rw-audit"
SUREST = 0.9  # probability of being wrong from which corrected.csv replaces a label


def check_output(output: Path) -> None:
    """Raises AuditError if the output's place holds anything but an earlier audit."""
    if output.exists() and not output.is_dir():
        raise AuditError(f"--output={output}: is a file; give a new folder's name")
    if output.is_dir() and any(output.iterdir()) and not _is_audit(output):
        raise AuditError(
            f"--output={output}: holds something else than an audit; give a new folder"
        )


def whole(output: Path) -> Path:
    """Where the audit of that name is: in its place, or beside it, if the next one was killed."""
    if not output.absolute().name:  # the root has nothing beside it
        return output
    old = _old(output)
    return old if old.is_dir() and not output.exists() else output


@contextlib.contextmanager
def replaced(output: Path) -> Iterator[Path]:
    """A folder to write into, which takes the output's place once all went well.

    It lies beside it, hidden. A killed audit leaves it there, and the next one clears it. If it was
    killed while it took the place of an earlier audit, that one comes back: see `whole`.

    Raises:
        AuditError: another audit is writing, or nothing can be written there.
    """
    output = output.absolute()
    part = output.with_name(f".{output.name}.part")
    try:
        part.mkdir(parents=True, exist_ok=True)
        lock = os.open(part, os.O_RDONLY)
    except OSError as error:
        raise AuditError(f"--output={output}: cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AuditError(f"--output={output}: another audit is writing it") from None
        if (kept := whole(output)) != output:
            kept.rename(output)
        _clear(part)
        try:
            yield part
            _put(part, output)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    finally:
        os.close(lock)


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
    (folder / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return summary


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


def _is_audit(folder: Path) -> bool:
    try:
        return json.loads((folder / "summary.json").read_text())["program"] == PROGRAM
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _old(output: Path) -> Path:
    output = output.absolute()
    return output.with_name(f".{output.name}.old")


def _put(part: Path, output: Path) -> None:
    """Renames the whole folder into place; an earlier audit steps aside and is removed."""
    old = _old(output)
    shutil.rmtree(old, ignore_errors=True)
    check_output(output)  # it may have been filled since
    if output.exists():
        output.rename(old)
    part.rename(output)
    shutil.rmtree(old, ignore_errors=True)
