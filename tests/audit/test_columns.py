"""What the columns of a table are: features, numbers of rows, twins of the label, text, codes."""

import datetime
import decimal
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from looped import check_each
from made_up import CLASSES, blobs

from l2rw_jax.audit.cells import DATES, MIXED, NO_NUMBERS, codes_of, to_numbers
from l2rw_jax.audit.columns import (
    CONSTANT,
    EMPTY,
    LABEL,
    NAMELESS,
    ROW_NUMBERS,
    TWIN,
    choose_columns,
    is_twin,
    numbers_rows,
    parts,
)
from l2rw_jax.audit.features import nearest_rows, table_features

N = 600


def chosen(labels, **columns):
    base = np.random.default_rng(5).normal(size=len(labels))
    return choose_columns(
        pd.DataFrame({"base": base, **columns}), np.asarray(labels), {"label": LABEL}
    )


def test_columns_that_number_the_rows():
    rng = np.random.default_rng(0)
    order, rows = rng.permutation(N), np.arange(N)
    subset = np.sort(rng.choice(2 * N, N, replace=False))
    number = {
        "from 0": rows,
        "from 1": rows + 1,
        "shuffled": order,
        "float": order.astype(float),
        "backwards": -rows,
        "every seventh": 1000 + 7 * order,
        "even": np.linspace(0, 1, N)[order],
        "minutes": 1.7e9 + 60.0 * rows,
        "half of a larger table": rng.permutation(subset),
        "a tenth of a larger table": rng.choice(10 * N, N, replace=False),
        "some twice": np.where(rng.random(N) < 0.01, order[0], order),
        "two tables joined": np.concatenate([np.arange(400), np.arange(200)]),
        "nullable": pd.array(order, "Int64"),
        "text": order.astype(str),
        "names": [f"r{i}" for i in order],
        "files": [f"img_{i:04}.png" for i in order],
        "category": pd.Categorical(order),
        "decimals": [decimal.Decimal(int(i)) for i in order],
        "one missing": np.where(rows == 3, np.nan, rows),
        "some missing": np.where(order < 100, np.nan, order),
        "names, one missing": [f"r{i}" if i != 3 else None for i in order],
    }
    features = {
        "normal": rng.normal(size=N),
        "rounded": rng.normal(size=N).round(3),
        "ages": rng.integers(0, 90, N),
        "counts": rng.poisson(3, N),
        "prices": rng.integers(0, 10**6, N),
        "hours in order": rows % 24,
        "flag": rows % 2,
        "cents": np.exp(rng.normal(10, 1, N)).round(2),
        "seconds": np.cumsum(rng.exponential(3600, N)).astype(int),
        "pixels": rng.integers(0, 256, N),
    }
    labels = rng.integers(0, 3, N)
    found = chosen(labels, **number, **features)
    assert {name: found.left_out.get(name) for name in number} == dict.fromkeys(number, ROW_NUMBERS)
    assert list(found.numbers) == ["base", *features]
    note = next(line for line in found.notes if ROW_NUMBERS in line)
    assert "'from 0', 'from 1'" in note and "21 of 32 columns left out" in note
    assert not numbers_rows(np.arange(5.0))  # too few rows to say
    assert not numbers_rows(np.full(N, np.nan))
    assert not numbers_rows(np.linspace(-1, 1, N) * 1e308)


def test_columns_without_a_name():
    columns = {name: np.random.default_rng(0).normal(size=N) for name in ("", " ", "Unnamed: 0")}
    columns |= {"Unnamed: 0.1": columns[""], "__index_level_0__": columns[""]}
    found = chosen(np.arange(N) % 3, **columns, unnamed=columns[""])
    assert found.left_out == dict.fromkeys(columns, NAMELESS)


