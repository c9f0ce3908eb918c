"""Features of rows: numbers of tables, whose missing cells are filled, and nearest rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from l2rw_jax.audit.cells import to_numbers
from l2rw_jax.audit.columns import choose_columns
from l2rw_jax.audit.errors import AuditError, counted, listed
from l2rw_jax.audit.layout import UNNAMED

_ROWS = 65536  # read at a time
_FAR = 1e9  # deviations from which on all rows are equally far: their squares fit float32


class Recipe(NamedTuple):
    """How columns of a table become features, so that other rows become features alike.

    Attributes:
        columns: their names.
        medians: by column, what fills a missing cell.
        indicators: the columns beside which a feature says where they are missing.
        codes: by column, what counts as missing in it beside blanks, "?", "NA" and their like.
    """

    columns: list[str]
    medians: dict[str, float]
    indicators: list[str]
    codes: dict[str, list[float | str]]

    def facts(self) -> dict[str, Any]:
        """What summary.json says of it."""
        missing = self._asdict()
        return {"feature_columns": missing.pop("columns"), "missing_values": missing}

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> "Recipe | None":
        """The recipe in a summary; None if the features were no table's.

        Raises:
            LookupError, TypeError, ValueError, AttributeError: it is damaged.
        """
        if facts.get("feature_columns") is None:
            return None
        columns, missing = facts["feature_columns"], facts["missing_values"]
        if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
            raise ValueError("the columns are no list of texts")
        medians = {name: float(missing["medians"][name]) for name in columns}
        indicators = [name for name in columns if name in missing["indicators"]]
        codes = {name: list(missing["codes"].get(name, [])) for name in columns}
        known = all(isinstance(code, str | int | float) for each in codes.values() for code in each)
        if not known or not np.isfinite(list(medians.values())).all():
            raise ValueError("a code or a median is no number")
        return cls(columns, medians, indicators, codes)


class Features(NamedTuple):
    """The features of a table.

    Attributes:
        X: [n, d] floats, all finite.
        recipe: how they came from its columns.
        left_out: the names of its other columns.
        notes: lines that tell the user.
    """

    X: np.ndarray
    recipe: Recipe
    left_out: tuple[str, ...]
    notes: list[str]


def table_features(
    path: Path, frame: pd.DataFrame, labels: np.ndarray, reserved: Mapping[str, str]
) -> Features:
    """The features in a table of --features.

    Args:
        path: its file, for errors.
        frame: n rows, without the columns of ids and of these labels.
        labels: [n] the given labels, which no feature may tell alone.
        reserved: columns that are no features whatever they hold, and why.

    Raises:
        AuditError: no column of numbers is left, or a number is not finite.
    """
    chosen = choose_columns(frame, labels, reserved)
    if chosen.numbers.empty:
        reasons = [f"{name!r}: {why}" for name, why in chosen.left_out.items()]
        more = f" and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        raise AuditError(
            f"--features={path}: got no column of numbers that is a feature"
            f"{' (' if reasons else ''}{'; '.join(reasons[:5])}{more}{')' if reasons else ''}; "
            f"takes at least one"
        )
    _check_finite(path, chosen.numbers)
    middle = 2 * (chosen.numbers / 2).median()  # halved, so that no sum of two overflows
    medians = {str(name): float(value) for name, value in middle.items()}
    recipe = Recipe(list(chosen.numbers), medians, chosen.indicators, chosen.codes)
    used = f"features: {counted(len(recipe.columns), 'column')}: {listed(recipe.columns)}"
    notes = [used, *chosen.notes, *_filled(chosen.numbers)]
    return Features(_fill(chosen.numbers, recipe), recipe, tuple(sorted(chosen.left_out)), notes)


def table_features_again(
    path: Path, frame: pd.DataFrame, recipe: Recipe | None
) -> tuple[np.ndarray, list[str]]:
    """The features in a table of other rows.

    Args:
        path: its file, for errors.
        frame: n rows with the recipe's columns; the others are left out.
        recipe: as of the rows that were audited; None takes all columns that have a name.

    Returns:
        [n, d] floats, and lines that tell the user.

    Raises:
        AuditError: a column that is no numbers, or a number that is not finite.
    """
    columns = [name for name in frame if not UNNAMED.fullmatch(name)]
    columns = columns if recipe is None else recipe.columns
    numbers = {}
    for name in columns:
        codes = [] if recipe is None else recipe.codes.get(name, [])
        cells = to_numbers(frame[name], [code for code in codes if isinstance(code, str)])
        if cells.numbers is None or cells.text:
            such = "".join(f", such as {text[:30]!r}" for text in cells.text[:1])
            raise AuditError(
                f"--features={path}: column {name!r} holds text{such}; takes numbers; mend it or "
                f"leave the cell empty"
            )
        far = [code for code in codes if not isinstance(code, str)]
        numbers[name] = np.where(np.isin(cells.numbers, far), np.nan, cells.numbers)
    table = pd.DataFrame(numbers, index=pd.RangeIndex(len(frame)))
    _check_finite(path, table, missing=recipe is not None)
    return (table.to_numpy(), []) if recipe is None else (_fill(table, recipe), _filled(table))


def _fill(numbers: pd.DataFrame, recipe: Recipe) -> np.ndarray:
    """[n, d] floats: the columns, missing cells by their median, then where each was missing."""
    where = numbers[recipe.indicators].isna()
    return np.hstack([numbers.fillna(recipe.medians).to_numpy(np.float64), where])


def _filled(numbers: pd.DataFrame) -> list[str]:
    counts = numbers.isna().sum()
    names: Sequence[str] = list(counts.index[counts > 0])
    if not names:
        return []
    return [
        f"{counted(counts.sum(), 'missing cell')} in {counted(len(names), 'column')} filled with "
        f"the column's median: {listed(names)}"
    ]


def _check_finite(path: Path, numbers: pd.DataFrame, *, missing: bool = True) -> None:
    strange = np.isinf(numbers) if missing else ~np.isfinite(numbers)
    if strange.to_numpy().any():
        row, column = np.argwhere(strange.to_numpy())[0]
        raise AuditError(
            f"--features={path}: row {row}, column {numbers.columns[column]!r} is "
            f"{numbers.iat[row, column]}: give finite numbers"
        )


def nearest_rows(
    features: np.ndarray, rows: np.ndarray, allowed: np.ndarray, group: np.ndarray, count: int = 5
) -> np.ndarray:
    """The nearest rows of the same group, some rows at a time.

    The distance is the Euclidean one, every column divided by its deviation (in the first rows).

    Args:
        features: [n, d] numbers.
        rows: [r] integers, whose neighbours are looked for.
        allowed: [n] integers: a row's group, or -1 for no candidate.
        group: [r] integers: the group to look in; -1 looks in all.
        count: neighbours of each.

    Returns:
        [r, count] rows, nearest first; -1 where there are no more.
    """
    sample = np.asarray(features[:_ROWS], np.float64)
    peak = np.abs(sample).max(0)
    peak[peak == 0] = 1
    sample = sample / peak  # so that no square overflows
    centre, deviation = sample.mean(0), sample.std(0)
    deviation[deviation == 0] = 1

    def scaled(part: np.ndarray) -> np.ndarray:
        # Centred before the cast: float32 cannot tell 1.7e9 from the next second.
        with np.errstate(over="ignore"):  # a row far from the first ones: see _FAR
            part = (np.asarray(part, np.float64) / peak - centre) / deviation
        return part.clip(-_FAR, _FAR).astype(np.float32)

    queries = scaled(features[rows])
    best = np.full((len(rows), count), -1)
    distance = np.full((len(rows), count), np.inf, np.float32)
    for start in range(0, len(features), _ROWS // 8):
        part = slice(start, start + _ROWS // 8)
        block = scaled(features[part])
        found = (block**2).sum(1) - 2 * queries @ block.T
        known = allowed[part]
        fits = np.where(group[:, None] < 0, known >= 0, known == group[:, None])
        index = np.arange(start, start + len(block))
        fits &= index != rows[:, None]
        both = np.concatenate([distance, np.where(fits, found, np.inf)], 1)
        names = np.concatenate([best, np.broadcast_to(index, found.shape)], 1)
        order = np.argsort(both, 1, kind="stable")[:, :count]
        distance = np.take_along_axis(both, order, 1)
        best = np.take_along_axis(names, order, 1)
    return np.where(np.isfinite(distance), best, -1)
