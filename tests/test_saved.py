"""A classifier's folder from elsewhere: it predicts as it did, or one line says what is wrong."""

import contextlib
import io
import json
import os
import pickle
import shutil
import signal
import tracemalloc
import zipfile

import jax
import numpy as np
import pandas as pd
import pytest
from untrained import untrained

from l2rw_jax.classifier import ReweightClassifier

X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
Y = np.where(X.sum(1) > 0, "up", "down")
NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def of_features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "model"
    untrained(pd.DataFrame(X, columns=NAMES), Y, model="mlp-4", networks=2).save(folder)
    return folder


@pytest.fixture(scope="module")
def of_images(tmp_path_factory):
    """Of a network that normalises by running moments."""
    folder = tmp_path_factory.mktemp("images") / "model"
    images = np.random.default_rng(1).integers(0, 256, (60, 8, 8, 3), np.uint8)
    untrained(images, np.where(Y == "up", 4, 1), model="resnet-8", networks=2).save(folder)
    return folder


def npy(array, **header):
    """The bytes of an .npy, of which the header may say something else."""
    file = io.BytesIO()
    if not header:
        np.save(file, array)
        return file.getvalue()
    told = np.lib.format.header_data_from_array_1_0(array) | header
    np.lib.format.write_array_header_1_0(file, told)
    return file.getvalue() + array.tobytes()


class Changes:
    """Changes of a copy of a saved classifier; a value None removes."""

    def __init__(self, folder):
        self.folder = folder
        self.config, self.model = folder / "config.json", folder / "model.npz"

    def about(self, **values):
        about = json.loads(self.config.read_text())
        about |= values
        about = {name: value for name, value in about.items() if value is not Changes}
        self.config.write_text(json.dumps(about))

    def about_text(self, old, new, dtype):
        self.about(classes_dtype=dtype)
        self.config.write_text(self.config.read_text().replace(old, new))

    def parameters(self, values):
        self.about(parameters=json.loads(self.config.read_text())["parameters"] | values)

    def arrays(self, changed=None, **options):
        """Writes the arrays again, some of them changed by functions, or with other bytes."""
        with np.load(self.model) as file:
            arrays = dict(file)
        self.model.unlink()
        with zipfile.ZipFile(self.model, "w", **options) as file:
            for name, array in arrays.items():
                change = (changed or {}).get(name, lambda array: array)
                value = change(array)
                if value is not None:
                    content = value if isinstance(value, bytes) else npy(np.asarray(value))
                    file.writestr(f"{name}.npy", content)
            for name in (changed or {}).keys() - arrays.keys():
                file.writestr(f"{name}.npy", npy(changed[name]))

    def replace(self, path, make):
        path.unlink()
        make(path)


KERNEL = "params/hidden_0/kernel"


class Run:
    """An object whose unpickling leaves a file."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def pickled(array):
    return npy(array, descr="|O", shape=(1,))[: -array.nbytes] + pickle.dumps(Run())


def sparse(size):
    def make(path):
        with path.open("wb") as file:
            file.truncate(size)

    return make


def bomb(path):
    """A few kilobytes that say, and hold, a gigabyte."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file,
        file.open(f"{KERNEL}.npy", "w", force_zip64=True) as member,
    ):
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**26, 1)}
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(2**4):
            member.write(bytes(2**24))


def text(content):
    return lambda path: path.write_text(content)


def one(value):
    """The array with one other value."""

    def change(array):
        array = array.copy()
        array.flat[0] = value
        return array

    return change


def to(dtype):
    return lambda array: array.astype(dtype)