def twins(given, classes):
    """Other ways to write the given labels, by name."""
    rng = np.random.default_rng(1)
    n = len(given)
    few = rng.random(n) < 0.005
    codes = rng.permutation(classes)
    yield "code", given
    yield "another code", codes[given]
    yield "float", given + 0.5
    yield "negated", -given
    yield "monotone", np.exp(given / 3.0)
    yield "huge", given * 1e12
    yield "with deviations", np.where(few, (given + 1) % classes, given)
    yield "with other values", np.where(few, rng.normal(size=n), given)
    yield "with blanks", np.where(rng.random(n) < 0.2, np.nan, given)
    yield "finer", 2 * given + rng.integers(0, 2, n)
    yield "category", pd.Categorical(given)
    yield "nullable", pd.array(given, "Int64")
    yield "text", given.astype(str)
    yield "one class", (given == 1).astype(int)
    yield "one class as bool", given == 0
    yield "not one class", np.where(given == 1, 7.5, 9)
    yield "one class with deviations", np.where(few, given != 1, given == 1)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_twins_of_the_label(classes):
    rng = np.random.default_rng(2)
    given = np.random.default_rng(0).integers(0, classes, 2000)
    found = chosen(CLASSES[given] if classes == 3 else given, **dict(twins(given, classes)))
    kept = list(found.numbers)
    assert kept == ["base"], kept
    assert set(found.left_out.values()) == {TWIN}
    assert any("left out, since it alone tells the given labels: 'code'" in n for n in found.notes)

    def unlike(share):  # a feature that agrees with the labels but for a share
        return np.where(rng.random(2000) < share, rng.integers(0, classes, 2000), given)

    good = {
        "strong": unlike(0.1),
        "stronger": unlike(0.06),
        "one class": np.where(rng.random(2000) < 0.05, given != 1, given == 1).astype(float),
        "measured": given + rng.uniform(-0.4, 0.4, 2000),
        "noisy": given + rng.normal(size=2000),
        "rare": (rng.random(2000) < 0.004).astype(int),
    }
    found = chosen(given, **good)
    assert list(found.numbers) == ["base", *good]
    assert [name for name in good if any(f"{name!r} alone parts" in n for n in found.notes)] == [
        "measured"
    ]


def test_strong_features_of_real_data_stay():
    from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine

    X, y = load_iris(return_X_y=True)
    for labels in (y, y == 0, y == 1):
        for column in X.T:
            assert not is_twin(column, labels.astype(int), len(np.unique(labels)))
            assert not numbers_rows(column)
    assert parts(X[:, 2], (y == 0).astype(int), 2)  # petals of setosa are shorter than all others
    assert not parts(X[:, 0], y, 3)
    for load in (load_wine, load_digits, load_breast_cancer):
        X, y = load(return_X_y=True)
        assert not any(is_twin(x, y, len(np.unique(y))) or numbers_rows(x) for x in X.T)
        assert not any(parts(x, y, len(np.unique(y))) for x in X.T)


def test_few_rows_or_a_rare_class_make_no_twin():
    rare = (np.arange(1000) < 4).astype(int)
    assert not is_twin((np.arange(1000) == 0).astype(float), rare, 2)
    assert not is_twin(np.zeros(1000), rare, 2)
    assert is_twin(rare.astype(float), rare, 2)
    assert not is_twin(np.arange(6.0) % 2, np.arange(6) % 2, 2)
    many = np.arange(100) // 2
    assert not is_twin(np.random.default_rng(0).integers(0, 100, 100).astype(float), many, 50)


def test_missing_cells_that_tell_a_class_are_no_feature():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, N)
    one, some = rng.normal(size=N), rng.normal(size=N)
    one[labels == 1] = np.nan
    some[rng.random(N) < 0.2] = np.nan
    found = chosen(labels, one=one, some=some)
    assert found.indicators == ["some"]
    assert any("where 'one' is missing tells the given labels" in note for note in found.notes)


def test_why_other_columns_are_left_out():
    rng = np.random.default_rng(0)
    value = rng.normal(size=N)
    most = np.where(np.arange(N) < 301, np.nan, value)
    half = np.where(np.arange(N) < 300, np.nan, value)
    day = datetime.date(2024, 2, 29)
    found = chosen(
        rng.integers(0, 2, N),
        city=rng.choice(["Oslo", "Rome"], N),
        uuid=[f"{i:032x}" for i in rng.integers(0, 2**60, N)],
        weight=[f"{v:.3f}" if i else "12 kg" for i, v in enumerate(value)],
        price=[f"{v:,.2f}" for v in 10 ** (3 + value)],
        vector=[[v, v] for v in value],
        when=pd.to_datetime("2024-01-01") + pd.to_timedelta(rng.integers(0, 99, N), "D"),
        zone=pd.to_datetime(["2024-01-01T00:00Z"] * N),
        lasted=pd.to_timedelta(rng.integers(0, 99, N), "D"),
        day=[day] * N,
        one=np.ones(N),
        only=[True] * N,
        none=[None] * N,
        most=most,
        label=value + 1,
        half=half,
        tick=[1.0 if v > -0.5 else None for v in value],
    )
    reasons = {
        "city": NO_NUMBERS,
        "uuid": NO_NUMBERS,
        "weight": MIXED,
        "vector": NO_NUMBERS,
        **dict.fromkeys(["when", "zone", "lasted", "day"], DATES),
        **dict.fromkeys(["one", "only"], CONSTANT),
        **dict.fromkeys(["none", "most"], EMPTY),
        "label": LABEL,
    }
    assert found.left_out.pop("price") in (MIXED, NO_NUMBERS)
    assert found.left_out == reasons
    assert list(found.numbers) == ["base", "half", "tick"]
    assert any("since they hold no numbers: 'city' ('" in note for note in found.notes)
    assert any("'weight' ('12 kg')" in note for note in found.notes)


