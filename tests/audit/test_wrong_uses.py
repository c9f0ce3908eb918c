"""Wrong uses of the command: one line on standard error, status 1, nothing written."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from made_up import write_images, write_labels
from PIL import Image

ROWS = 30
OUT = "--output=out"
X = ("--features=x.npy", "--labels=labels.csv", "--id_column=id")


@pytest.fixture(autouse=True)
def folder(tmp_path, features, monkeypatch, audit):
    """A working directory with files of every kind, whole and damaged."""
    monkeypatch.chdir(tmp_path)
    values, _, given = features
    values, given = values[:ROWS].astype(np.float64), given[:ROWS]
    np.save("x.npy", values)
    write_labels(tmp_path / "labels.csv", given)
    write_images(tmp_path / "set", {"ant": 3, "bee": 3})
    arrays = {
        "nan": np.where(np.arange(5) == 2, np.nan, values),
        "inf": np.where(np.arange(ROWS)[:, None] == 7, np.inf, values),
        "flat": values[:, 0],
        "cube": values[:, :, None],
        "empty": values[:0],
        "narrow": values[:, :0],
        "text": values.astype(str),
        "bools": values > 0,
        "complex": values + 0j,
        "short": values[:-1],
        "wide": values[:, :4],
    }
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    np.save("pickled.npy", values.astype(object), allow_pickle=True)
    np.savez("two.npz", a=values, b=values)
    np.savez("none.npz")
    with zipfile.ZipFile("strange.npz", "w") as file:
        file.writestr("a.txt", "no array")
    for name in ("garbage.npy", "garbage.npz", "garbage.parquet"):
        (tmp_path / name).write_bytes(b"garbage")
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:300])
    (tmp_path / "zero.npy").touch()
    tables = {
        "blank": "",
        "header": "id,label\n",
        "ragged": "id,label\nr0,ant\nr1,bee,cat,dog\n",
        "quote": 'id,label\n"r0,ant\n',
        "unlabelled": "id,label\n" + "".join(f"r{i},{'' if i == 3 else 'ant'}\n" for i in range(9)),
        "fewer": "id,label\nr0,ant\nr1\n",
        "spaces": "id,label\nr0,  \nr1,bee\n",
        "noid": "id,label\nr0,ant\n,bee\n",
        "twice": "id,label\nr0,ant\nr0,bee\n",
        "one": "id,label\n" + "".join(f"r{i},ant\n" for i in range(ROWS)),
        "lonely": "id,label\n" + "".join(f"r{i},{'ant' if i else 'bee'}\n" for i in range(ROWS)),
        "words": "id,label,note\nr0,ant,hi\nr1,bee,ho\n",
        "unknown": "id,label\nr0,ant\nr999,bee\n",
        "noclass": "id,label\nr0,ant\nr1,dog\n",
        "nolabel": "id,class\nr0,ant\n",
        "pictures": "id,label\nant/ant0.png,ant\n",
        "strangers": "id,label\nant/ant0.png,ant\nnone.png,bee\n",
    }
    for name, text in tables.items():
        (tmp_path / f"{name}.csv").write_text(text)
    (tmp_path / "latin.csv").write_bytes("id,label\nr0,fée\n".encode("latin-1"))
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)))
    (tmp_path / "labels.txt").write_text("id,label\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/report.html").write_text("mine")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/issues.csv").symlink_to(tmp_path / "labels.csv")
    (tmp_path / "mine/model").mkdir(parents=True)
    (tmp_path / "mine/model/weights.pt").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "flatset").mkdir()
    Image.new("RGB", (4, 4)).save("flatset/a.png")
    (tmp_path / "texts/ant").mkdir(parents=True)
    (tmp_path / "texts/ant/a.png").write_text("no image")
    write_images(tmp_path / "oneclass", {"ant": 3})
    write_images(tmp_path / "alone", {"ant": 3, "bee": 1})
    (tmp_path / "predictions.csv").write_text("mine\n")
    (tmp_path / "noaudit").mkdir()
    (tmp_path / "noaudit/summary.json").write_text("[]")
    assert audit(*X, "--output=audit")[0] == 0
    (tmp_path / "copied").mkdir()
    shutil.copy("audit/summary.json", "copied")
    shutil.copy("audit/corrected.csv", "corrected.csv")
    (tmp_path / "link.csv").symlink_to("predictions.csv")
    os.mkfifo("pipe")


def x(**changed):
    """The flags of a right call, some of which are changed."""
    flags = {"features": "x.npy", "labels": "labels.csv", "id_column": "id"} | changed
    return [f"--{name}={value}" for name, value in flags.items() if value is not None]


def trusted(name):
    return [*X, f"--trusted={name}", OUT]


PREDICT = "--predict=audit"
CASES = [
    # Flags
    ([], "--output"),
    ([OUT], "no rows: give --images, --features or --tfds"),
    ([*X], "--output"),
    ([*X, OUT, "--outptu=x"], "--outptu=x"),
    ([*X, OUT, "stray"], "stray"),
    ([*X, OUT, OUT], "--output: given more than once"),
    ([*X, "--output="], "--output: got ''"),
    ([*X, "--out=x"], "--out"),
    ([*X, OUT, "--size=abc"], "--size: got 'abc'"),
    ([*X, OUT, "--size=3"], "--size: got '3'"),
    ([*X, OUT, "--size=9999"], "--size: got '9999'"),
    ([*X, OUT, "--size=-8"], "--size: got '-8'"),
    ([*X, OUT, "--steps=0"], "--steps: got '0'"),
    ([*X, OUT, "--steps=1.5"], "--steps: got '1.5'"),
    ([*X, OUT, "--label_column="], "--label_column: got ''"),
    ([*X, OUT, "--data_dir=."], "--data_dir: "),
    (["--images=set", "--tfds=digits", OUT], "--images and --tfds"),
    (["--images=set", "--labels=pictures.csv", OUT], "--id_column: missing"),
    (["--images=set", "--id_column=id", OUT], "--id_column: names a column of --labels"),
    ([*x(id_column=None), "--images=set", OUT], "--id_column: missing"),
    (["--features=x.npy", OUT], "needs --labels"),
    # Output
    (
        [*X, "--output=taken"],
        "--output=taken: holds something else than an audit, named report.html",
    ),
    (
        [*X, "--output=linked"],
        "--output=linked: holds something else than an audit, named issues.csv",
    ),
    ([*X, "--output=mine"], "--output=mine: holds something else than an audit, named model"),
    ([*X, "--output=copied"], "--output=copied: holds an audit without its model/model.npz"),
    ([*X, "--output=loop"], "cannot be written"),
    ([*X, "--output=x.npy"], "--output=x.npy: is a file"),
    ([*X, "--output=noaudit"], "--output=noaudit: holds something else"),
    ([*X, "--output=x.npy/audit"], "cannot be written"),
    (
        [*x(labels="audit/corrected.csv"), "--output=audit"],
        "is a file that --output=audit replaces",
    ),
    ([*X, "--trusted=audit/../audit/issues.csv", "--output=audit"], "--output=audit replaces"),
    # Features
    ([*x(features="gone.npy"), OUT], "--features=gone.npy: no such file"),
    ([*x(features="set"), OUT], "--features=set: not a file"),
    ([*x(features="labels.txt"), OUT], "the table has no rows"),
    ([*x(features="nan.npy"), OUT], "row 0, column 2 is nan"),
    ([*x(features="inf.npy"), OUT], "row 7, column 0 is inf"),
    ([*x(features="flat.npy"), OUT], "holds float64 [30]"),
    ([*x(features="cube.npy"), OUT], "holds float64 [30, 5, 1]"),
    ([*x(features="empty.npy"), OUT], "holds float64 [0, 5]"),
    ([*x(features="narrow.npy"), OUT], "holds float64 [30, 0]"),
    ([*x(features="text.npy"), OUT], "holds <U"),
    ([*x(features="bools.npy"), OUT], "holds bool"),
    ([*x(features="complex.npy"), OUT], "complex"),
    ([*x(features="pickled.npy"), OUT], "--features=pickled.npy: cannot be read"),
    ([*x(features="garbage.npy"), OUT], "--features=garbage.npy: cannot be read"),
    ([*x(features="cut.npy"), OUT], "--features=cut.npy: cannot be read"),
    ([*x(features="zero.npy"), OUT], "--features=zero.npy: cannot be read"),
    ([*x(features="garbage.npz"), OUT], "--features=garbage.npz: cannot be read"),
    ([*x(features="strange.npz"), OUT], "--features=strange.npz: "),
    ([*x(features="two.npz"), OUT], "holds 2 arrays ('a', 'b')"),
    ([*x(features="none.npz"), OUT], "holds 0 arrays"),
    ([*x(features="short.npy"), OUT], "has 29 rows and --labels=labels.csv 30"),
    ([*x(features="words.csv", labels=None), OUT], "no column of numbers"),
    ([*x(features="nolabel.csv", labels=None), OUT], "no column 'label'"),
    # Labels
    ([*x(labels="gone.csv"), OUT], "--labels=gone.csv: no such file"),
    ([*x(labels="set"), OUT], "--labels=set: not a file"),
    ([*x(labels="labels.txt"), OUT], "the table has no rows"),
    ([*x(labels="blank.csv"), OUT], "--labels=blank.csv: the file is empty"),
    ([*x(labels="header.csv"), OUT], "the table has no rows"),
    ([*x(labels="latin.csv"), OUT], "not UTF-8"),
    ([*x(labels="binary.csv"), OUT], "--labels=binary.csv: "),
    ([*x(labels="ragged.csv"), OUT], "cannot be read as a table"),
    ([*x(labels="quote.csv"), OUT], "cannot be read as a table"),
    ([*x(labels="garbage.parquet"), OUT], "cannot be read as .parquet"),
    ([*x(labels="unlabelled.csv"), OUT], "column 'label' is empty in row 3"),
    ([*x(labels="fewer.csv"), OUT], "column 'label' is empty in row 1"),
    ([*x(labels="spaces.csv"), OUT], "column 'label' is empty in row 0"),
    ([*x(labels="noid.csv"), OUT], "column 'id' is empty in row 1"),
    ([*x(labels="twice.csv"), OUT], "id 'r0' comes more than once"),
    ([*x(labels="one.csv"), OUT], "one class alone, 'ant'"),
    ([*x(labels="lonely.csv"), OUT], "class 'bee' has one row"),
    ([*x(labels="nolabel.csv"), OUT], "no column 'label'; its columns are 'id', 'class'"),
    ([*x(id_column="name"), OUT], "no column 'name'"),
    ([*x(), "--label_column=class", OUT], "no column 'class'"),
    # Verified labels
    (trusted("gone.csv"), "--trusted=gone.csv: no such file"),
    (trusted("unknown.csv"), "1 ids belong to no row: 'r999'"),
    (trusted("noclass.csv"), "label 'dog' is no class"),
    (trusted("twice.csv"), "id 'r0' comes more than once"),
    (trusted("header.csv"), "the table has no rows"),
    (trusted("nolabel.csv"), "no column 'label'"),
    (trusted("latin.csv"), "not UTF-8"),
    # Images
    (["--images=gone", OUT], "--images=gone: no such folder"),
    (["--images=x.npy", OUT], "--images=x.npy: not a folder"),
    (["--images=nothing", OUT], "holds no files"),
    (["--images=flatset", OUT], "lie in no subfolders"),
    (["--images=texts", OUT], "none of its 1 files can be read as an image"),
    (["--images=oneclass", OUT], "one class alone, 'ant'"),
    (["--images=alone", OUT], "class 'bee' has one row"),
    (["--images=set", "--labels=strangers.csv", "--id_column=id", OUT], "1 ids belong to no"),
    (["--images=set", "--labels=pictures.csv", "--id_column=id", OUT], "5 pictures have no label"),
    # TFDS
    (["--tfds=no_such_set", OUT], "no_such_set"),
    (["--tfds=cifar100", "--data_dir=nothing", OUT], "tfds build cifar100"),
    (["--tfds=a b", OUT], "name is 'a b'"),
    (["--tfds=digits", "--labels=labels.csv", OUT], "has 30 rows and --tfds=digits 1437"),
    # Predictions
    ([PREDICT, OUT], "--predict: give --features or --images"),
    (["--predict=nothing", "--features=x.npy", OUT], "--predict=nothing: holds no audit"),
    (["--predict=gone", "--features=x.npy", OUT], "--predict=gone: holds no audit"),
    (["--predict=/", "--features=x.npy", OUT], "--predict=/: holds no audit"),
    (["--predict=noaudit", "--features=x.npy", OUT], "holds no audit"),
    ([PREDICT, "--images=set", OUT], "takes --features"),
    ([PREDICT, "--features=x.npy", "--labels=labels.csv", OUT], "--labels: --predict takes none"),
    ([PREDICT, "--features=nan.npy", OUT], "row 0, column 2 is nan"),
    ([PREDICT, "--features=x.npy", "--output=full"], "--output=full: is a folder"),
    ([PREDICT, "--features=x.npy", "--output=gone/p.csv"], "its folder does not exist"),
    ([PREDICT, "--features=x.npy", "--output=predictions.csv"], "holds something else"),
    ([PREDICT, "--features=x.npy", "--output=link.csv"], "is a symbolic link"),
    ([PREDICT, "--features=x.npy", "--output=pipe"], "is no regular file"),
    ([PREDICT, "--features=x.npy", "--output=x.npy"], "is the file of the rows"),
    ([PREDICT, "--features=x.npy", "--output=audit/issues.csv"], "holds something else"),
    ([PREDICT, "--features=wide.npy", OUT], ""),
]


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_is_one_line_and_leaves_nothing(tmp_path, audit):
    before, faults = files(tmp_path), []
    for arguments, word in CASES:
        status, out, errors = audit(*arguments)
        one_line = len(errors.splitlines()) == 1 and errors.startswith("error: ")
        if status != 1 or not one_line or word not in errors or out or files(tmp_path) != before:
            faults.append((arguments, status, out, errors))
    assert not faults, "\n".join(map(repr, faults))
    assert len(CASES) > 60


def test_parquet_without_pyarrow_is_named(audit, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec

    def without(name, *rest):
        return None if name == "pyarrow" else real(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    Path("labels.parquet").write_bytes(b"PAR1 not read PAR1")
    status, _, errors = audit(*x(labels="labels.parquet"), OUT)
    assert status == 1 and "Parquet needs pyarrow: pip install pyarrow" in errors