BAD = {
    # Files that are none
    "no config": lambda c: c.config.unlink(),
    "no model": lambda c: c.model.unlink(),
    "config a FIFO": lambda c: c.replace(c.config, os.mkfifo),
    "model a FIFO": lambda c: c.replace(c.model, os.mkfifo),
    "config a folder": lambda c: c.replace(c.config, os.mkdir),
    "model a folder": lambda c: c.replace(c.model, os.mkdir),
    "config endless": lambda c: c.replace(c.config, lambda path: path.symlink_to("/dev/zero")),
    "model endless": lambda c: c.replace(c.model, lambda path: path.symlink_to("/dev/zero")),
    "config a terminal": lambda c: c.replace(c.config, lambda path: path.symlink_to("/dev/tty")),
    "model itself": lambda c: c.replace(c.model, lambda path: path.symlink_to(path)),
    "config empty": lambda c: c.replace(c.config, text("")),
    "model empty": lambda c: c.replace(c.model, text("")),
    "config huge": lambda c: c.replace(c.config, sparse(2**40)),
    "model huge": lambda c: c.replace(c.model, sparse(2**40)),
    # JSON
    "deep": lambda c: c.replace(c.config, text("[" * 10**6)),
    "deep object": lambda c: c.replace(c.config, text('{"a":' * 10**5)),
    "list": lambda c: c.replace(c.config, text("[]")),
    "number": lambda c: c.replace(c.config, text("1")),
    "null": lambda c: c.replace(c.config, text("null")),
    "latin-1": lambda c: c.replace(c.config, lambda path: path.write_bytes(b'{"\xe9": 1}')),
    "NaN": lambda c: c.parameters({"learning_rate": float("nan")}),
    "infinity": lambda c: c.parameters({"learning_rate": float("inf")}),
    "many digits": lambda c: c.replace(c.config, text("1" * 10**5)),
    # Fields
    "format 2": lambda c: c.about(format=2),
    "format text": lambda c: c.about(format="1"),
    "format true": lambda c: c.about(format=True),
    "format a list": lambda c: c.about(format=[[1]]),
    "an unknown field": lambda c: c.about(moments=[1]),
    "no method": lambda c: c.about(method=Changes),
    "method unknown": lambda c: c.about(method="l2rv"),
    "method an oracle": lambda c: c.about(method="weighted"),
    "method a list": lambda c: c.about(method=["gce"]),
    "method null": lambda c: c.about(method=None),
    "parameters a list": lambda c: c.about(parameters=[]),
    "parameter unknown": lambda c: c.parameters({"callbacks": "os.system"}),
    "parameter self": lambda c: c.parameters({"self": 1}),
    "networks none": lambda c: c.parameters({"networks": 0}),
    "networks text": lambda c: c.parameters({"networks": "2"}),
    "networks true": lambda c: c.parameters({"networks": True}),
    "steps below zero": lambda c: c.parameters({"steps": -1}),
    "rate zero": lambda c: c.parameters({"learning_rate": 0}),
    "rate text": lambda c: c.parameters({"learning_rate": "0.1"}),
    "batch size": lambda c: c.parameters({"batch_size": 2.5}),
    "class weight": lambda c: c.parameters({"class_weight": {"a": 1}}),
    "random state": lambda c: c.parameters({"random_state": -1}),
    "random state text": lambda c: c.parameters({"random_state": "x"}),
    "model a number": lambda c: c.parameters({"model": 4}),
    "method of the parameters": lambda c: c.parameters({"method": ["auto"]}),
    "verbose text": lambda c: c.parameters({"verbose": "no"}),
    # Classes
    "one class": lambda c: c.about(classes=["up"]),
    "three classes": lambda c: c.about(classes=["a", "b", "c"]),
    "no classes": lambda c: c.about(classes=[]),
    "classes twice": lambda c: c.about(classes=["up", "up"]),
    "classes unsorted": lambda c: c.about(classes=["up", "down"]),
    "classes mixed": lambda c: c.about(classes=["down", 1]),
    "classes null": lambda c: c.about(classes=[None, None]),
    "classes lists": lambda c: c.about(classes=[["a"], ["b"]]),
    "classes an object": lambda c: c.about(classes={"down": 0, "up": 1}),
    "classes numbers": lambda c: c.about(classes=[0, 1]),
    "classes cut": lambda c: c.about(classes_dtype="<U1"),
    "classes as numbers": lambda c: c.about(classes_dtype="<i8"),
    "classes as bytes": lambda c: c.about(classes_dtype="|S4"),
    "classes as dates": lambda c: c.about(classes_dtype="<M8[s]"),
    "classes as fields": lambda c: c.about(classes_dtype="i4,i4"),
    "classes of nothing": lambda c: c.about(classes_dtype="x" * 100),
    "classes too wide": lambda c: c.about(classes_dtype="<U500000000"),
    "classes no text": lambda c: c.about(classes=["down", "up\ud800"], classes_dtype="<U9"),
    "classes with null": lambda c: c.about(classes=["down\0", "up"], classes_dtype="<U9"),
    "classes infinite": lambda c: c.about(classes=[0.5, float("inf")], classes_dtype="<f8"),
    "classes beyond floats": lambda c: c.about_text('["down", "up"]', "[0.5, 1e999]", "<f8"),
    "classes too large": lambda c: c.about(classes=[1, 2**70], classes_dtype="<i8"),
    "classes as small": lambda c: c.about(classes=[1, 300], classes_dtype="|u1"),
    # Network
    "network text": lambda c: c.about(network="mlp-4"),
    "network short": lambda c: c.about(network=["mlp-4", 2]),
    "network a number": lambda c: c.about(network=[4, 2, [1, 1, 3]]),
    "network unknown": lambda c: c.about(network=["mlp-x", 2, [1, 1, 3]]),
    "network other": lambda c: c.about(network=["mlp-5", 2, [1, 1, 3]]),
    "network deeper": lambda c: c.about(network=["mlp-4-4", 2, [1, 1, 3]]),
    "network of another kind": lambda c: c.about(network=["lenet", 2, [1, 1, 3]]),
    "network enormous": lambda c: c.about(network=["mlp-65536-65536", 2, [1, 1, 3]]),
    "network very deep": lambda c: c.about(network=["resnet-1202", 2, [8, 8, 3]]),
    "network very deep and wide": lambda c: c.about(network=["wrn-1198-64", 2, [8, 8, 3]]),
    "network of long numbers": lambda c: c.about(network=["resnet-" + "9" * 5000, 2, [8, 8, 3]]),
    "shape wide": lambda c: c.about(network=["mlp-4", 2, [1, 1, 4]], n_features_in=4),
    "shape turned": lambda c: c.about(network=["mlp-4", 2, [3, 1, 1]]),
    "shape flat": lambda c: c.about(network=["mlp-4", 2, [3]]),
    "shape zero": lambda c: c.about(network=["mlp-4", 2, [1, 1, 0]]),
    "shape text": lambda c: c.about(network=["mlp-4", 2, ["1", 1, 3]]),
    "shape true": lambda c: c.about(network=["mlp-4", 2, [True, True, 3]]),
    "shape enormous": lambda c: c.about(network=["mlp-4", 2, [2**40, 2**40, 2**40]]),
    "classes of the network": lambda c: c.about(network=["mlp-4", 3, [1, 1, 3]]),
    "classes of the network text": lambda c: c.about(network=["mlp-4", "2", [1, 1, 3]]),
    "classes of the network enormous": lambda c: c.about(network=["mlp-4", 2**70, [1, 1, 3]]),
    # Features
    "columns": lambda c: c.about(n_features_in=4),
    "columns text": lambda c: c.about(n_features_in="3"),
    "columns float": lambda c: c.about(n_features_in=3.0),
    "names few": lambda c: c.about(feature_names=["a", "b"]),
    "names numbers": lambda c: c.about(feature_names=[1, 2, 3]),
    "names text": lambda c: c.about(feature_names="abc"),
    "names empty": lambda c: c.about(feature_names=[]),
    # The archive
    "no zip": lambda c: c.replace(c.model, lambda path: path.write_bytes(b"PK" + bytes(999))),
    "an .npy": lambda c: c.replace(c.model, lambda path: path.write_bytes(npy(X))),
    "a pickle": lambda c: c.replace(c.model, lambda path: path.write_bytes(pickle.dumps(Run()))),
    "cut": lambda c: c.model.write_bytes(c.model.read_bytes()[:-40]),
    "flipped": lambda c: c.model.write_bytes(
        c.model.read_bytes().replace(npy(X[:1])[10:20], b"{'a\xff'\0((((")
    ),
    "no arrays": lambda c: c.replace(c.model, lambda path: zipfile.ZipFile(path, "w").close()),
    "compressed": lambda c: c.arrays(compression=zipfile.ZIP_DEFLATED),
    "compressed by lzma": lambda c: c.arrays(compression=zipfile.ZIP_LZMA),
    "a bomb": lambda c: c.replace(c.model, bomb),
    "an array twice": lambda c: zipfile.ZipFile(c.model, "a").writestr("weights.npy", npy(X)),
    "an array more": lambda c: c.arrays({"params/other": X}),
    "an array as a layer": lambda c: c.arrays({"params": X}),
    "no kernel": lambda c: c.arrays({KERNEL: lambda array: None}),
    "no weights": lambda c: c.arrays({"weights": lambda array: None}),
    "no moments": lambda c: c.arrays({"moments": lambda array: None}),
    # Arrays
    "a kernel of objects": lambda c: c.arrays({KERNEL: pickled}),
    "a kernel of no bytes": lambda c: c.arrays({KERNEL: lambda array: b""}),
    "a kernel of text": lambda c: c.arrays({KERNEL: lambda array: b"1, 2, 3"}),
    "a kernel cut": lambda c: c.arrays({KERNEL: lambda array: npy(array)[:-4]}),
    "a kernel too long": lambda c: c.arrays({KERNEL: lambda array: npy(array) + bytes(4)}),
    "a kernel said enormous": lambda c: c.arrays({KERNEL: lambda a: npy(a, shape=(2**40, 2**20))}),
    "a kernel below zero": lambda c: c.arrays({KERNEL: lambda a: npy(a, shape=(-2, 3, -4))}),
    "a kernel of bools": lambda c: c.arrays({KERNEL: lambda a: npy(a, shape=(True, 24))}),
    "a kernel nested": lambda c: c.arrays({KERNEL: lambda a: npy(a, descr=[("x", "<f4")])}),
    "a kernel of nothing": lambda c: c.arrays({KERNEL: lambda a: npy(a, descr="|V0")}),
    "a kernel in deep brackets": lambda c: c.arrays(
        {KERNEL: lambda array: b"\x93NUMPY\x01\0" + (9000).to_bytes(2, "little") + b"(" * 9000}
    ),
    "a kernel of version 9": lambda c: c.arrays({KERNEL: lambda a: b"\x93NUMPY\x09" + npy(a)[7:]}),
    "a kernel turned": lambda c: c.arrays({KERNEL: lambda a: a.transpose(0, 2, 1)}),
    "a kernel wide": lambda c: c.arrays({KERNEL: lambda a: np.repeat(a, 2, 2)}),
    "a kernel flat": lambda c: c.arrays({KERNEL: lambda a: a.reshape(-1)}),
    "a kernel of one network": lambda c: c.arrays({KERNEL: lambda a: a[:1]}),
    "a kernel without networks": lambda c: c.arrays({KERNEL: lambda a: a[0]}),
    "a number": lambda c: c.arrays({KERNEL: lambda a: a[0, 0, 0]}),
    "no networks": lambda c: c.arrays(dict.fromkeys(NETWORKS, lambda array: array[:0])),
    "a kernel complex": lambda c: c.arrays({KERNEL: to(np.complex64)}),
    "a kernel of float64": lambda c: c.arrays({KERNEL: to(np.float64)}),
    "a kernel of float16": lambda c: c.arrays({KERNEL: to(np.float16)}),
    "a kernel of integers": lambda c: c.arrays({KERNEL: to(np.int32)}),
    "a kernel of dates": lambda c: c.arrays({KERNEL: to("M8[s]")}),
    "a kernel of spans": lambda c: c.arrays({KERNEL: to("m8[s]")}),
    "a kernel of texts": lambda c: c.arrays({KERNEL: to(str)}),
    "a kernel of other bytes": lambda c: c.arrays({KERNEL: to(">f4")}),
    "all float64": lambda c: c.arrays(dict.fromkeys(NETWORKS, to(np.float64))),
    "all complex": lambda c: c.arrays(dict.fromkeys(NETWORKS, to(np.complex64))),
    "NaN in a kernel": lambda c: c.arrays({KERNEL: one(np.nan)}),
    "infinity in a kernel": lambda c: c.arrays({KERNEL: one(-np.inf)}),
    "all NaN": lambda c: c.arrays(dict.fromkeys(NETWORKS, lambda array: array * np.nan)),
    "NaN in the moments": lambda c: c.arrays({"moments": one(np.nan)}),
    "deviation 0": lambda c: c.arrays({"moments": lambda a: a * [[1], [0], [1], [1]]}),
    "deviation below 0": lambda c: c.arrays({"moments": lambda a: -abs(a)}),
    "moments complex": lambda c: c.arrays({"moments": to(complex)}),
    "moments of 2 columns": lambda c: c.arrays({"moments": lambda a: a[:, :2]}),
    "means alone": lambda c: c.arrays({"moments": lambda a: a[:1]}),
    "weights below 0": lambda c: c.arrays({"weights": one(-1)}),
    "weights few": lambda c: c.arrays({"weights": lambda array: array[:-1]}),
    "weights none": lambda c: c.arrays(
        {"weights": lambda a: a[:0], "label_quality": lambda a: a[:0]}
    ),
    "weights of bools": lambda c: c.arrays({"weights": lambda array: array > 0}),
    "weights a table": lambda c: c.arrays({"weights": lambda array: array[:, None]}),
    "quality NaN": lambda c: c.arrays({"label_quality": one(np.nan)}),
}
NETWORKS = [
    f"params/{layer}/{part}" for layer in ("hidden_0", "output") for part in ("bias", "kernel")
]
GOOD = {
    "as it was": lambda c: None,
    "by links": lambda c: [
        (path.rename(path.with_suffix(".real")), path.symlink_to(path.with_suffix(".real")))
        for path in (c.config, c.model)
    ],
    "a note beside": lambda c: os.mkfifo(c.folder / "notes.txt"),
    "a member that is no array": lambda c: zipfile.ZipFile(c.model, "a").writestr("a.txt", "b"),
    "old parameters": lambda c: c.about(parameters={}),
    "columns in Fortran's order": lambda c: c.arrays({KERNEL: np.asfortranarray}),
    "a weight in float64": lambda c: c.arrays({"weights": to(np.float64)}),
}
BAD_IMAGES = {
    "variance below 0": lambda c: c.arrays({VARIANCE: one(-1)}),
    "variance NaN": lambda c: c.arrays({VARIANCE: one(np.nan)}),
    "no variance": lambda c: c.arrays({VARIANCE: lambda array: None}),
    "moments of features": lambda c: c.arrays({"moments": np.ones((4, 3))}),
    "columns": lambda c: c.about(n_features_in=3),
    "shape": lambda c: c.about(network=["resnet-8", 2, [16, 16, 1]], n_features_in=16),
    "another network": lambda c: c.about(network=["resnet-14", 2, [8, 8, 3]]),
}
VARIANCE = "model_state/stage_0_block_0/norm_0/var"