def test_every_type_of_number_is_read():
    big = 10**30
    columns = {
        "nullable int": (pd.array([1, None, 3], "Int64"), [1, np.nan, 3]),
        "nullable float": (pd.array([1.5, None, 3], "Float64"), [1.5, np.nan, 3]),
        "nullable bool": (pd.array([True, None, False], "boolean"), [1, np.nan, 0]),
        "bool": ([True, False, True], [1, 0, 1]),
        "bool and None": ([True, None, False], [1, np.nan, 0]),
        "category": (pd.Categorical([5, None, 5]), [5, np.nan, 5]),
        "category of text": (pd.Categorical(["5", "6", None]), [5, 6, np.nan]),
        "decimal": ([decimal.Decimal("1.5"), None, decimal.Decimal(2)], [1.5, np.nan, 2]),
        "big": ([big, None, -1], [1e30, np.nan, -1]),
        "beyond": (np.array([10**400, 1, 2], object), [np.inf, 1, 2]),
        "unsigned": (np.array([2**64 - 1, 0, 1], np.uint64), [2.0**64, 0, 1]),
        "half": (np.array([1, 2, 3], np.float16), [1, 2, 3]),
        "mixed": ([1, 2.5, None], [1, 2.5, np.nan]),
        "text": (["1", " 2.5 ", "1e3"], [1, 2.5, 1000]),
        "string": (pd.array(["1", None, "3"], "string"), [1, np.nan, 3]),
        "missing": (["1", "?", "NA"], [1, np.nan, np.nan]),
        "dash and null": (["-", "null", "7"], [np.nan, np.nan, 7]),
        "word": (["1", "unknown", "3"], [1, np.nan, 3]),
        "true": (["true", "?", "False"], [1, np.nan, 0]),
        "nothing": ([None, None, None], [np.nan] * 3),
    }
    faults = []
    for name, (cells, right) in columns.items():
        got = to_numbers(pd.Series(cells))
        if got.numbers is None or not np.array_equal(got.numbers, right, equal_nan=True):
            faults.append((name, got))
    assert not faults
    assert to_numbers(pd.Series(["1", "unknown", "3"])).text == ["unknown"]
    assert to_numbers(pd.Series(["?"] * 3)).numbers is not None
    sizes = to_numbers(pd.Series([*"SMLX", *(str(i) for i in range(34, 48))]))
    assert sizes.numbers is None and sizes.why == MIXED and sizes.text == ["S"]
    assert to_numbers(pd.Series(["many", "few"]), ["many", "few"]).numbers is not None
    pyarrow = pytest.importorskip("pyarrow")
    arrow = pd.Series([1, None, 3], dtype=pd.ArrowDtype(pyarrow.int32()))
    np.testing.assert_array_equal(to_numbers(arrow).numbers, [1, np.nan, 3])


