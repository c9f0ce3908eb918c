"""What an audit may touch in its folder: nothing of anyone else's, whatever happens."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import CLASSES, blobs, write_images, write_labels

from l2rw_jax.audit import folder as files
from l2rw_jax.audit.errors import AuditError

ROOT = Path(__file__).parents[2]
FILES = sorted(files.FILES)


def small(folder, seed=0):
    """The flags of an audit of 40 rows whose files are in ``folder``."""
    X, _, labels = blobs(40, seed=seed)
    np.save(folder / "x.npy", X)
    write_labels(folder / "labels.csv", CLASSES[labels])
    return f"--features={folder}/x.npy", f"--labels={folder}/labels.csv", "--id_column=id"


def found(folder):
    """All below a folder, by path: a link's target, a file's bytes, or None for a folder."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


# Names that this version or an earlier one, another program, or a person might use.
FORMER = """
.part .old .audit.part .audit.old .lock .git images.npy checked.csv notes.txt photos Model models
model.npz config.json issues.csv.tmp summary.json.part issues.csv~ ISSUES.CSV café changed-abc
.l2rw-audit-unfinished-abc_1234 .l2rw-unfinished-0123456789abcdef tmpabcdefgh
"""
NAMES = st.sampled_from(["a\nb", *FORMER.split()]) | st.text(
    "abc.-_ é", min_size=1, max_size=8
).filter(lambda name: name.strip("."))
LEAVES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(["outside", "outside/p", "nowhere", ".", "..", "/dev/null"]).map(Path),
)
TREES = st.dictionaries(
    NAMES, st.recursive(LEAVES, lambda tree: st.dictionaries(NAMES, tree, max_size=3)), max_size=6
)


def plant(tree, folder, outside):
    folder.mkdir(parents=True, exist_ok=True)
    for name, what in tree.items():
        path = folder / name
        if isinstance(what, dict):
            plant(what, path, outside)
        elif isinstance(what, bytes):
            path.write_bytes(what)
        else:
            path.symlink_to(outside.parent / what if what.parts[:1] == ("outside",) else what)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(TREES, TREES, TREES, st.booleans())
def test_every_foreign_file_stays_bit_for_bit(audit, inside, beside, in_model, linked):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        outside = root / "elsewhere/outside"
        plant({"p": b"precious", "q": {"r": b"too"}}, outside, outside)
        plant(beside, root / "home", outside)
        out = root / "home/the audit"
        plant(inside, out, outside)
        flags = small(out if linked else root)  # inputs in the folder itself, too
        target = out
        if linked:
            target = root / "link"
            target.symlink_to(out)
        before = found(root)
        assert audit(*flags, f"--output={target}")[0] == 0
        after = found(root)
        assert {path: after.get(path) for path in before} == before
        new = {path.removeprefix("home/the audit/") for path in after.keys() - before.keys()}
        assert new == {*FILES, "model"}

        kept = {key: what for key, what in in_model.items() if key not in MODEL_FILES}
        plant(kept, out / "model", outside)
        before = found(root)
        assert audit(*flags, f"--trusted={root}/home/../checked.csv", f"--output={target}")[0] == 1
        assert found(root) == before
        assert audit(*flags, "--steps=7", f"--output={target}")[0] == 0
        after = found(root)
        assert after.keys() == before.keys()
        changed = {path for path in before if before[path] != after[path]}
        assert changed <= {f"home/the audit/{name}" for name in FILES}


