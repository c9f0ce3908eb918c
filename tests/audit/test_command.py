"""The command on files: what it reads, what it leaves, and what a killed run does not leave."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import CLASSES, blobs, write_images, write_labels
from PIL import Image

from l2rw_jax.audit.tables import guard, read_labels, unguard, write_csv

ROOT = Path(__file__).parents[2]
FILES = ["corrected.csv", "issues.csv", "model", "report.html", "summary.json"]


def issues(folder):
    return pd.read_csv(folder / "issues.csv", dtype={"id": str}, keep_default_na=False)


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_features_with_labels(tmp_path, features, audit):
    _, true, given = features
    out = tmp_path / "new" / "audit"
    arguments = (f"--features={tmp_path}/x.npy", f"--labels={tmp_path}/labels.csv")
    status, text, errors = audit(*arguments, "--id_column=id", f"--output={out}")
    assert status == 0, errors
    assert sorted(os.listdir(out)) == FILES
    assert os.listdir(out.parent) == ["audit"]
    table = issues(out)
    assert table["label_score"].is_monotonic_increasing
    row = table["id"].str[1:].astype(int)
    np.testing.assert_array_equal(table["given_label"], given[row])
    flagged = table["is_label_issue"].to_numpy()
    assert (true != given)[row][flagged].mean() > 0.5
    told = summary(out)
    assert told["rows"] == 300 and told["issues"] == flagged.sum() > 20
    assert told["wrong_share"]["low"] is None
    assert told["estimated_from"] == "confident counts"
    assert sum(each["rows"] for each in told["classes"].values()) == 300
    assert sum(pair["issues"] for pair in told["confusion"]) == flagged.sum()
    corrected = pd.read_csv(out / "corrected.csv")
    np.testing.assert_array_equal(corrected["id"], [f"r{i}" for i in range(300)])
    changed = (corrected["label"] != given).to_numpy()
    assert changed.sum() == told["replaced_labels"] > 0
    assert (corrected["label"] == true)[changed].mean() > 0.8
    assert f"{told['issues']} label issues" in text


def test_verified_rows_steer_correct_and_measure(tmp_path, features, audit):
    _, true, given = features
    write_labels(tmp_path / "checked.csv", true[:100])
    out = tmp_path / "audit"
    arguments = (f"--features={tmp_path}/x.npy", f"--labels={tmp_path}/labels.csv")
    status, _, errors = audit(
        *arguments, "--id_column=id", f"--trusted={tmp_path}/checked.csv", f"--output={out}"
    )
    assert status == 0, errors
    told, table = summary(out), issues(out).set_index("id")
    assert told["trusted_rows"] == 100 and told["estimated_from"] == "trusted rows"
    share = told["wrong_share"]
    assert share["low"] <= np.mean(true != given) <= share["high"]
    checked = table.loc[[f"r{i}" for i in range(100)]]
    assert checked["trusted"].all() and table["trusted"].sum() == 100
    np.testing.assert_array_equal(checked["is_label_issue"], (true != given)[:100])
    corrected = pd.read_csv(out / "corrected.csv")
    np.testing.assert_array_equal(corrected["label"][:100], true[:100])

    # Another file of verified rows comes beside the first; what it says later counts.
    write_labels(tmp_path / "second.csv", given[99:110], [f"r{i}" for i in range(99, 110)])
    both = [f"--trusted={tmp_path}/{name}.csv" for name in ("checked", "second")]
    status, _, errors = audit(*arguments, "--id_column=id", *both, f"--output={out}")
    assert status == 0, errors
    table = issues(out).set_index("id")
    assert table["trusted"].sum() == 110 and table.loc["r99", "predicted_label"] == given[99]


def test_checked_rows_that_look_wrong_leave_the_steering_to_those_drawn(tmp_path, features, audit):
    _, true, _ = features
    arguments = (f"--features={tmp_path}/x.npy", f"--labels={tmp_path}/labels.csv")
    arguments += ("--id_column=id",)
    drawn, worst = range(0, 300, 10), range(5, 300, 10)
    for name, rows in (("first", drawn), ("issues", worst)):
        lines = ['"id","label","list"', *(f'"r{i}","{true[i]}","{name}"' for i in rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    first, second = (f"--trusted={tmp_path}/{name}.csv" for name in ("first", "issues"))
    out = tmp_path / "audit"
    status, text, errors = audit(*arguments, first, second, f"--output={out}")
    assert status == 0, errors
    assert summary(out)["trusted_rows"] == 60 and summary(out)["steering_rows"] == 30
    assert "30 of 60 verified rows steered the training" in text
    # A row that was drawn stays drawn, whichever list it is checked in again.
    (tmp_path / "issues.csv").write_text(
        (tmp_path / "first.csv").read_text().replace("first", "issues")
    )
    audit(*arguments, first, second, f"--output={out}")
    assert summary(out)["steering_rows"] == 30


def test_columns_without_numbers_are_named(tmp_path, audit):
    X, true, given = blobs()
    frame = pd.DataFrame(X, columns=list("abcde")).assign(
        member=true == 0, city="Oslo", label=CLASSES[given]
    )
    frame.to_csv(tmp_path / "table.csv", index=False)
    status, _, errors = audit(f"--features={tmp_path}/table.csv", f"--output={tmp_path}/audit")
    assert status == 0 and "left out, since they hold no numbers: 'city'" in errors
    told = summary(tmp_path / "audit")
    assert told["feature_columns"] == [*"abcde", "member"] and told["columns_left_out"] == ["city"]


def test_rows_are_numbered_without_an_id_column(tmp_path, features, audit):
    arguments = (f"--features={tmp_path}/x.npy", f"--labels={tmp_path}/labels.csv")
    assert audit(*arguments, f"--output={tmp_path}/audit")[0] == 0
    assert set(issues(tmp_path / "audit")["id"]) == {str(i) for i in range(300)}


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_other_kinds_of_features_give_the_same(tmp_path, features, audit, kind):
    X, _, given = features
    common = (f"--labels={tmp_path}/labels.csv", "--id_column=id")
    assert audit(f"--features={tmp_path}/x.npy", *common, f"--output={tmp_path}/npy")[0] == 0
    path = tmp_path / f"x.{kind}"
    if kind == "npz":
        np.savez(path, X)
    else:  # a table that holds all
        if kind == "parquet":
            pytest.importorskip("pyarrow")
        frame = pd.DataFrame(X).rename(columns=str)
        frame = frame.assign(id=[f"r{i}" for i in range(300)], label=given, note="text")
        frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
        common = ("--id_column=id",)
    status, _, errors = audit(f"--features={path}", *common, f"--output={tmp_path}/other")
    assert status == 0, errors
    a, b = issues(tmp_path / "npy"), issues(tmp_path / "other")
    pd.testing.assert_frame_equal(a, b, rtol=1e-4)


def test_features_are_memory_mapped(tmp_path, features):
    from l2rw_jax.audit.arrays import read_array

    assert isinstance(read_array(tmp_path / "x.npy"), np.memmap)


def test_a_folder_of_images(tmp_path, audit):
    write_images(tmp_path / "set", {"ant": 12, "bee": 10, "cat": 11})
    (tmp_path / "set/bee/notes.txt").write_text("no image")
    (tmp_path / "set/bee/.hidden").write_text("not looked at")
    whole = (tmp_path / "set/ant/ant0.png").read_bytes()
    (tmp_path / "set/cat/cut.png").write_bytes(whole[:200])
    gray = Image.fromarray(np.full((40, 9), 60000, np.uint16))
    gray.save(tmp_path / "set/cat/sixteen.tiff")
    Image.new("P", (5, 5)).save(tmp_path / "set/cat/palette.gif")
    os.rename(tmp_path / "set/ant/ant3.png", tmp_path / "set/bee/wrong.png")
    out = tmp_path / "audit"
    status, _, errors = audit(f"--images={tmp_path}/set", "--size=8", f"--output={out}")
    assert status == 0, errors
    for line in (
        "1 left out (not a picture; restore or remove it): 'bee/notes.txt'",
        "1 left out (damaged: image file is truncated; restore or remove it): 'cat/cut.png'",
        "1 left out (more than 8 bits a channel; save it with 8 bits, all pictures on one scale)",
        "1 left out (hidden): 'bee/.hidden'",
    ):
        assert line in errors
    assert sorted(os.listdir(out)) == FILES
    told, table = summary(out), issues(out)
    assert list(told["unreadable"]) == [
        "bee/.hidden",
        "bee/notes.txt",
        "cat/cut.png",
        "cat/sixteen.tiff",
    ]
    assert told["rows"] == 34 and told["image_size"] == 8
    assert table["id"][0] == "bee/wrong.png" and table["predicted_label"][0] == "ant"
    assert "data:image/png;base64," in (out / "report.html").read_text()

    status, _, errors = audit(
        f"--predict={out}", f"--images={tmp_path}/set/ant", f"--output={tmp_path}/p.csv"
    )
    assert status == 0, errors
    predicted = pd.read_csv(tmp_path / "p.csv")
    assert list(predicted) == ["id", "label", "probability"]
    assert (predicted["label"] == "ant").all() and len(predicted) == 11


def test_a_table_labels_images_of_any_folder(tmp_path, audit):
    write_images(tmp_path / "set", {"ant": 10, "bee": 10})
    names = [f"{name}/{name}{i}.png" for name in ("ant", "bee") for i in range(10)]
    write_labels(tmp_path / "labels.csv", ["A"] * 9 + ["B"] * 11, names)
    status, _, errors = audit(
        f"--images={tmp_path}/set",
        f"--labels={tmp_path}/labels.csv",
        "--id_column=id",
        f"--output={tmp_path}/audit",
    )
    assert status == 0, errors
    assert issues(tmp_path / "audit")["id"][0] == "ant/ant9.png"


def test_tfds_sets_and_labels_that_override_theirs(tmp_path, audit):
    """By the name of a set that needs no files."""
    out = tmp_path / "audit"
    status, _, errors = audit("--tfds=synthetic-8x8x1-3", f"--output={out}")
    assert status == 0, errors
    table = issues(out).sort_values("id", key=lambda column: column.astype(int))
    assert summary(out)["rows"] == 2000 and set(table["given_label"].astype(str)) == {"0", "1", "2"}
    labels = table["given_label"].to_numpy().astype(str)
    labels[:50] = (labels[:50].astype(int) + 1) % 3
    write_labels(tmp_path / "labels.csv", labels)
    status, _, errors = audit(
        "--tfds=synthetic-8x8x1-3", f"--labels={tmp_path}/labels.csv", f"--output={out}"
    )
    assert status == 0, errors
    worst = issues(out)[:50]
    assert len(set(worst["id"]) & {str(i) for i in range(50)}) > 45
    assert worst["is_label_issue"].mean() > 0.5


@pytest.mark.slow
@pytest.mark.skipif("L2RW_DATA_DIR" not in os.environ, reason="needs L2RW_DATA_DIR")
def test_ids_and_names_of_a_tfds_set(audit):
    from l2rw_jax.audit.pictures import read_tfds

    try:
        source = read_tfds("cifar10", None)
    except FileNotFoundError:
        pytest.skip("cifar10 is not prepared in L2RW_DATA_DIR")
    assert source.X.shape == (50000, 32, 32, 3) and len(set(source.ids)) == 50000
    if source.ids[0] == "train_frog_2534":  # the ids name the class
        words = [row_id.split("_")[1] for row_id in source.ids]
        assert len(set(zip(words, source.labels, strict=True))) == 10
    picture = source.picture(source.ids[5])
    assert picture is not None
    np.testing.assert_array_equal(np.asarray(picture), source.X[5])


def test_pictures_beside_features(tmp_path, features, audit):
    write_images(tmp_path / "pictures", {"ant": 3})
    for i in range(3):
        os.rename(tmp_path / f"pictures/ant/ant{i}.png", tmp_path / f"pictures/ant/r{i}.png")
    status, _, errors = audit(
        f"--features={tmp_path}/x.npy",
        f"--labels={tmp_path}/labels.csv",
        "--id_column=id",
        f"--images={tmp_path}/pictures",
        f"--output={tmp_path}/audit",
    )
    assert status == 0, errors
    assert (tmp_path / "audit/report.html").read_text().count("data:image/png;base64,") == 3


def test_predictions_of_features(tmp_path, features, audit):
    common = (f"--labels={tmp_path}/labels.csv", f"--output={tmp_path}/audit")
    assert audit(f"--features={tmp_path}/x.npy", *common)[0] == 0
    fresh, fresh_true, _ = blobs(seed=9)
    np.save(tmp_path / "new.npy", fresh)
    arguments = (f"--predict={tmp_path}/audit", f"--features={tmp_path}/new.npy")
    for _ in range(2):  # its own file may be written again
        status, _, errors = audit(*arguments, f"--output={tmp_path}/p.csv")
        assert status == 0, errors
    predicted = pd.read_csv(tmp_path / "p.csv")
    assert (predicted["label"] == CLASSES[fresh_true]).mean() > 0.9
    assert predicted["probability"].between(1 / 3, 1).all()


def test_predictions_of_a_table_go_by_the_names_of_its_columns(tmp_path, audit):
    X, _, given = blobs()
    frame = pd.DataFrame(X).rename(columns=lambda i: f"x{i}").assign(label=CLASSES[given])
    frame.to_csv(tmp_path / "x.csv", index=False)
    assert audit(f"--features={tmp_path}/x.csv", f"--output={tmp_path}/audit")[0] == 0
    frame.to_csv(tmp_path / "same.csv", index=False)
    turned = frame[frame.columns[::-1]].assign(person=[f"{i:03d}" for i in range(300)], age=7)
    turned.to_csv(tmp_path / "turned.csv", index=False)
    arguments = (f"--predict={tmp_path}/audit", f"--output={tmp_path}/p.csv")
    predictions = {}
    for name, more in {"same": (), "turned": ("--id_column=person",)}.items():
        status, _, errors = audit(*arguments, f"--features={tmp_path}/{name}.csv", *more)
        assert status == 0, errors
        predictions[name] = pd.read_csv(tmp_path / "p.csv", dtype={"id": str})
    assert list(predictions["turned"]["id"]) == list(turned["person"])
    for column in ("label", "probability"):
        assert predictions["same"][column].equals(predictions["turned"][column])

    turned.drop(columns="x0").to_csv(tmp_path / "less.csv", index=False)
    status, _, errors = audit(*arguments, f"--features={tmp_path}/less.csv")
    assert status == 1 and "no column 'x0'" in errors
    turned.assign(x0="many").to_csv(tmp_path / "text.csv", index=False)
    status, _, errors = audit(*arguments, f"--features={tmp_path}/text.csv")
    assert status == 1 and "column 'x0' holds text, such as 'many'" in errors


def test_tables_keep_text_and_run_no_formula(tmp_path):
    cells = ["=1+1", "+cmd", "-x", "@a", '"><script>', "a,b", "-1", "+2.5", "NA", "007", "日本"]
    frame = pd.DataFrame({"id": [str(i) for i in range(len(cells))], "label": cells})
    write_csv(tmp_path / "t.csv", frame)
    text = (tmp_path / "t.csv").read_text()
    for start in ('"=', '"+c', '"-x', '"@'):
        assert start not in text
    table = read_labels("--labels", tmp_path / "t.csv", "label", "id")
    np.testing.assert_array_equal(table.labels, cells)
    assert unguard([guard(cell) for cell in cells]) == cells


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "t.csv").write_text("id,label\na,b\n", encoding="utf-8-sig")
    assert read_labels("--labels", tmp_path / "t.csv", "label", "id").ids[0] == "a"


def test_numeric_class_names_stay_text(tmp_path, audit):
    X, _, given = blobs()
    np.save(tmp_path / "x.npy", X)
    write_labels(tmp_path / "labels.csv", given - 1)  # -1, 0, 1
    out = tmp_path / "audit"
    arguments = (f"--features={tmp_path}/x.npy", f"--labels={tmp_path}/labels.csv")
    assert audit(*arguments, f"--output={out}")[0] == 0
    assert set(summary(out)["classes"]) == {"-1", "0", "1"}
    assert (pd.read_csv(out / "corrected.csv")["label"].isin([-1, 0, 1])).all()