def test_codes_for_missing_values():
    rng = np.random.default_rng(0)
    right = {  # what else the column holds, and the code
        -9999: rng.uniform(0.1, 5, N),
        -999: rng.normal(size=N),
        -99: rng.uniform(0, 5, N),
        -9: rng.integers(0, 2, N),
        999: rng.integers(0, 100, N),
        9999: rng.normal(100, 20, N),
        999.25: rng.uniform(1, 9, N),
        -999.9: rng.normal(size=N),
        -32768: rng.integers(0, 4000, N),
        -2147483648: rng.normal(size=N),
        -1e30: rng.normal(size=N),
        -np.finfo(float).max: rng.normal(size=N),
        1e37: rng.normal(0, 1e6, N),
        1e20: rng.normal(300, 20, N),
        9.96921e36: rng.normal(size=N),
        -8888: rng.normal(size=N),
        -98: rng.uniform(0, 5, N),
        -7: rng.integers(0, 2, N),
        888: rng.integers(18, 90, N),
        7777: rng.normal(100, 20, N),
        65535: rng.integers(0, 4000, N),
        float(2**63 - 1): rng.normal(size=N),
    }
    missed = {}
    for code, values in right.items():
        values = np.where(np.arange(N) % 50 == 7, code, values).astype(float)
        if codes_of(values) != [code]:
            missed[code] = codes_of(values)
    assert not missed
    both = np.where(np.arange(N) == 1, -9999, np.where(np.arange(N) == 2, -999, right[-9999]))
    assert codes_of(both) == [-9999, -999]
    for values in (
        rng.integers(0, 1200, N).astype(float),  # 999 among its like
        np.repeat([0.0, 999], N // 2),  # two values alone
        rng.normal(size=N) * 1e35,
        np.append(rng.integers(18, 90, N), -1.0),
        np.append(rng.normal(0, 100, N), -777.0),
        np.append(rng.normal(size=N), 9),
        np.append(rng.normal(size=N), np.inf),
        np.append(rng.normal(size=N), 1e4),  # an outlier, but no code
        np.full(N, -999.0),
    ):
        assert codes_of(values) == []


def test_what_stands_for_a_missing_number_leaves_the_others_numbers():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=N).round(3)
    missing = np.arange(N) % 50 == 0

    def check(word):
        cells = np.where(missing, word, numbers.astype(str)).astype(object)
        found = chosen(rng.integers(0, 3, N), c=cells)
        np.testing.assert_array_equal(found.numbers["c"], np.where(missing, np.nan, numbers))
        assert found.indicators == ["c"] and not found.left_out

    words = ["", " ", "\xa0", "?", "--", "NULL", "#DIV/0!", "#VALUE!", "#REF!", "#N/A", "#NAME?"]
    check_each(check, [(word,) for word in [*words, "unknown", "n.a.", "<LOD", "(null)"]])


def test_a_code_is_told_by_row_and_column_and_counts_as_missing():
    rng = np.random.default_rng(0)
    values = rng.uniform(0.1, 5, N)
    values[[5, 17]] = -9999
    found = chosen(rng.integers(0, 2, N), a=values)
    assert np.isnan(found.numbers["a"]).sum() == 2 and found.codes == {"a": [-9999.0]}
    (note,) = [note for note in found.notes if "-9999" in note]
    assert "column 'a' holds -9999 in 2 rows, first in row 5" in note and "(0.1" in note
    many = {f"c{i}": values for i in range(9)}
    notes = chosen(rng.integers(0, 2, N), **many).notes
    assert sum("-9999" in note for note in notes) == 5 and any("4 more cases" in n for n in notes)


def write(path, frame):
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def table(tmp_path):
    """A frame of five features and labels, with holes of four kinds, and what is true of it."""
    X, true, given = blobs(N, noise=0.15)
    frame = pd.DataFrame(X.round(4), columns=list("abcde")).astype(object)
    for row, cell in ((3, ""), (8, "?"), (13, "NA"), (21, " - ")):
        frame.loc[row, "a"] = cell
    frame.loc[30:40, "b"] = "unknown"
    frame.loc[[2, 50], "c"] = -9999
    return frame.assign(label=CLASSES[given]), CLASSES[true]


