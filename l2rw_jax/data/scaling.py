"""Features on one scale, which a few broken values cannot shift."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

_SAMPLE = 10_000  # rows that the medians are of
_SAMPLE_BYTES = 2**26  # of float64
_BLOCK_BYTES = 2**26  # of float64, read at a time
_CACHED_BYTES = 2**18  # of float64: a block that stays in the processor's cache
_LIMIT = 7.0  # units from the centre where a value counts as seven tenths of what it is
_ONE_KIND = 10.0  # largest deviation over the lower quartile; 8 of an embedding by PCA
_LARGEST = 1e300  # magnitude of a column's usual values
_TAIL = 1.6  # distances at the upper quartile over those at the median, of a normal column
_ROUNDING = 1e-14  # relative: what differs by less is one value
_FEW = 0.05  # share of rows, or of columns, that may be unlike the others
_CHECKED = 1000  # rows that are looked at for where they lie
_FEWEST = 10  # rows that tell it
_ELSEWHERE = 10.0  # deviations of the median that are too many
_STILL = 1e-3  # variance, over the training's, that is too little
_NAMED = 5  # rows that a line names
_MUCH, _FARTHEST = 1e15, 1e14  # deviations: more count as as many; from here all are far


class Scaling(NamedTuple):
    """What each column of ``[n, d]`` features is scaled by.

    Attributes:
      mean: of the column's values, those far from its median drawn near.  # shape=(d,)
      deviation: of the same; columns of one kind share it.  # shape=(d,)
      limit: what a scaled value comes near to at most; next to 0 for a constant.  # shape=(d,)
      far: the scaled value from which one is unlike all others.  # shape=(d,)
    """

    mean: np.ndarray
    deviation: np.ndarray
    limit: Any = np.inf
    far: Any = np.inf


class Scaled:
    """Features that are scaled row by row, in the images' shape.

    ``y = (x - mean) / deviation``, drawn towards the limit L: ``y / sqrt(1 + (y / L)**2)``.

    Attributes:
      array: ``[n, d]`` integers or floats; a memory map is read only where it is indexed.
      scaling: their ``Scaling``.
    """

    def __init__(self, array: Any, scaling: Scaling):
        self.array, self.scaling = array, scaling

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n, 1, 1, d)``."""
        return (len(self.array), 1, 1, self.array.shape[1])

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Rows ``[...]`` as ``[..., 1, 1, d]`` float32."""
        taken = np.asarray(self.array[rows])
        scaled = np.empty(taken.shape, np.float32)
        flat = taken.reshape(-1, taken.shape[-1])
        out = scaled.reshape(flat.shape)
        for start, block in blocks(flat, _CACHED_BYTES):
            y = deviations(block, self.scaling)
            drawn = y / self.scaling.limit
            with np.errstate(over="ignore"):
                drawn *= drawn
            drawn += 1
            np.sqrt(drawn, out=drawn)
            out[start : start + len(block)] = np.divide(y, drawn, out=y)
        return scaled[..., None, None, :]


def blocks(array: Any, size: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """First rows and blocks of an array, so that a memory map is not read whole at once.

    Args:
      array: ``[n, ...]``.
      size: bytes of a block, as float64; by default 64 MB.
    """
    rows = max(1, (size or _BLOCK_BYTES) // (8 * max(1, int(np.prod(array.shape[1:])))))
    for start in range(0, len(array), rows):
        yield start, np.asarray(array[start : start + rows])


def deviations(block: np.ndarray, scaling: Scaling) -> np.ndarray:
    """How many deviations values ``[b, d]`` are from the mean, at most 1e15."""
    away = block.astype(np.float64)
    with np.errstate(over="ignore"):
        away -= scaling.mean
        away /= scaling.deviation
    return np.clip(away, -_MUCH, _MUCH, out=away)


def fit_scaling(argument: str, array: Any, names: Sequence[str] | None = None) -> Scaling:
    """The scaling of features ``[n, d]``, by robust statistics.

    A column's unit is the median distance from its median, of values that are not the median: that
    of a column of few ones among zeros is 1. The mean and the deviation leave out what is far from
    all others, and draw to there what is further than some units. So they are the ordinary ones
    unless the tails are heavy, and broken rows do not matter.

    Columns of one kind, such as an embedding's, share one deviation, so a column that varies more
    keeps its influence. A table's columns, whose units differ, have one each.

    Args:
      argument: the array's name, for errors.
      array: finite numbers; a memory map is read in blocks.
      names: of the columns; None numbers them.

    Raises:
      ValueError: a column's usual values are too large.
    """
    sample = _sample(array)
    centre, unit, far, dense = np.array([_describe(column) for column in sample.T]).T
    large = np.isnan(centre)
    if large.any():
        column = int(np.argmax(large))
        row, value = _largest(array, column)
        raise ValueError(
            f"{argument}: column {column_name(column, names)} reaches {value:.3g} in row {row}; "
            f"takes numbers below {_LARGEST:g}: leave the column out, or divide it"
        )
    if len(sample) < len(array):  # what is rare may be missing in the sample
        unit = np.where(unit > 0, unit, _reach(array, centre))
    varies = unit > 0
    mean, own = _moments(array, centre, np.where(varies, unit, 1.0), far)
    shared = _shared(own, unit, varies, dense > 0)
    deviation = np.where(varies, shared, np.maximum(1, np.abs(centre)))
    return Scaling(
        mean=np.where(varies, mean, centre),
        deviation=deviation,
        limit=np.where(varies, _LIMIT * unit / deviation, np.finfo(np.float32).tiny),
        far=np.where(varies, np.minimum(far / deviation, _FARTHEST), _FARTHEST),
    )


def _sample(array: Any) -> np.ndarray:
    """Some rows, drawn at random, or all, as float64: enough for medians."""
    count = min(_SAMPLE, max(500, _SAMPLE_BYTES // (8 * array.shape[1])))
    if len(array) <= count:
        return np.asarray(array).astype(np.float64)
    rows = np.random.default_rng(0).choice(len(array), count, replace=False)
    return np.asarray(array[np.sort(rows)]).astype(np.float64)


def _describe(column: np.ndarray) -> tuple[float, float, float, bool]:
    """The median, NaN if it is too large; the unit, or 0; what is far; whether many differ."""
    with np.errstate(over="ignore", invalid="ignore"):
        centre = float(np.median(column))
        away = np.abs(column - centre)
    if not abs(centre) < _LARGEST or np.mean(away >= _LARGEST) > _FEW:
        return np.nan, 0.0, np.inf, False
    apart = away[(away > _ROUNDING * abs(centre)) & (away < _LARGEST)]
    if not len(apart):
        return centre, 0.0, np.inf, False
    # Of a column that is mostly one value, most of the others may be broken.
    usual = max(np.quantile(away, 1 - _FEW, method="lower"), np.quantile(apart, 0.1))
    unit, wide = np.quantile(apart[apart <= 100 * usual], [0.5, 0.75])
    with np.errstate(over="ignore"):
        tail = max(_TAIL, wide / unit)
        far = _beyond(apart, min(wide * tail**6, _LARGEST), tail**3)  # as heavy as its tail is
    return centre, unit, min(far, _LARGEST), len(apart) > _FEW * len(column)


def _beyond(away: np.ndarray, far: float, gap: float) -> float:
    """How far is farther than a tail goes, in which no distance is ``gap`` times the one before."""
    reach = np.max(away[away <= far], initial=0)
    ordered = np.concatenate([[reach], np.sort(away[away > far]), [np.inf]])
    last = np.argmax(ordered[1:] > gap * ordered[:-1])
    return max(far, gap * ordered[last])


def _moments(
    array: Any, centre: np.ndarray, unit: np.ndarray, far: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the rows that are not far, drawn to at most some units."""
    count, total, squares = np.zeros((3, len(unit)))
    for _, block in blocks(array):
        with np.errstate(over="ignore"):
            away = block.astype(np.float64) - centre
            z = np.where(np.abs(away) <= far, np.clip(away / unit, -_LIMIT, _LIMIT), 0)
        count += (np.abs(away) <= far).sum(0)
        total += z.sum(0)
        squares += (z * z).sum(0)
    shift = total / count
    return centre + shift * unit, unit * np.sqrt(np.maximum(squares / count - shift**2, 0))