MODEL_FILES = ("model.npz", "config.json")


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_or_out_of_disk_at_any_moment_the_old_audit_or_the_new_one_is_whole(tmp_path, step):
    environment = {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    script = [sys.executable, "-W", "ignore", Path(__file__).with_name("faults.py")]
    done = subprocess.run(
        [*script, tmp_path, str(step)], env=os.environ | environment, stdout=subprocess.PIPE
    )
    told = json.loads(done.stdout)
    assert not told["faults"]
    assert len(told["tried"]) > (20 if step > 1 else 80)


def test_what_was_changed_by_hand_is_kept(tmp_path, audit):
    out = tmp_path / "audit"
    flags = small(tmp_path)
    assert audit(*flags, f"--output={out}")[0] == 0
    mine = {"corrected.csv": b"id,label\nr0,bee\n", "summary.json": b"", "issues.csv": b"a note"}
    mine["summary.json"] = (out / "summary.json").read_bytes().replace(b"{", b'{"note": 1,', 1)
    for name, content in mine.items():
        (out / name).write_bytes(content)
    status, _, errors = audit(*flags, f"--output={out}")
    assert status == 0
    kept = [path for path in out.glob("changed-*/*") if f"kept in {path.parent}: " in errors]
    assert {path.name: path.read_bytes() for path in kept} == mine
    before = found(out)
    assert audit(*flags, f"--output={out}")[0] == 0
    assert found(out).keys() == before.keys()  # what was not changed is not kept


def test_a_second_audit_at_the_same_time_is_refused(tmp_path, audit):
    out = tmp_path / "audit"
    flags = small(tmp_path)
    with files.opened(out, {}):
        status, _, errors = audit(*flags, f"--output={out}")
        assert status == 1 and errors == f"error: --output={out}: another audit is writing it\n"
    assert audit(*flags, f"--output={out}")[0] == 0


def test_what_takes_or_leaves_a_name_while_the_audit_runs(tmp_path, capsys):
    out = tmp_path / "audit"
    with files.opened(out, {}) as folder, files.put(folder) as scratch:
        write(scratch)
        (out / "issues.csv").write_text("mine")
    (kept,) = out.glob("changed-*")
    assert found(kept) == {"issues.csv": b"mine"} and str(kept) in capsys.readouterr().err
    for name in files.FILES:
        with files.opened(out, {}) as folder, files.put(folder) as scratch:
            write(scratch)
            (out / name).unlink()
        assert (out / name).is_file()
    before = found(out)
    refused = pytest.raises(AuditError, match=r"cannot be written: Is a symbolic link")
    with refused, files.opened(out, {}) as folder, files.put(folder) as scratch:
        write(scratch)
        (out / "report.html").rename(out / "mine")
        (out / "report.html").symlink_to("mine")
    assert found(out) == before | {"report.html": "mine", "mine": before["report.html"]}


def write(scratch):
    (scratch / "model").mkdir()
    for name in files.FILES:
        (scratch / name).write_text(json.dumps({"program": files.PROGRAM}))


def test_the_folder_may_vanish_while_the_audit_runs(tmp_path):
    out = tmp_path / "a/audit"
    with files.opened(out, {}) as folder:
        shutil.rmtree(tmp_path / "a")
        with files.put(folder) as scratch:
            write(scratch)
    assert sorted(path for path in found(out) if path != "model") == FILES


def killed_before(out, name):
    """An audit that was killed before this file was put in place."""
    replace, left = os.replace, []

    def stop(source, target):
        if left or target == out / name:
            left.append(target)
            raise KeyboardInterrupt
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files.os, "replace", stop)
        with files.opened(out, {}) as folder, files.put(folder) as scratch:
            write(scratch)


@pytest.mark.parametrize("name", files.FILES[1:])
def test_the_next_reader_finishes_what_was_killed(tmp_path, audit, name):
    out = tmp_path / "audit"
    flags = small(tmp_path)
    assert audit(*flags, f"--output={out}")[0] == 0
    (out / "mine").write_text("mine")
    killed_before(out, name)
    assert len(list(out.iterdir())) == 7
    (out / "report.html").write_text("mine since")
    with files.whole(out) as folder:
        assert json.loads((folder / name).read_text()) == {"program": files.PROGRAM}
    kept = next(out.glob("changed-*"))
    assert found(kept) == {"report.html": b"mine since"}
    assert sorted(os.listdir(out)) == sorted(
        {*(name.partition("/")[0] for name in FILES), "mine", kept.name}
    )


def test_what_stands_in_the_way_of_finishing_is_named(tmp_path, audit):
    out = tmp_path / "audit"
    flags = small(tmp_path)
    assert audit(*flags, f"--output={out}")[0] == 0
    killed_before(out, "issues.csv")
    (out / "issues.csv").rename(tmp_path / "moved")
    (out / "issues.csv").symlink_to(tmp_path / "moved")
    before = found(tmp_path)
    predict = (f"--predict={out}", flags[0], f"--output={tmp_path}/p.csv")
    for arguments in (predict, (*flags, f"--output={out}")):
        status, _, errors = audit(*arguments)
        assert status == 1 and errors.count("\n") == 1
        assert "is not yet in place" in errors and "symbolic link" in errors
        assert {path: found(tmp_path)[path] for path in before} == before