def test_missing_cells_get_the_median_and_are_told(tmp_path, table, audit):
    frame, _ = table
    path = write(tmp_path / "x.csv", frame)
    status, _, errors = audit(f"--features={path}", f"--output={tmp_path}/o")
    assert status == 0, errors
    assert "17 missing cells in 3 columns filled with the column's median: 'a', 'b', 'c'" in errors
    assert "column 'b' holds 'unknown' in 11 rows" in errors
    assert "column 'c' holds -9999 in 2 rows" in errors
    assert "features: 5 columns: 'a', 'b', 'c', 'd', 'e'" in errors
    told = json.loads((tmp_path / "o/summary.json").read_text())
    assert told["feature_columns"] == list("abcde")
    missing = told["missing_values"]
    held = pd.to_numeric(frame["a"], errors="coerce")
    assert missing["medians"]["a"] == pytest.approx(held.median())
    assert missing["indicators"] == ["a", "b", "c"]
    assert missing["codes"] == {"b": ["unknown"], "c": [-9999.0]}

    # Other rows are filled alike: from one table to single rows of it.
    predict = (f"--predict={tmp_path}/o", f"--output={tmp_path}/p.csv")
    assert audit(*predict, f"--features={path}")[0] == 0
    whole = pd.read_csv(tmp_path / "p.csv")
    for row in (0, 2, 3, 8, 13, 21, 30):
        one = write(tmp_path / "one.csv", frame.drop(columns="label")[row : row + 1])
        status, _, errors = audit(*predict, f"--features={one}")
        assert status == 0, errors
        assert ("filled with the column's median" in errors) == (row > 0)
        got = pd.read_csv(tmp_path / "p.csv")
        assert got["label"][0] == whole["label"][row]
        assert got["probability"][0] == pytest.approx(whole["probability"][row])
    for key, value in (
        ("missing_values", None),
        ("missing_values", missing | {"medians": {}}),
        ("missing_values", missing | {"medians": dict.fromkeys("abcde", float("nan"))}),
        ("missing_values", missing | {"codes": {"a": [[]]}}),
        ("missing_values", missing | {"codes": []}),
        ("missing_values", missing | {"indicators": 3}),
        ("feature_columns", 7),
    ):
        (tmp_path / "o/summary.json").write_text(json.dumps(told | {key: value}))
        status, _, errors = audit(*predict, f"--features={path}")
        assert status == 1 and "summary.json" in errors, (key, value)
    (tmp_path / "o/summary.json").write_text(json.dumps(told))
    np.save(tmp_path / "x.npy", np.zeros((3, 5)))
    status, _, errors = audit(*predict, f"--features={tmp_path}/x.npy")
    assert status == 1 and "give a table" in errors


def test_a_table_for_a_model_of_an_array_has_the_same_columns(tmp_path, features, audit):
    common = (f"--labels={tmp_path}/labels.csv", f"--output={tmp_path}/o")
    assert audit(f"--features={tmp_path}/x.npy", *common)[0] == 0
    frame = pd.DataFrame(features[0], columns=list("abcde"))
    predict = (f"--predict={tmp_path}/o", f"--output={tmp_path}/p.csv")
    frame.to_csv(tmp_path / "x.csv")  # with an index
    assert audit(*predict, f"--features={tmp_path}/x.csv")[0] == 0
    for cell, word in (("many", "column 'a' holds text"), ("", "row 0, column 'a' is nan")):
        frame["a"] = frame["a"].astype(object)
        frame.loc[0, "a"] = cell
        status, _, errors = audit(*predict, f"--features={write(tmp_path / 'y.csv', frame)}")
        assert status == 1 and word in errors


def test_no_column_of_numbers_is_refused_with_the_reasons(tmp_path, audit):
    frame = pd.DataFrame({"": range(N), "city": "Oslo", "one": 1, "nr": range(N)})
    frame["label"] = CLASSES[np.arange(N) % 3]
    status, _, errors = audit(
        f"--features={write(tmp_path / 'x.csv', frame)}", f"--output={tmp_path}/o"
    )
    assert status == 1 and len(errors.splitlines()) == 1
    assert "no column of numbers" in errors and "'nr': it numbers the rows" in errors
    big = np.where(np.random.default_rng(0).random(N) < 0.7, 1.7e308, 1.6e308)
    largest = frame.assign(big=big)
    found = table_features(Path("x"), largest.drop(columns=["", "label"]), frame["label"], {})
    assert found.recipe.medians["big"] == 1.7e308
    frame["inf"] = np.where(np.arange(N) == 7, np.inf, np.random.default_rng(0).normal(size=N))
    status, _, errors = audit(
        f"--features={write(tmp_path / 'x.csv', frame)}", f"--output={tmp_path}/o"
    )
    assert status == 1 and "row 7, column 'inf' is inf" in errors


