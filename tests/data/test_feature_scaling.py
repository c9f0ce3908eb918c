"""Scaling is the ordinary one on ordinary data, and what is broken hardly matters to the rest."""

import warnings

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from looped import check_each
from sklearn.datasets import load_iris, load_wine

from l2rw_jax.data import scaling as module
from l2rw_jax.data.scaling import Scaled, fit_scaling, warn_elsewhere, warn_far

TINY = np.finfo(np.float32).tiny


def scaled(array, fitted_to=None):
    """The scaled rows [n, d]."""
    scaling = fit_scaling("X", array if fitted_to is None else fitted_to)
    return Scaled(array, scaling)[:][:, 0, 0]


def normal(n=600, d=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def told(function, *arguments):
    """What it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function(*arguments)
    return [str(each.message) for each in caught]


def far(array, names=None):
    return told(warn_far, "X", array, fit_scaling("X", array), names, "all others")


def elsewhere(rows, fitted_to):
    scaling = fit_scaling("X", fitted_to)
    return told(warn_elsewhere, "X", rows, scaling, None, "transform them")


@pytest.mark.parametrize("load", [load_wine, load_iris])
def test_on_ordinary_data_it_is_the_standard_one(load):
    X, _ = load(return_X_y=True)
    scaling = fit_scaling("X", X)
    kind = len(set(scaling.deviation[X.std(0) > 0])) == 1
    expected = np.sqrt(X.var(0).mean()) if kind else X.std(0)
    varies = X.std(0) > 0
    np.testing.assert_allclose(scaling.mean, X.mean(0), atol=0.1 * X.std())
    ratio = scaling.deviation / expected
    assert ratio[varies].min() > 0.95 and ratio[varies].max() < 1.05
    assert not far(X)


def test_the_squash_is_the_formula_of_its_docstring():
    X = normal()
    scaling = fit_scaling("X", X)
    y = (X - scaling.mean) / scaling.deviation
    expected = y / np.sqrt(1 + (y / scaling.limit) ** 2)
    np.testing.assert_allclose(Scaled(X, scaling)[:][:, 0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(
        Scaled(X, scaling)[np.array([[3, 5]])][:, :, 0, 0], expected[[[3, 5]]], rtol=1e-5
    )


BROKEN = {
    "one row of 1e4": (np.s_[17], 1e4),
    "one row of -1e6": (np.s_[17], -1e6),
    "one row of 1e30": (np.s_[17], 1e30),
    "one row of 1e300": (np.s_[17], 1e300),
    "one row of the largest float": (np.s_[17], np.finfo(float).max),
    "one cell of -1.8e308": (np.s_[17, 3], np.finfo(float).min),
    "2 % rows of -9999 in one column": (np.s_[::50, 2], -9999.0),
    "10 % rows of -9999 in two columns": (np.s_[::10, :2], -9999.0),
    "a sixth of a column 1e5": (np.s_[::6, 0], 1e5),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_values_hardly_move_the_others(name):
    where, value = BROKEN[name]
    X = normal() + np.arange(8)
    sparse = (normal(seed=1) > 1.9) * 1.0  # 3 % are one
    for clean in (X, sparse, np.concatenate([X, 1000 * X], 1)):
        broken = clean.copy()
        broken[where] = value
        if clean is sparse and name.startswith(("10 %", "a sixth")):
            continue  # most of what is not zero is broken: no column alone can say so
        rest = broken == clean
        before, after = scaled(clean), scaled(broken)
        assert np.isfinite(after).all()
        shrunk = after[rest].std() / before[rest].std()
        assert 0.4 < shrunk < 1.6, (name, shrunk)
        assert np.abs(after).max() < 60
        lines = far(broken)
        assert len(lines) == 1 and lines[0].startswith("X: row ") and "\n" not in lines[0]


def heavy(n=600, d=16):
    """Honest columns with heavy tails."""
    rng = np.random.default_rng(0)
    return {
        "t of 2": rng.standard_t(2, (n, d)),
        "t of 3, many rows": rng.standard_t(3, (20_000, d)),
        "exponential, many rows": rng.exponential(size=(20_000, d)),
        "lognormal": rng.lognormal(0, 1, (n, d)),
        "lognormal of 2, many rows": rng.lognormal(0, 2, (20_000, d)),
        "negative binomial": rng.negative_binomial(0.2, 0.01, (n, d)),
        "mostly zero": rng.lognormal(0, 2, (n, d)) * (rng.random((n, d)) < 0.1),
        "tf-idf": np.where(rng.random((n, 200)) < 0.02, rng.random((n, 200)), 0),
    }


def test_heavy_tails_are_not_called_far():
    def check(name, X):
        assert not far(X), far(X)
        z = scaled(X)
        assert 0.5 < np.median(z.std(0)) < 1.5 and np.abs(z).max() < 15

    check_each(check, heavy().items())
    # The largest of Cauchy's may be far from all others, and no more.
    X = np.random.default_rng(0).standard_cauchy((3000, 16))
    line = "".join(far(X))
    assert not line or "such values" not in line or int(line.split("; ")[1].split()[0]) <= 8


def test_broken_rows_do_not_change_what_the_others_get():
    rng = np.random.default_rng(0)
    X = {
        "normal": normal(),
        "lognormal": rng.lognormal(0, 1, (600, 8)),
        "integers": rng.integers(0, 16, (600, 8)).astype(float),
        "few ones": (rng.random((600, 8)) < 0.1).astype(float),
        "heavy": rng.standard_t(3, (600, 8)),
    }
    broken = {
        "a row of 1e4": lambda z: 1e4 * (np.arange(600) == 7)[:, None],
        "a row of 1e300": lambda z: 1e300 * (np.arange(600) == 7)[:, None],
        "a row times 1e5": lambda z: 1e5 * z * (np.arange(600) == 7)[:, None],
        "2 % of -9999": lambda z: -9999.0 * (np.arange(600) % 50 == 0)[:, None],
        "5 % of -9999": lambda z: -9999.0 * (np.arange(600) % 20 == 0)[:, None],
        "2 % of 9999 and -8888": lambda z: np.where(
            np.arange(600) % 50 == 0, np.where(np.arange(600) % 100, 9999, -8888), 0
        )[:, None],
        "2 % cells of 1e20": lambda z: 1e20 * (rng.random(z.shape) < 0.02),
    }

    def check(kind, name):
        z = X[kind] + broken[name](X[kind])
        rest = z == X[kind]
        before, after = scaled(X[kind])[rest], scaled(z)[rest]
        assert after.std() / before.std() == pytest.approx(1, abs=0.03)
        assert np.quantile(np.abs(after - before), 0.99) < 0.1

    check_each(check, [(kind, name) for kind in X for name in broken])


def test_a_single_other_value_in_a_constant_column_is_bounded():
    # It may be a rare one, such as a pixel that is set once: so it is not called broken.
    for X in (np.zeros((600, 8)), np.ones((600, 8))):
        for value in (16, 1e4, -9999):
            broken = X.copy()
            broken[3, -4:] = value
            z = scaled(broken)
            np.testing.assert_allclose(np.delete(z, 3, 0), scaled(np.delete(X, 3, 0)), atol=0.1)
            assert np.abs(z).max() < 2 * np.sqrt(600)


def test_every_type_of_number_gives_the_same():
    rng = np.random.default_rng(0)
    bits, bytes_ = rng.integers(0, 2, (600, 8)), rng.integers(0, 128, (600, 8))
    types = [np.uint8, np.int8, np.int16, np.uint16, np.int64, np.uint64]
    types += [np.float16, np.float32, np.float64]
    cases = [(bits, each) for each in [bool, *types]] + [(bytes_, each) for each in types]

    def check(X, dtype):
        np.testing.assert_array_equal(scaled(X.astype(dtype)), scaled(X.astype(float)))

    check_each(check, cases, name=lambda case: str(case[1]))


def test_a_broken_value_is_named():
    X = normal()
    X[17, 3] = 1e6
    (line,) = far(X)
    assert line.startswith("X: row 17, column 3 is 1e+06, far from all others (mean ")
    assert "such values" not in line
    X[[40, 41], 5] = -1e6
    (line,) = far(X, [f"c{j}" for j in range(8)])
    assert line.startswith("X: row 17, column 'c3' is 1e+06")
    assert "3 such values; rows: 3 (17, 40, 41), columns: 2" in line
    X[50:70, 0] = 1e6
    assert "rows: 23 (17, 40, 41, 50, 51, ...)" in far(X)[0]


def test_columns_of_few_ones_neither_vanish_nor_blow_up():
    rng = np.random.default_rng(0)
    one_hot = (rng.random((5000, 40)) < 0.01).astype(float)
    z = scaled(one_hot)
    assert 0.7 < z.std() < 1.3 and np.abs(z).max() < 15
    table = np.concatenate([one_hot, 1000 + 300 * rng.normal(size=(5000, 3))], 1)
    assert 0.5 < scaled(table)[:, 40:].std() < 2 and 0.05 < scaled(table)[:, :40].std() < 2


def test_constants_are_zero_also_where_they_change_later():
    X = np.concatenate([normal(d=2), np.full((600, 2), 7.3), np.zeros((600, 1))], 1)
    X[:, 3] += 1e-15 * normal(d=1)[:, 0]  # rounding
    np.testing.assert_allclose(scaled(X)[:, 2:], 0, atol=1e-30)
    np.testing.assert_allclose(scaled(X + 1e6, X)[:, 2:], 0, atol=1e-30)
    np.testing.assert_allclose(scaled(np.ones((9, 3))), 0, atol=1e-30)


@pytest.mark.parametrize("factor", [1e-300, 1e-160, 1e-30, 1e30, 1e160, 1e298])
def test_units_do_not_matter(factor):
    np.testing.assert_allclose(scaled(normal() * factor), scaled(normal()), atol=1e-6)


def test_numbers_that_are_too_large_are_refused_by_row_and_column():
    X = normal()
    X[:, 3] = np.where(np.arange(600) % 2, 1, -1) * 1.7e308
    with pytest.raises(
        ValueError, match=r"^X: column 3 reaches -1.7e\+308 in row 0; takes numbers"
    ):
        fit_scaling("X", X)
    with pytest.raises(ValueError, match=r"^trusted X: column 'c0' reaches"):
        fit_scaling("trusted X", normal() * 1e305, [f"c{j}" for j in range(8)])


def test_nearly_all_columns_of_one_kind_share_a_deviation():
    X = normal(d=40) * np.linspace(1, 8, 40)
    shared = fit_scaling("X", X).deviation
    np.testing.assert_allclose(shared, np.sqrt(X.var(0).mean()), rtol=0.05)
    X[:, 0] *= 1e5
    one = fit_scaling("X", X).deviation
    assert len(set(one[1:])) == 1 and one[0] == pytest.approx(1e5, rel=0.1)
    X[:, :5] *= 1e5
    assert len(set(fit_scaling("X", X).deviation)) == 40


def test_a_memory_map_is_read_in_blocks_and_rare_values_count(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SAMPLE", 500)
    X = normal(3000)
    X[:, 0] = 0
    X[[5, 2000], 0] = 1.0  # perhaps not in the sample
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    whole, blocks = fit_scaling("X", X), fit_scaling("X", mapped)
    for one, other in zip(whole, blocks, strict=True):
        np.testing.assert_allclose(one, other)
    assert whole.limit[0] > TINY and abs(Scaled(X, whole)[5][0, 0, 0]) > 0.5


@hypothesis.given(st.integers(0, 10**6), st.integers(1, 30), st.integers(2, 40))
@hypothesis.settings(max_examples=60)
def test_whatever_comes_what_goes_out_is_finite(seed, d, n):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * 10.0 ** rng.integers(-300, 299, d)
    X[rng.random((n, d)) < 0.1] = rng.choice([0, 1e300, -1.7e308, 5e-324, 1e-300])
    try:
        scaling = fit_scaling("X", X)
    except ValueError as error:
        assert "reaches" in str(error)
        return
    assert all(np.isfinite(part).all() and part.dtype == np.float64 for part in scaling)
    assert (scaling.deviation > 0).all() and (scaling.limit > 0).all() and (scaling.far > 0).all()
    assert np.isfinite(Scaled(X, scaling)[:]).all()
    assert np.isfinite(Scaled(X[::-1] * -1e5, scaling)[:]).all()