def test_a_link_to_a_folder_is_an_output(tmp_path, audit):
    flags = small(tmp_path)
    (tmp_path / "link").symlink_to("real")  # which does not exist yet
    for _ in range(3):
        assert audit(*flags, f"--output={tmp_path}/link")[0] == 0
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["labels.csv", "link", "real", "x.npy"]


def test_a_failed_audit_leaves_no_empty_folder(tmp_path, audit):
    flags = small(tmp_path)
    out = tmp_path / "a/b"
    assert audit(*flags, "--label_column=none", f"--output={out}")[0] == 1
    assert not (tmp_path / "a").exists()
    out.mkdir(parents=True)  # by the user
    assert audit(*flags, "--label_column=none", f"--output={out}")[0] == 1
    assert out.is_dir() and not list(out.iterdir())


def test_a_name_that_is_not_utf8_is_refused_before_any_work(tmp_path, audit):
    flags = small(tmp_path)
    (tmp_path / "labels.csv").rename(tmp_path / "labels\udcff.csv")
    assert audit(*flags, f"--output={tmp_path}/out\udcff")[0] == 1
    wrong = (flags[0], f"--labels={tmp_path}/labels\udcff.csv", flags[2])
    status, _, errors = audit(*wrong, f"--output={tmp_path}/out")
    assert status == 1 and "not UTF-8; rename it" in errors
    assert sorted(os.listdir(tmp_path)) == ["labels\udcff.csv", "x.npy"]


@pytest.fixture
def small_disk(tmp_path):
    """A folder with a file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_too_small_for_the_images_is_one_line_and_leaves_nothing(
    tmp_path, audit, small_disk
):
    write_images(tmp_path / "set", {"ant": 100, "bee": 100})
    for flags, out in (
        ((f"--images={tmp_path}/set",), small_disk / "out"),
        ((f"--predict={tmp_path}/audit", f"--images={tmp_path}/set"), small_disk / "p.csv"),
    ):
        if "--predict" in flags[0]:
            assert audit(f"--images={tmp_path}/set", f"--output={tmp_path}/audit")[0] == 0
        status, _, errors = audit(*flags, f"--output={out}")
        assert status == 1 and errors.count("\n") == 1
        assert "614,400 bytes: No space left on device" in errors and str(small_disk) in errors
        assert not list(small_disk.iterdir())


def test_a_disk_too_small_for_the_tables_is_one_line_and_keeps_the_earlier_audit(
    tmp_path, audit, small_disk
):
    out = small_disk / "audit"
    flags = small(tmp_path)
    assert audit(*flags, f"--output={out}")[0] == 0
    free = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_frsize - 40_000))
    before = found(small_disk)
    status, _, errors = audit(*flags, f"--output={out}")
    assert status == 1 and len(errors.splitlines()) == 2  # the first says what is trained
    assert f"{out}: cannot be written: No space left on device for " in errors
    assert found(small_disk) == before
    status, _, errors = audit(f"--predict={out}", flags[0], f"--output={small_disk}/p.csv")
    assert status == 0, errors
    (small_disk / "ballast").write_bytes(bytes(0))


def test_predictions_replace_predictions_and_follow_no_link(tmp_path, audit):
    flags = small(tmp_path)
    assert audit(*flags, f"--output={tmp_path}/audit")[0] == 0
    predict = (f"--predict={tmp_path}/audit", flags[0])
    assert audit(*predict, f"--output={tmp_path}/audit/p.csv")[0] == 0
    (tmp_path / "link.csv").symlink_to("audit/p.csv")
    before = found(tmp_path)
    assert audit(*predict, f"--output={tmp_path}/link.csv")[0] == 1
    assert found(tmp_path) == before
    assert len(pd.read_csv(tmp_path / "audit/p.csv")) == 40