def test_the_label_and_the_ids_are_no_features_wherever_they_are_named(tmp_path, audit):
    """With either of --labels and --features naming them, and both naming one table."""
    X, _, given = blobs(N, classes=2)
    frame = pd.DataFrame(X, columns=list("abcde"))
    ids = np.random.default_rng(0).integers(10**8, 10**9, N)
    write(tmp_path / "x.csv", frame)
    write(tmp_path / "y.csv", pd.DataFrame({"id": ids, "class": given}))
    write(tmp_path / "both.csv", frame.assign(id=ids, **{"class": given}))
    write(tmp_path / "mirrored.csv", frame.assign(id=ids, **{"class": 1 - given}))
    write(tmp_path / "twin.csv", frame.assign(income=given * 1000.0))
    (tmp_path / "link.csv").symlink_to("both.csv")
    names = ("--id_column=id", "--label_column=class", f"--output={tmp_path}/o")
    results = {}
    for features, labels in [
        ("x", "y"),
        ("both", None),
        ("both", "both"),
        ("both", "link"),
        ("both", "y"),
        ("mirrored", "y"),
        ("twin", "y"),
    ]:
        flags = [f"--features={tmp_path}/{features}.csv"]
        flags += [f"--labels={tmp_path}/{labels}.csv"] if labels else []
        status, _, errors = audit(*flags, *names)
        assert status == 0, errors
        told = json.loads((tmp_path / "o/summary.json").read_text())
        assert told["feature_columns"] == list("abcde"), (features, labels)
        results[features, labels] = (tmp_path / "o/issues.csv").read_bytes()
        twice = labels == "y" and features in ("both", "mirrored")
        assert ("the name of the label column: 'class'" in errors) == twice
        assert ("tells the given labels: 'income'" in errors) == (features == "twin")
    assert len(set(results.values())) == 1


def test_labels_are_matched_by_ids_that_both_tables_hold(tmp_path, audit):
    X, _, given = blobs(N)
    ids = [f"r{i}" for i in range(N)]
    write(tmp_path / "x.csv", pd.DataFrame(X, columns=list("abcde")).assign(id=ids))
    labels = pd.DataFrame({"id": ids, "label": CLASSES[given]})
    common = (f"--features={tmp_path}/x.csv", f"--labels={tmp_path}/y.csv", "--id_column=id")
    tables = []
    for order in (slice(None), slice(None, None, -1)):
        write(tmp_path / "y.csv", labels[order])
        status, _, errors = audit(*common, f"--output={tmp_path}/o")
        assert status == 0, errors
        tables.append((tmp_path / "o/issues.csv").read_bytes())
    assert tables[0] == tables[1]
    write(tmp_path / "y.csv", labels.replace({"id": {"r7": "r700"}}))
    status, _, errors = audit(*common, f"--output={tmp_path}/o")
    assert status == 1 and "1 rows of --features have no label: 'r7'" in errors
    more = pd.concat([labels, pd.DataFrame({"id": ["new"], "label": ["ant"]})])
    write(tmp_path / "y.csv", more)
    status, _, errors = audit(*common, f"--output={tmp_path}/o")
    assert status == 1 and "1 ids belong to no row of --features: 'new'" in errors


def test_a_key_that_both_tables_hold_is_no_feature_and_keeps_their_order(tmp_path, audit):
    X, _, given = blobs(N)
    key = np.random.default_rng(0).integers(0, 10**9, N)
    write(tmp_path / "x.csv", pd.DataFrame(X, columns=list("abcde")).assign(key=key, kept=X[:, 0]))
    labels = pd.DataFrame({"key": key, "kept": X[:, 0], "label": CLASSES[given]})
    common = (f"--features={tmp_path}/x.csv", f"--labels={tmp_path}/y.csv")
    write(tmp_path / "y.csv", labels)
    status, _, errors = audit(*common, f"--output={tmp_path}/o")
    assert status == 0 and "since it names the rows in --labels, too: 'key'" in errors
    told = json.loads((tmp_path / "o/summary.json").read_text())
    assert told["feature_columns"] == [*"abcde", "kept"]
    write(tmp_path / "y.csv", labels.sort_values("key"))
    status, _, errors = audit(*common, f"--output={tmp_path}/p")
    assert status == 1 and "give --id_column=key" in errors


