"""Files as people have them: read right, or named in one line by what they are."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import sqlite3
import struct
import unicodedata
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
from looped import check_each
from made_up import CLASSES, blobs, write_images
from PIL import Image

from l2rw_jax.audit.arrays import read_array
from l2rw_jax.audit.errors import AuditError
from l2rw_jax.audit.labels import clean_labels, doubtful_labels, known_ids
from l2rw_jax.audit.tables import read_labels, read_table

N = 300


@pytest.fixture
def frame():
    X, _, given = blobs(N)
    return pd.DataFrame(X.astype(float).round(4), columns=list("abcde")).assign(
        id=[f"r{i}" for i in range(N)], label=CLASSES[given]
    )


def read(path):
    return read_table("--features", path, ["id", "label"], text=["id", "label"], every=True)


def refusals(reader, cases):
    """Those of the cases, paths and a word, that are not refused in one line with that word."""
    faults = []
    for path, word in cases:
        try:
            got = reader(path)
            faults.append((path.name, "read", got))
        except AuditError as error:
            text = str(error)
            flags = (f"--features={path}: ", f"--labels={path}: ")
            if word not in text or "\n" in text or not text.startswith(flags) or len(text) > 400:
                faults.append((path.name, text))
        except Exception as error:
            faults.append((path.name, repr(error)))
    return faults


def test_every_layout_gives_the_same_table(tmp_path, frame):
    def written(**options):
        return frame.to_csv(index=False, **options)

    comma = written()
    texts = {
        "comma.csv": comma,
        "semicolon.csv": written(sep=";"),
        "european.csv": written(sep=";", decimal=","),
        "tab.tsv": written(sep="\t"),
        "tab european.txt": written(sep="\t", decimal=","),
        "bar.txt": written(sep="|"),
        "tab.csv": written(sep="\t"),
        "quoted.csv": written(quoting=1),
        "quoted comma.csv": written(sep=";", quoting=1, decimal=","),
        "spaces.csv": comma.replace(",", ", "),
        "told.csv": "sep=;\n" + written(sep=";"),
        "told quoted.csv": '"sep=\t"\n' + written(sep="\t"),
        "windows.csv": comma.replace("\n", "\r\n"),
        "mac.csv": comma.replace("\n", "\r"),
        "blank lines.csv": "\n\n" + comma.replace("\n", "\n\n"),
        "trailing comma.csv": comma.replace("\n", ",\n"),
        "mark.csv": "\ufeff" + comma,
        "told mark.csv": "\ufeffsep=,\n" + comma,
        "no name": comma,
        "header.csv": comma.replace("id,label", " id , label ", 1),
    }
    files = {name: text.encode() for name, text in texts.items()}
    plain = files["comma.csv"]
    for name, pack in {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.items():
        files[f"x.csv.{name}"] = files[f"misnamed {name}.csv"] = pack(plain)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("inner/", "")
        file.writestr("inner/x.csv", plain)
        file.writestr("__MACOSX/inner/._x.csv", b"\0")
    files["x.zip"] = archive.getvalue()
    faults = []
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        try:
            got = read(tmp_path / name)
            got = got.drop(columns=[c for c in got if c.startswith("Unnamed: ")])
            pd.testing.assert_frame_equal(got, frame, check_dtype=False)
        except (AuditError, AssertionError) as error:
            faults.append((name, str(error)[:200]))
    assert not faults


def test_separators_inside_cells(tmp_path):
    table = pd.DataFrame(
        {
            "id": ["a;b", "c,d", "e\tf", "g|h", 'i"j', "k\nl"] * 3,
            "label": ["1,5", "2;5", "x", "y", "z", "z"] * 3,
        }
    )
    for separator in ",;\t|":
        table.to_csv(tmp_path / "t.csv", sep=separator, index=False)
        got = read_table("--labels", tmp_path / "t.csv", ["id", "label"], text=["id", "label"])
        pd.testing.assert_frame_equal(got, table, check_dtype=False)
    (tmp_path / "one.csv").write_text("label\na;b\nc|d;e\n")
    assert read_labels("--labels", tmp_path / "one.csv", "label", None).labels[1] == "c|d;e"
    (tmp_path / "two.csv").write_text("name; first|id,label\nx,ant\ny,bee\n")
    assert list(read_table("--labels", tmp_path / "two.csv", [], text=[], every=True)) == [
        "name; first|id",
        "label",
    ]


def test_thousands_are_not_decimals(tmp_path):
    """1,234 in a tab-separated file is no 1.234: the column stays text and is named."""
    (tmp_path / "t.tsv").write_text("price\tlabel\n1,234\tant\n2,345,678\tbee\n12\tbee\n")
    got = read_table("--features", tmp_path / "t.tsv", ["label"], text=["label"], every=True)
    assert list(got["price"]) == ["1,234", "2,345,678", "12"]


def test_tables_that_are_refused(tmp_path):
    texts = {
        "two marks.csv": ("a;b;label\n1,5;2.5;ant\n", "decimal commas and with points"),
        "twice.csv": ("x,x,id,label\n1,2,3,4\n", "got 2 columns named 'x'"),
        "twice with spaces.csv": ("x, x,id,label\n1,2,3,4\n", "got 2 columns named 'x'"),
        "twice quoted.csv": ('"x",x,x,id,label\n1,2,3,4,5\n', "got 3 columns named 'x'"),
        "joined.csv": ("id,label\na,ant\nid,label\nb,bee\n", "row 1 (counted from 0) repeats"),
        "joined numbers.csv": ("x,label\n1,ant\n2,bee\nx,label\n3,ant\n", "row 2 (counted from 0)"),
        "row names.csv": ("x,label\na,1,ant\nb,2,bee\n", "cannot be read as a table"),
        "ragged.csv": ("id,label\na,b,c,d\n", "cannot be read as a table"),
        "quote.csv": ('id,label\n"a,b\n', "cannot be read as a table"),
        "blank.csv": ("", "the file is empty"),
        "lines.csv": ("\n\n\n", "the file is empty"),
        "told only.csv": ("sep=;\n", "the file is empty"),
        "header.csv": ("id,label\n", "the table has no rows"),
        "page.csv": ("<!DOCTYPE html>\n<html><body>404</body></html>", "got a web page"),
        "page2.csv": ("\n <HTML>", "got a web page"),
        "rows.json": ('[{"id": 1, "label": "a"}]', "got JSON"),
        "rows.jsonl": ('{"id": 1}\n{"id": 2}\n', "got JSON"),
        "x.xml": ("<?xml version='1.0'?>", "got XML"),
        "x.arff": ("@RELATION iris\n@DATA\n", "got an ARFF file"),
        "lfs.csv": ("version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "Git LFS"),
        "x.npy": ("id,label\na,b\n", "cannot be read as .npy, which its name says"),
        "x.parquet": ("id,label\na,b\n", "cannot be read as .parquet, which its name says"),
        "spaces.txt": ("id label\na ant\n", "no column 'id'; its columns are 'id label'"),
    }
    files = {
        "sixteen.csv": ("id,label\na,b\n".encode("utf-16"), "UTF-16"),
        "sixteen bare.csv": ("id,label\na,b\n".encode("utf-16-le"), "not UTF-8"),
        "latin.csv": ("id,label\na,fée\n".encode("latin-1"), "not UTF-8"),
        "latin end.csv": (b"id,label\n" + b"a,b\n" * 2_000_000 + b"\xff,b\n", "not UTF-8"),
        "old.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "an Excel workbook"),
        "x.feather": (b"ARROW1\0\0" + bytes(99), "got a Feather file"),
        "x.h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "got an HDF5 file"),
        "x.nc": (b"CDF\1" + bytes(99), "got a NetCDF file"),
        "x.pkl": (pickle.dumps([1]), "got a pickle"),
        "x.pdf": (b"%PDF-1.7\n" + bytes(9), "got a PDF file"),
        "x.7z": (b"7z\xbc\xaf\x27\x1c", "got a 7z archive"),
        "x.csv.zst": (b"\x28\xb5\x2f\xfd" + bytes(9), "got a Zstandard file"),
        "binary.csv": (bytes(range(256)), "not UTF-8"),
        "cut.csv.gz": (gzip.compress(b"id,label\na,b\n" * 9)[:-12], "cannot be read"),
        "cut.csv.xz": (lzma.compress(b"id,label\na,b\n" * 9)[:40], "cannot be read"),
        "bad.csv.bz2": (bz2.compress(b"id,label\na,b\n")[:20] + b"garbage", "cannot be read"),
        "bad.zip": (b"PK\3\4garbage", "cannot be read"),
        "tail.parquet": (b"PAR1" + bytes(20) + b"PAR1", "cannot be read as a table"),
        "cut.parquet": (b"PAR1" + bytes(20), "not UTF-8"),
    }
    files |= {name: (text.encode(), word) for name, (text, word) in texts.items()}
    files["x.csv.npy.gz"] = (gzip.compress(saved(np.ones(3))), "of a NumPy array")
    archives = {
        "book.xlsx": (["[Content_Types].xml", "xl/workbook.xml"], "an Excel workbook"),
        "book.csv": (["[Content_Types].xml", "xl/workbook.xml"], "save it as CSV"),
        "book.ods": (["mimetype", "content.xml"], "an OpenDocument file"),
        "many.zip": (["a.csv", "b.csv"], "a ZIP archive of 2 files"),
        "empty.zip": ([], "a NumPy array"),
        "x.npz": (["a.npy"], "a NumPy array"),
        "x.pt": (["archive/data.pkl", "archive/data/0"], "a PyTorch file"),
    }
    for name, (members, word) in archives.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member in members:
                archive.writestr(member, "x")
        files[name] = ((tmp_path / name).read_bytes(), word)
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    base = sqlite3.connect(tmp_path / "x.db")
    base.execute("create table t (id)").connection.commit()
    base.close()
    Image.new("RGB", (3, 3)).save(tmp_path / "x.png")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    cases = [(tmp_path / name, word) for name, (_, word) in files.items()]
    cases += [(tmp_path / "x.db", "SQLite"), (tmp_path / "x.png", "got a picture")]
    cases += [(tmp_path / "folder", "not a file"), (tmp_path / "pipe", "not a file")]
    cases += [(tmp_path / "gone.csv", "no such file")]
    assert not refusals(read, cases)


def test_a_table_without_a_header_is_noticed(tmp_path, frame):
    """By its first row, which looks like the others; names that are numbers are no values."""
    rng = np.random.default_rng(0)
    from sklearn.datasets import load_digits, load_iris

    iris = load_iris(as_frame=True).frame
    numbers = frame[list("abcde")]
    without = {
        "numbers": numbers,
        "one column": numbers[["a"]],
        "iris": iris.assign(
            target=iris["target"].map(["setosa", "versicolor", "virginica"].__getitem__)
        ),
        "digits": pd.DataFrame(load_digits().data.astype(int)),
        "ids and labels": frame[["id", "label"]],
        "labels": frame[["label"]],
        "people": pd.DataFrame({"a": ["m", "f"] * 30, "b": range(20, 80), "c": ["Oslo"] * 60}),
        "dates": numbers.assign(day=[f"2024-01-{i % 28:02}" for i in range(N)]),
        "integers": pd.DataFrame(rng.integers(0, 50, (200, 4))),
        "falling": pd.DataFrame([[3, 1], [5, 2], [1, 0], [2, 2]] * 5),
    }
    faults = []
    for separator, decimal in ((",", "."), (";", ","), ("\t", ".")):
        for name, table in without.items():
            path = tmp_path / f"{name}.csv"
            table.to_csv(path, index=False, header=False, sep=separator, decimal=decimal)
            needed = ["label"] if name == "labels" else []
            try:
                read_table("--features", path, needed, text=needed, every=True)
                faults.append((name, separator))
            except AuditError as error:
                if "its first row looks like values" not in str(error):
                    faults.append((name, str(error)))
    assert not faults
    years = pd.DataFrame(rng.normal(size=(40, 5)), columns=range(1971, 1976))
    named = {
        "array": pd.DataFrame(rng.normal(size=(40, 5))),
        "array of integers": pd.DataFrame(rng.integers(0, 17, (40, 64))),
        "from 1": pd.DataFrame(rng.integers(0, 17, (40, 3)), columns=[1, 2, 3]),
        "array and label": pd.DataFrame(rng.normal(size=(40, 2))).assign(label=["a", "b"] * 20),
        "years": years,
        "years and text": years.assign(city="Oslo", label="x"),
        "series": pd.Series(rng.integers(0, 2, 40)).to_frame(),
        "words": pd.DataFrame({"a": ["b"] * 9, "b": ["a"] * 9}),
        "flags": pd.DataFrame({"cat": ["cat", ""] * 9, "dog": ["", "x"] * 9, "cow": range(18)}),
        "units": pd.DataFrame({"0.5 mm": [0.1, 0.9], "1e": [1, 2]}),
        "missing": pd.DataFrame({"NA": ["?", "NA"], "x": ["", "1"], "y": [1, 2]}),
    }
    for name, table in named.items():
        table.to_csv(tmp_path / "named.csv", index=False)
        got = read_table("--features", tmp_path / "named.csv", [], text=[], every=True)
        assert list(got) == [str(column) for column in table], name


@pytest.mark.filterwarnings("ignore:The DataFrame has column names of mixed type")
def test_parquet_as_pandas_and_others_write_it(tmp_path, frame):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    x = frame[list("abcde")].to_numpy()
    integers = pd.DataFrame(np.c_[x, np.arange(N) % 3]).assign(id=frame["id"])
    tuples = frame.copy()
    tuples.columns = pd.MultiIndex.from_tuples([("x", c) for c in "abcde"] + [("id", ""), ("y", 1)])
    kinds = {
        "plain": frame,
        "ids in the index": frame.set_index("id"),
        "label in the index": frame.set_index("label"),
        "both in the index": frame.set_index(["id", "label"]),
        "a range with a name": frame.drop(columns="id").rename_axis("id"),
        "index without a name": frame.set_axis(frame["id"].to_numpy()),
        "shuffled index": frame.sample(frac=1, random_state=0).sort_values("id"),
        "categories": frame.astype({"label": "category"}),
        "strings": frame.astype({"label": "string", "id": "string"}),
        "nullable": frame.convert_dtypes(),
    }
    faults = []
    for name, table in kinds.items():
        table.to_parquet(tmp_path / "t.parquet")
        got = read(tmp_path / "t.parquet")
        labels = read_labels("--labels", tmp_path / "t.parquet", "label", "id")
        right = table.reset_index() if table.index.names[0] else table
        if sorted(got) != sorted(frame) or list(labels.labels) != list(right["label"]):
            faults.append((name, list(got)))
        if list(labels.ids) != [str(i) for i in right["id"]]:
            faults.append((name, labels.ids[:3]))
        if not np.array_equal(got[list("abcde")].astype(float), right[list("abcde")].astype(float)):
            faults.append((name, "values"))
    assert not faults
    integers.to_parquet(tmp_path / "t.parquet")
    labels = read_labels("--labels", tmp_path / "t.parquet", "5", "id")
    assert labels.labels[:4].tolist() == ["0", "1", "2", "0"]
    tuples.to_parquet(tmp_path / "t.parquet")
    assert list(read_labels("--labels", tmp_path / "t.parquet", "y_1", "id_").labels) == list(
        frame["label"]
    )
    pq.write_table(pyarrow.table({"id": ["a", "b"], "label": ["x", None]}), tmp_path / "n.parquet")
    pq.write_table(pyarrow.table([[1], [2]], names=["x", "x"]), tmp_path / "twice.parquet")
    pd.DataFrame({1: [1], "1": [2]}).to_parquet(tmp_path / "same.parquet", engine="pyarrow")
    pd.DataFrame({"id": [1], "label": [2]}, index=pd.Index([7], name="id")).to_parquet(
        tmp_path / "index.parquet"
    )
    pd.DataFrame({"id": [], "label": []}).to_parquet(tmp_path / "empty.parquet")
    latin = pyarrow.array([b"a", b"f\xe9e"]).view(pyarrow.string())
    pq.write_table(pyarrow.table({"id": latin, "label": ["x", "y"]}), tmp_path / "latin.parquet")
    cases = [
        (tmp_path / "n.parquet", "column 'label' is empty in row 1"),
        (tmp_path / "twice.parquet", "got 2 columns named 'x'"),
        (tmp_path / "same.parquet", "got 2 columns named '1'"),
        (tmp_path / "index.parquet", "got 2 columns named 'id'"),
        (tmp_path / "empty.parquet", "the table has no rows"),
        (tmp_path / "latin.parquet", "UTF8"),
    ]
    assert not refusals(lambda path: read_labels("--labels", path, "label", "id"), cases)


def saved(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def with_header(header, data=b"", version=(1, 0)):
    """A .npy file with any header."""
    text = header.encode("latin-1")
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + data


def archived(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def test_arrays_of_every_type_of_number_are_read(tmp_path):
    x = np.arange(12).reshape(4, 3)
    arrays = {name: x.astype(name) for name in ("i1", "u2", ">i4", "<f8", ">f8", ">f2", "f2", "g")}
    arrays["fortran"] = np.asfortranarray(x.astype(float))
    faults = []
    for name, array in arrays.items():
        for kind, content in (("npy", saved(array)), ("npz", archived(x=saved(array)))):
            # By what they hold, not by their names.
            for path in (tmp_path / "x.npy", tmp_path / "x.npz"):
                path.write_bytes(content)
                got = read_array(path)
                right = np.array_equal(got, x)
                native = got.dtype.isnative and got.dtype.itemsize <= 8
                mapped = isinstance(got, np.memmap) or kind == "npz" or name[0] in ">g"
                if not (right and native and mapped):
                    faults.append((name, kind, got))
    assert not faults


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
def test_arrays_that_are_refused(tmp_path):
    x = np.arange(12.0).reshape(4, 3)
    head = "{'descr': '<f8', 'fortran_order': False, 'shape': %s, }"
    files = {
        "huge.npy": (with_header(head % "(1000000000000000, 8)", bytes(96)), "more than the file"),
        "overflow.npy": (with_header(head % "(4611686018427387904, 4)", bytes(96)), "more than"),
        "negative.npy": (with_header(head % "(-4, 3)", bytes(96)), "holds float64 [-4, 3]"),
        "both negative.npy": (with_header(head % "(-4, -3)", bytes(96)), "holds float64"),
        "bool shape.npy": (with_header(head % "(True, 3)", bytes(96)), "holds float64 [True, 3]"),
        "float shape.npy": (with_header(head % "(4.0, 3)", bytes(96)), "cannot be read"),
        "scalar.npy": (saved(np.float64(1)), "holds float64 []"),
        "flat.npy": (saved(x[:, 0]), "holds float64 [4]"),
        "cube.npy": (saved(x[None]), "holds float64 [1, 4, 3]"),
        "empty.npy": (saved(x[:0]), "holds float64 [0, 3]"),
        "cut.npy": (saved(x)[:-1], "more than the file holds"),
        "header alone.npy": (saved(x)[:128], "more than the file holds"),
        "magic alone.npy": (b"\x93NUMPY", "cannot be read"),
        "half a header.npy": (saved(x)[:60], "cannot be read"),
        "version.npy": (b"\x93NUMPY\x09\x00" + bytes(99), "cannot be read"),
        "code.npy": (with_header("__import__('os').getcwd()", bytes(96)), "cannot be read"),
        "deep.npy": (with_header("(" * 9000, bytes(9)), "cannot be read"),
        "long header.npy": (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1), "cannot be read"),
        "objects.npy": (saved(x.astype(object)), "pickled objects"),
        "fields.npy": (saved(np.zeros(3, [("a", "f8"), ("b", "i4")])), "named fields"),
        "odd fields.npy": (saved(np.zeros(3, [("日", "f8")])), "named fields"),
        "times.npy": (saved(x.astype("datetime64[s]")), "holds datetime64[s] [4, 3]"),
        "spans.npy": (saved(x.astype("timedelta64[s]")), "holds timedelta64[s] [4, 3]"),
        "text.npy": (saved(x.astype(str)), "holds <U"),
        "bytes.npy": (saved(x.astype("S8")), "holds |S8"),
        "void.npy": (saved(x.astype("f2").view("V2")), "holds |V2"),
        "complex.npy": (saved(x + 0j), "complex"),
        "nan.npy": (saved(np.where(x == 7, np.nan, x)), "row 2, column 1 is nan"),
        "inf.npy": (saved(np.where(x == 7, -np.inf, x)), "row 2, column 1 is -inf"),
        "big endian nan.npy": (saved(np.where(x == 7, np.nan, x).astype(">f4")), "row 2"),
        "wide.npy": (saved(np.full((2, 2), np.longdouble("1e4000"))), "row 0, column 0 is inf"),
        "text.npz": (b"x", "cannot be read as .npz"),
        "garbage.npz": (b"PK\3\4garbage", "cannot be read"),
        "cut.npz": (archived(x=saved(x))[:-30], "cannot be read"),
        "two.npz": (archived(x=saved(x), y=saved(x)), "holds 2 arrays ('x', 'y')"),
        "none.npz": (archived(), "holds 0 arrays"),
        "huge.npz": (
            archived(x=with_header(head % "(10**15, 8)".replace("10**15", "1" + "0" * 15), b"")),
            "more than",
        ),
        "objects.npz": (archived(x=saved(x.astype(object))), "pickled objects"),
        "flat.npz": (archived(x=saved(x[0])), "holds float64 [3]"),
        "letters.npz": (archived(x=b"letters"), "cannot be read"),
        "nan.npz": (archived(x=saved(x * np.nan)), "row 0, column 0 is nan"),
    }
    damaged = bytearray(archived(x=saved(x)))
    damaged[200] ^= 0xFF  # the check sum no longer holds
    files["damaged.npz"] = (bytes(damaged), "cannot be read")
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not refusals(read_array, [(tmp_path / n, word) for n, (_, word) in files.items()])


def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, frame):
    rng = np.random.default_rng(0)
    text, x = frame[:30].to_csv(index=False).encode(), frame[list("abcde")][:30].to_numpy()
    whole = {"x.csv": text, "x.csv.gz": gzip.compress(text), "x.npy": saved(x)}
    whole |= {"x.npz": archived(x=saved(x)), "y.csv": text}
    faults = []
    for _ in range(80):
        for name, content in whole.items():
            data = bytearray(content)
            for at in sorted(rng.integers(0, len(data), rng.integers(1, 6)))[::-1]:
                if rng.random() < 0.5:
                    data[at] = rng.integers(0, 128)
                else:
                    data[at : at + int(rng.integers(1, 20))] = rng.choice([b"", b"\n", b",", b'"'])
            (tmp_path / name).write_bytes(data)
            for reader in (read, read_array):
                try:
                    reader(tmp_path / name)
                except AuditError as error:
                    if "\n" in str(error):
                        faults.append((name, str(error)))
                except Exception as error:
                    faults.append((name, repr(error)))
    assert not faults


def table_of(tmp_path, name, labels, **columns):
    X = blobs(len(labels))[0]
    frame = pd.DataFrame(X, columns=list("abcde")).assign(label=labels, **columns)
    frame.to_csv(tmp_path / name, index=False)
    return f"--features={tmp_path / name}", f"--output={tmp_path}/o"


def test_spaces_around_labels_are_left_out_and_told(tmp_path, audit):
    given = blobs(N)[2]
    right = table_of(tmp_path, "x.csv", CLASSES[given])
    assert audit(*right)[0] == 0
    issues = (tmp_path / "o/issues.csv").read_bytes()
    odd = given == 1
    for space in (" ", "  ", "\t", "\xa0", "\u3000", "\u200b", "\ufeff", "\u200b \u2060"):
        labels = [
            f"{space * (i % 3)}{c}{space}" if o else c
            for i, (c, o) in enumerate(zip(CLASSES[given], odd, strict=True))
        ]
        status, _, errors = audit(*table_of(tmp_path, "y.csv", labels))
        assert status == 0 and f"{odd.sum()} of 300 labels had spaces around them" in errors
        assert (tmp_path / "o/issues.csv").read_bytes() == issues


def test_doubtful_classes_are_told(tmp_path, audit):
    given = blobs(N)[2]
    names = np.array(["Dog", "dog", "nan"])
    status, _, errors = audit(*table_of(tmp_path, "x.csv", names[given]))
    assert status == 0
    assert "'Dog' and 'dog'" in errors or "'dog' and 'Dog'" in errors
    assert f"class 'nan' ({(given == 2).sum()} rows) reads like a missing label" in errors
    assert len(json.loads((tmp_path / "o/summary.json").read_text())["classes"]) == 3
    names = np.array(["New York", "New  York", "Null"])
    errors = audit(*table_of(tmp_path, "x.csv", names[given]))[2]
    assert "New  York" in errors and "class 'Null'" in errors
    assert "warning" not in audit(*table_of(tmp_path, "x.csv", CLASSES[given]))[2]


def test_labels_that_read_alike_are_told():
    def check(*names):
        (note,) = doubtful_labels("y", np.array(names), clean_labels(np.array(names)))
        assert "classes that read alike are taken as unlike" in note and note.isascii()

    same = [
        ("1", "1.0"),
        ("1", "01"),
        ("-1", "-1.00"),
        ("+1", "1"),
        ("cat", "'cat'"),
        ("cat", '"cat"'),
        ("cat", "c\u200bat"),
        ("cat", "c\u00adat"),
        ("True", "true"),
        ("black cat", "black\xa0cat"),
        ("cat", "CAT", "Cat"),
    ]
    check_each(check, same)
    for unlike in (
        ("1", "10"),
        ("1", "-1"),
        ("1.5", "1"),
        ("0", "-0.5"),
        ("cat", "cats"),
        ("a1", "a01"),
    ):
        given = np.array(unlike)
        assert doubtful_labels("y", given, clean_labels(given)) == []
    wide = np.array(["cat", "\uff43at"])
    assert len(doubtful_labels("y", wide, clean_labels(wide))) == 1


def test_labels_and_ids_of_bytes_are_text(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    pd.DataFrame({"id": [b"r0", b"r1"], "label": [b"cat", "caf\xe9".encode()]}).to_parquet(path)
    table = read_labels("--labels", path, "label", "id")
    assert table.ids.tolist() == ["r0", "r1"] and table.labels.tolist() == ["cat", "caf\xe9"]
    pd.DataFrame({"id": ["a", "b"], "label": [b"cat", b"caf\xe9"]}).to_parquet(path)
    with pytest.raises(AuditError, match=r"^--labels=.*column 'label' holds bytes, not UTF"):
        read_labels("--labels", path, "label", "id")


def test_what_is_no_class_is_refused_by_what_it_is(tmp_path, audit):
    rng = np.random.default_rng(0)
    x = rng.normal(size=N)
    given = blobs(N)[2].astype(object)
    long_tail = np.where(np.arange(N) < 12, [f"rare{i}" for i in range(N)], CLASSES[blobs(N)[2]])
    holes = np.where(np.arange(N) % 100 == 7, "", CLASSES[blobs(N)[2]])
    cases = {
        "measurement": (x.round(3), "distinct numbers, such as '"),
        "prices": (rng.integers(0, 10**6, N), "is it a measurement? The audit takes classes"),
        "tenths": (x.round(1), "is it a measurement?"),
        "ids": ([f"r{i}" for i in range(N)], "300 of 300 labels are distinct"),
        "dates": (pd.date_range("2024-01-01", periods=N).astype(str), "is it an id?"),
        "long tail": (long_tail, "12 of 15 classes have one row: 'rare0', 'rare1', 'rare10'"),
        "rare": (np.where(np.arange(N) == 1, "rare", given), "class 'rare' has one row"),
        "empty": (holes, "column 'label' is empty in row 7 (counted from 0) and 2 more"),
        "one": (["ant"] * N, "one class alone"),
    }
    faults = []
    for name, (labels, word) in cases.items():
        status, _, errors = audit(*table_of(tmp_path, "x.csv", labels))
        if status != 1 or word not in errors or len(errors.splitlines()) != 1:
            faults.append((name, errors))
    assert not faults
    stars = rng.choice([0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5], N)
    for labels in (stars, np.arange(N) % 100):  # classes all the same
        status, _, errors = audit(*table_of(tmp_path, "x.csv", labels))
        assert status == 0, errors


def test_accents_in_two_forms_match(tmp_path, audit):
    """Ids and labels in one form, names of files and of other tables in the other."""

    def form(kind, name):
        return unicodedata.normalize(kind, name)

    for folder, table in (("NFD", "NFC"), ("NFC", "NFD")):
        root = tmp_path / folder
        write_images(root, {"ant": 8, "bee": 8})
        os.rename(root / "ant", root / form(folder, "café"))
        names = [
            f"{form(table, c)}/{n}{i}.png"
            for c, n in (("café", "ant"), ("bee", "bee"))
            for i in range(8)
        ]
        labels = [form(table, "thé")] * 8 + ["b"] * 8
        pd.DataFrame({"id": names, "label": labels}).to_csv(tmp_path / "t.csv", index=False)
        images, out = f"--images={root}", f"--output={tmp_path}/o{folder}"
        status, _, errors = audit(images, out, f"--labels={tmp_path}/t.csv", "--id_column=id")
        assert status == 0, errors
        issues = pd.read_csv(tmp_path / f"o{folder}/issues.csv")
        files = {str(p.relative_to(root)) for p in root.rglob("*.png")}
        assert set(issues["id"]) == files  # as the system has them
        # A folder's name is a class, and a verified label names it in the other form.
        checked = pd.DataFrame({"id": names[:4], "label": [form(table, "café")] * 4})
        checked.to_csv(tmp_path / "c.csv", index=False)
        status, _, errors = audit(images, out, f"--trusted={tmp_path}/c.csv")
        assert status == 0, errors
        told = json.loads((tmp_path / f"o{folder}/summary.json").read_text())
        assert told["trusted_rows"] == 4 and set(told["classes"]) == {"café", "bee"}
        # Beside features, pictures are found by the id.
        stems = [form(table, f"é{i}") for i in range(16)]
        for path, stem in zip(sorted(root.rglob("*.png")), stems, strict=True):
            os.rename(path, path.with_name(f"{form(folder, stem)}.png"))
        X, _, given = blobs(16, classes=2)
        frame = pd.DataFrame(X, columns=list("abcde")).assign(id=stems, label=given)
        frame.to_csv(tmp_path / "x.csv", index=False)
        status, _, errors = audit(images, out, f"--features={tmp_path}/x.csv", "--id_column=id")
        assert status == 0, errors
        assert (tmp_path / f"o{folder}/report.html").read_text().count(
            "data:image/png;base64,"
        ) == 16
    assert known_ids(["é", "e\u0301"], ["é", "e\u0301"]) == ["é", "e\u0301"]
    assert known_ids([" é "], ["é", "e\u0301"]) == [" é "]  # either


def test_ids_are_text_or_whole_numbers(tmp_path):
    (tmp_path / "t.csv").write_text("id,label\n007,NA\n7,None\nNA,?\n1.0,1\n")
    table = read_labels("--labels", tmp_path / "t.csv", "label", "id")
    assert table.ids.tolist() == ["007", "7", "NA", "1.0"]
    assert table.labels.tolist() == ["NA", "None", "?", "1"]
    pytest.importorskip("pyarrow")
    frames = {
        "floats": pd.DataFrame({"id": [1.0, 2.0], "label": [0.0, 1.0]}),
        "nullable": pd.DataFrame({"id": pd.array([1, 2], "Int64"), "label": [0, 1]}),
        "text": pd.DataFrame({"id": ["1", "2"], "label": pd.Categorical([0, 1])}),
    }
    for frame in frames.values():
        frame.to_parquet(tmp_path / "t.parquet")
        table = read_labels("--labels", tmp_path / "t.parquet", "label", "id")
        assert table.ids.tolist() == ["1", "2"] and table.labels.tolist() == ["0", "1"]
    missing = [None, float("nan"), pd.NA, ""]
    for cell in missing:
        pd.DataFrame({"id": ["a", cell], "label": ["x", "y"]}).to_parquet(tmp_path / "t.parquet")
        with pytest.raises(AuditError, match="column 'id' is empty in row 1"):
            read_labels("--labels", tmp_path / "t.parquet", "label", "id")