@contextlib.contextmanager
def within(seconds):
    """Raises TimeoutError where something hangs."""

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def loaded(folder):
    """What a classifier is loaded to, and does, as one tree of arrays."""
    with within(20):
        got = ReweightClassifier.load(folder)
        return got._params, got._model_state, got._moments, got.classes_, got._network


def check(original, changes, place, *, refused):
    """The changes after which loading does not end as it should."""
    expected, faults = loaded(original), []
    for i, (name, change) in enumerate(changes.items()):
        folder = place / f"{i}{refused}"
        shutil.copytree(original, folder)
        change(Changes(folder))
        try:
            got = loaded(folder)
            if refused or not jax.tree.all(jax.tree.map(np.array_equal, got, expected)):
                faults.append((name, "it was loaded"))
        except ValueError as error:
            line = str(error)
            one_line = line.startswith(f"folder: {folder} holds no") and "\n" not in line
            if not refused or not one_line or len(line) > 600:
                faults.append((name, line))
        except BaseException as error:
            faults.append((name, repr(error)))
    return faults


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_folder_from_elsewhere_is_read_as_data(of_features, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    faults = check(of_features, BAD, tmp_path, refused=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    faults += check(of_features, GOOD, tmp_path, refused=False)
    assert not faults
    assert not (tmp_path / "unpickled").exists()
    assert peak < 2**28
    assert len(BAD) > 100


def test_a_folder_of_images_is_read_as_data(of_images, tmp_path):
    faults = check(of_images, BAD_IMAGES, tmp_path, refused=True)
    faults += check(of_images, {"as it was": lambda c: None}, tmp_path, refused=False)
    assert not faults


def test_it_predicts_as_it_did(of_features, tmp_path):
    rows = pd.DataFrame(X, columns=NAMES)
    first = ReweightClassifier.load(of_features)
    first.save(tmp_path)
    again = ReweightClassifier.load(tmp_path)
    np.testing.assert_array_equal(first.predict_proba(rows), again.predict_proba(rows))
    assert list(again.feature_names_in_) == NAMES and first.get_params() == again.get_params()


def test_labels_of_every_type_come_back(of_features, tmp_path):
    """Their dtype, too: by it, a label of the training is found again."""
    kinds = [
        np.array(["ja", "nein"]),
        np.array(["a", "b"], "<U30"),
        np.array(["ä\n", "ö"], object),
        np.array([0, 1]),
        np.array([-5, 300], np.int16),
        np.array([1, 2**63], np.uint64),
        np.array([0.5, 1e300]),
        np.array([0.1, 0.2], np.float32),
        np.array([False, True]),
    ]
    for classes in kinds:
        loaded = ReweightClassifier.load(of_features)
        loaded.classes_ = classes
        loaded.save(tmp_path)
        got = ReweightClassifier.load(tmp_path).classes_
        np.testing.assert_array_equal(got, classes, strict=True)
        assert list(map(type, got.tolist())) == list(map(type, classes.tolist()))