def _shared(own: np.ndarray, unit: np.ndarray, varies: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """What each column is divided by: one deviation for columns of one kind, else its own."""
    # Where there are others, columns that are mostly one value do not tell the kind.
    typical = dense if dense.any() else varies
    if not typical.any():
        return own
    # The median of two columns in different units would be near the larger one.
    alike = own <= _ONE_KIND * np.quantile(own[typical], 0.25, method="lower")
    if np.mean(alike[typical]) < 1 - _FEW:
        return own
    low, high = np.quantile(unit[typical], [0, 1])
    alike = np.where(typical | ~varies, alike, (low / 2 <= unit) & (unit <= 2 * high))
    largest = own[alike].max()
    return np.where(alike, largest * np.sqrt(np.mean((own[alike] / largest) ** 2)), own)


def _reach(array: Any, centre: np.ndarray) -> np.ndarray:
    """Each column's largest distance from its centre, 0 for rounding."""
    reach = np.zeros(len(centre))
    for _, block in blocks(array):
        with np.errstate(over="ignore"):
            away = np.abs(block.astype(np.float64) - centre)
        reach = np.maximum(reach, np.where(away < _LARGEST, away, 0).max(0))
    return np.where(reach > _ROUNDING * np.abs(centre), reach, 0)


def _largest(array: Any, column: int) -> tuple[int, float]:
    best = (0, 0.0)
    for start, block in blocks(array):
        row = int(np.argmax(np.abs(block[:, column].astype(np.float64))))
        if abs(block[row, column]) > abs(best[1]):
            best = (start + row, float(block[row, column]))
    return best


def column_name(column: int, names: Sequence[str] | None) -> str:
    """A column's name in quotes, or its number."""
    return str(column) if names is None else repr(str(names[column]))


def warn_far(
    argument: str, array: Any, scaling: Scaling, names: Sequence[str] | None, others: str
) -> None:
    """Warns, by row and column, of values that are unlike all ``others``."""
    first, rows, cells, broken = "", [], 0, 0  # type: str, list[int], int, int
    columns = np.zeros(array.shape[1], bool)
    for start, block in blocks(array):
        far = np.abs(deviations(block, scaling)) > scaling.far
        found = np.flatnonzero(far.any(1))
        if len(found) and not first:
            row, column = int(found[0]), int(np.argmax(far[found[0]]))
            value, mean = float(block[row, column]), scaling.mean[column]
            reach = np.sign(value - mean) * scaling.limit[column] * scaling.deviation[column]
            first = (
                f"row {start + row}, column {column_name(column, names)} is {value:.6g}, far from "
                f"{others} (mean {mean:.3g}); it counts as {mean + reach:.3g}"
            )
        rows += (start + found[: _NAMED - len(rows)]).tolist()
        columns |= far.any(0)
        cells, broken = cells + int(far.sum()), broken + len(found)
    if not cells:
        return
    if cells > 1:
        numbers = ", ".join(map(str, rows)) + ", ..." * (broken > len(rows))
        first += f"; {cells} such values; rows: {broken} ({numbers}), columns: {columns.sum()}"
    fill = "if they stand for missing ones, fill them in, as sklearn.impute does"
    warnings.warn(f"{argument}: {first}; {fill}", UserWarning, stacklevel=3)


def warn_elsewhere(
    argument: str, array: Any, scaling: Scaling, names: Sequence[str] | None, advice: str
) -> bool:
    """Warns, and returns True, if rows lie outside the training's, or hardly differ beside them."""
    columns = np.flatnonzero(scaling.limit > np.finfo(np.float32).tiny)  # no constants
    if len(array) < _FEWEST or not len(columns):
        return False
    rows = np.unique(np.linspace(0, len(array) - 1, _CHECKED).astype(int))
    z = deviations(np.asarray(array[rows]), scaling)[:, columns]
    middle, size = np.median(z, axis=0), np.median(np.abs(z))
    most = int(np.argmax(np.abs(middle)))
    if abs(middle[most]) > max(_ELSEWHERE, size / 2):
        column = columns[most]
        mean = scaling.mean[column]
        what = (
            f"column {column_name(column, names)} is about "
            f"{mean + middle[most] * scaling.deviation[column]:.3g}, and in the training's X about "
            f"{mean:.3g}"
        )
    elif size > _ELSEWHERE:
        what = f"the values are about {size:.0f} times as large as in the training's X"
    elif z.var(0).mean() < _STILL:
        what = "the rows hardly differ, beside those of the training's X"
    else:
        return False
    warnings.warn(f"{argument}: {what}; {advice}", UserWarning, stacklevel=3)
    return True