def test_a_code_in_an_array_is_told(tmp_path, features, audit):
    X = features[0].copy()
    X[[4, 8], 2] = -9999
    np.save(tmp_path / "x.npy", X)
    common = (f"--labels={tmp_path}/labels.csv", f"--output={tmp_path}/o")
    status, _, errors = audit(f"--features={tmp_path}/x.npy", *common)
    assert status == 0 and "column 2 holds -9999 in 2 rows, first in row 4" in errors
    X[[4, 8], 2] = 0
    np.save(tmp_path / "x.npy", X)
    assert "warning" not in audit(f"--features={tmp_path}/x.npy", *common)[2]
    np.save(tmp_path / "x.npy", np.c_[X, np.arange(300)])
    errors = audit(f"--features={tmp_path}/x.npy", *common)[2]
    assert "column 5 (counted from 0) numbers the rows" in errors


def test_a_label_in_an_array_stops_the_audit(tmp_path, features, audit):
    X, _, given = features
    codes = np.unique(given, return_inverse=True)[1]
    common = (f"--labels={tmp_path}/labels.csv", f"--output={tmp_path}/o")
    one_hot = np.eye(3)[codes]
    for twin in (codes, -codes, one_hot, codes * 0.5, np.where(np.arange(300) == 7, 0, codes)):
        np.save(tmp_path / "x.npy", np.c_[X, twin])
        status, _, errors = audit(f"--features={tmp_path}/x.npy", *common)
        assert status == 1 and "column 5 (counted from 0) alone tells the given labels" in errors


@pytest.mark.parametrize("index", ["unnamed", "numbered", "text", "shuffled"])
def test_an_index_or_an_id_changes_no_result(tmp_path, audit, index):
    X, _, given = blobs(N)
    order = np.argsort(given, kind="stable")
    frame = pd.DataFrame(X[order], columns=list("abcde")).assign(label=CLASSES[given[order]])
    common = (f"--output={tmp_path}/o", f"--features={tmp_path}/x.csv")
    frame.to_csv(tmp_path / "x.csv", index=False)
    assert audit(*common)[0] == 0
    right = (tmp_path / "o/issues.csv").read_bytes()
    if index == "unnamed":
        frame.to_csv(tmp_path / "x.csv")
    elif index == "numbered":
        frame.to_csv(tmp_path / "x.csv", index_label="nr")
    elif index == "text":
        frame.assign(key=[f"r{i}" for i in range(N)]).to_csv(tmp_path / "x.csv", index=False)
    else:
        nr = np.random.default_rng(0).permutation(N) + 500
        frame.assign(key=nr).to_csv(tmp_path / "x.csv", index=False)
    status, _, errors = audit(*common)
    assert status == 0 and ("it has no name" if index == "unnamed" else ROW_NUMBERS) in errors
    assert (tmp_path / "o/issues.csv").read_bytes() == right


def test_neighbours_of_columns_far_from_zero():
    """By the definition in float64: columns with an offset, huge values, constants, broken rows."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(400, 6))
    tables = {}
    for name, offset, spread in (
        ("centred", 0, 1),
        ("thousands", 1e3, 1),
        ("coordinates", 1e5, 1),
        ("unix seconds in a day", 1.7e9, 86400),
        ("unix nanoseconds", 1.7e18, 1e9),
        ("far", -1e12, 0.01),
        ("huge", 0, 1e300),
        ("largest", 0, 2e307),
        ("tiny", 0, 1e-200),
        ("constant", 7, 0),
    ):
        tables[name] = base.copy()
        tables[name][:, 0] = base[:, 0] * spread + offset
    tables["integers"] = (base * 100).astype(np.int64) + 2**40
    tables["half precision"] = base.astype(np.float16)
    faults = []
    for name, table in tables.items():
        exact = table.astype(np.longdouble)
        deviation = exact.std(0)
        z = ((exact - exact.mean(0)) / np.where(deviation > 0, deviation, 1)).astype(float)
        distance = ((z[:50, None] - z[None]) ** 2).sum(-1)
        distance[np.arange(50), np.arange(50)] = np.inf
        right = np.argsort(distance, 1)[:, :5]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            got = nearest_rows(table, np.arange(50), np.zeros(400, int), np.zeros(50, int))
        same = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(right, got, strict=True)])
        if same < 0.99:
            faults.append((name, same))
    assert not faults
    base[7] = 1e308  # a broken row is near none
    got = nearest_rows(base, np.arange(5), np.zeros(400, int), np.zeros(5, int))
    assert (got >= 0).all() and not (got == 7).any()
