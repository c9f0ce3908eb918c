"""Wrong uses, generated: each is refused in one line that names what is wrong; nothing is written.

Of every field of a config there are cases by its type, so that a new field is covered by itself.
Every generator is one test, which names all cases that fail. They run in this process;
tests/experiments starts the programs and sees their exit status.
"""

import os
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from looped import check_each
from PIL import Image
from programs import run_program

from experiments import sweep, train
from l2rw_jax import data, example_weights
from l2rw_jax.methods import get_method
from l2rw_jax.models import create_model
from l2rw_jax.training import ConfigError, default_config, resolve
from l2rw_jax.training.workdir import flatten

NAN, INF = float("nan"), float("inf")
FIELDS = flatten(default_config().to_dict())
TYPE = {field: type(default) for field, default in FIELDS.items()}
CONFIG = "--config=configs/digits.py"
SMOKE = [f"{CONFIG}:smoke", "--config.model=mlp-16"]


def _files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _assert_refused(done, word):
    assert done.status in (1, 2), done
    assert word in done.errors, done.errors
    assert len(done.errors.splitlines()) == 1 and done.errors.startswith("error: "), done.errors
    assert not done.out


# Flags ---------------------------------------------------------------------------------------

TEXTS = {  # that no field of the type takes
    bool: ["7", "maybe", "", "1.0"],
    int: ["abc", "1.5", "1e3", "nan", "", "true", "(1,)"],
    float: ["abc", "", "true", "1,5", "(1.0,)"],
    tuple: ["abc", "1.5", "(1,", "{}", "", "None", "10;20", "(" * 5000, "-" * 5000],
    str: [],
}
SWEPT = TEXTS | {
    bool: ["7", "maybe", "", "true,7"],
    float: ["abc", "", "true", "(1.0,)", "nan", "inf", "-inf", "1e999", "0.1,0.1"],
    int: [*TEXTS[int], "50.9", "10,10"],
    str: ["x,x"],
}
FLAGS = [
    *(
        (f"--config.{field}={text}", field)
        for field in FIELDS
        for text in TEXTS[type(FIELDS[field])]
    ),
    *(
        (f"--sweep={field}={text}", field)
        for field in FIELDS
        for text in SWEPT[type(FIELDS[field])]
    ),
    *((f"--config.{field}x=1", f"{field}x") for field in FIELDS),
    *((f"--sweep={field}x=1", f"{field}x") for field in FIELDS),
    ("--sweep=steps", "--sweep"),
    ("config.steps=20", "--config.steps=20"),
    ("steps=20", "--steps=20"),
    ("--noconfig.steps", "config.steps"),
    ("--noconfig.flip=3", "--noconfig.flip"),
    ("--config.=1", "--config."),
    ("--config.classes[0]=1", "--config.classes[0]"),
    ("--config.noise=3", "--config.noise"),
    ("--config.noise.kind.x=3", "--config.noise.kind.x"),
    ("--config=configs/digits.py", "--config"),
    ("--config.steps", "--config.steps"),
    ("--sweep=", "--sweep"),
    ("--sweep==", "--sweep="),
    ("--sweep=noise=1", "--sweep=noise"),
    ("--methods=", "--methods"),
    ("--methods=l2rw,l2rw", "--methods"),
    ("--methods=l2rv", "config.method"),
    ("--seeds=0", "--seeds"),
    ("--seeds=1001", "--seeds"),
    ("--seeds=2.5", "--seeds"),
    ("--workdir=", "--workdir"),
    ("--workdir= ", "--workdir"),
    ("--workdir=gs://bucket/run", "--workdir"),
    ("--workdir=s3://bucket/run", "--workdir"),
    ("--workdir=http://host/run", "--workdir"),
    ("--workdir=" + "w" * 300, "--workdir"),
    ("--workdir=a\0b", "--workdir"),
    ("--workdir=/etc/passwd/run", "--workdir"),
    ("--output=", "--output"),
    ("--output=gs://bucket/out", "--output"),
    ("--flagfile=nope", "nope"),
    ("--flagfile=/etc/passwd", "root:"),
    ("--flagfile=/bin/sh", "--flagfile"),
    ("--undefok=a", "--undefok"),
    ("--nonsense=1", "nonsense"),
    ("-", "'-'"),
    ("false", "'false'"),
    ("\N{EM DASH}seeds=3", "--seeds=3"),
    ("--process_id=1", "--coordinator"),
    ("--process_id=-1", "--process_id"),
    ("--num_processes=0", "--num_processes"),
    ("--coordinator=", "--coordinator"),
]


@pytest.fixture
def untrained(monkeypatch):
    """What is not refused fails at once, in place of training."""
    monkeypatch.setattr(train, "train_and_evaluate", None)
    monkeypatch.setattr(sweep, "train_seeds", None)


@pytest.mark.usefixtures("untrained")
def test_wrong_flags(tmp_path):
    def check(flag, word):
        _assert_refused(run_program("sweep", [CONFIG, f"--workdir={tmp_path}/run", flag]), word)
        assert not list(tmp_path.iterdir())

    check_each(check, FLAGS)


@pytest.mark.usefixtures("untrained")
def test_missing_flags(tmp_path):
    for flag, other in (("--config", f"--workdir={tmp_path}/run"), ("--workdir", CONFIG)):
        _assert_refused(run_program("train", [other]), flag)
        assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("untrained")
def test_wrong_coordinators(tmp_path):
    def check(address, process, word):
        flags = [f"--coordinator={address}", "--num_processes=2", f"--process_id={process}"]
        done = run_program("train", [CONFIG, f"--workdir={tmp_path}/run", *flags])
        _assert_refused(done, word)
        assert not list(tmp_path.iterdir())

    addresses = ("localhost", ":1234", "localhost:", "localhost:0", "localhost:65536", "a b:1")
    cases = [(address, 1, "--coordinator") for address in (*addresses, "http://a:1")]
    check_each(check, [*cases, ("localhost:1234", 2, "--process_id")])


# Config files --------------------------------------------------------------------------------

BEGIN = """from l2rw_jax.training import default_config
def get_config():
    config = default_config()
"""
LOCKED = BEGIN + "    config.lock()\n"
CONFIG_FILES = {
    "": "no get_config",
    "get_config = 3": "TypeError",
    "def get_config(:": "line 1: SyntaxError",
    "\n\n1 / 0": "line 3: ZeroDivisionError",
    "import nope": "line 1: ModuleNotFoundError",
    "open('nope')": "line 1: FileNotFoundError",
    "import sys\nsys.exit(0)": "line 2: SystemExit",
    "x = (\n": "line 1: SyntaxError",
    "a = 1\0": "SyntaxError",
    "a = '\xff'": "line 1: SyntaxError",
    "def get_config(): pass": "None",
    "def get_config(): return 3": "3",
    "def get_config(): return {}": "{}",
    "def get_config():\n  return get_config()": "line 2: RecursionError",
    "def get_config():\n  raise MemoryError": "line 2: MemoryError",
    "def get_config(a, b): return a": "get_config()",
    "from ml_collections import ConfigDict\ndef get_config(): return ConfigDict()": "no field",
    LOCKED + "    config.stps = 1": "line 5: config.stps: no such field; did you mean 'steps'?",
    LOCKED + "    config['stps'] = 1": "line 5: config.stps: no such field; did you mean 'steps'?",
    LOCKED + "    config.noise.ration = 1": "did you mean 'noise.ratio'?",
    LOCKED + "    config.noise = 1": "line 5: TypeError",
    LOCKED + "    config.steps = 'a'": "line 5: TypeError",
    LOCKED + "    del config.steps\n    return config": "line 5",
    BEGIN + "    config.stps = 1\n    return config": "config.stps",
}


@pytest.mark.usefixtures("untrained")
def test_wrong_config_files(tmp_path):
    path = tmp_path / "wrong.py"

    def check(text, word):
        path.write_bytes(text.encode("latin-1"))
        before = _files(tmp_path)
        done = run_program("train", [f"--config={path}", f"--workdir={tmp_path}/run"])
        _assert_refused(done, word)
        assert str(path) in done.errors or "config.stps" in done.errors
        assert _files(tmp_path) == before and not (tmp_path / "run").exists()

    check_each(check, CONFIG_FILES.items())


@pytest.mark.usefixtures("untrained")
def test_no_such_config(tmp_path):
    def check(name):
        done = run_program("train", [f"--config={name}", f"--workdir={tmp_path}/run"])
        _assert_refused(done, "config")
        assert not list(tmp_path.iterdir())

    names = ("nope.py", "configs", "/dev/null", "", ":smoke", "configs/digits.py:smoek")
    check_each(check, [(name,) for name in names])


# Files of runs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep of one run, done."""
    workdir = tmp_path_factory.mktemp("finished") / "sweep"
    done = run_program("sweep", [*SMOKE, f"--workdir={workdir}", "--methods=l2rw", "--seeds=1"])
    assert done.status == 0, done.errors
    return workdir


DAMAGE = {
    "result.json": [b"", b"{", b"[]", b"3", b"{}", b"\xff", b"null"],
    "weights.npz": [b"", b"PK", b"\xff" * 100],
    "config.json": [b"", b"{", b"[]", b"3", b"{}", b"\xff", b'{"steps": 3}'],
}


def test_damaged_files(finished):
    run = finished / "l2rw/seed0"
    arguments = {
        "sweep": [*SMOKE, f"--workdir={finished}", "--methods=l2rw", "--seeds=1"],
        "train": [*SMOKE, f"--workdir={run}"],
    }
    whole = _files(finished)

    def check(program, name, content):
        for path, each in whole.items():
            path.write_bytes(each)
        (run / name).write_bytes(content)
        before = _files(finished)
        done = run_program(program, arguments[program])
        _assert_refused(done, str(run if name == "config.json" else run / name))
        assert "remove" in done.errors
        assert _files(finished) == before

    cases = [("sweep", name, content) for name in DAMAGE for content in DAMAGE[name]]
    cases += [("train", *case) for _, *case in cases if case[0] != "weights.npz"]
    check_each(check, cases)


def test_a_run_that_has_ended_says_so_again(tmp_path):
    """Also where what it said is damaged."""
    arguments = [*SMOKE, f"--workdir={tmp_path}/run", "--config.learning_rate=1e30"]
    first = run_program("train", arguments)
    assert first.status == 1 and "not finite" in first.errors
    for content in (None, b"{", b"{}"):
        if content is not None:
            (tmp_path / "run/ended.json").write_bytes(content)
        _assert_refused(run_program("train", arguments), "That run has ended; remove")


def test_out_of_memory(tmp_path, monkeypatch):
    def compiled(*args):
        raise MemoryError("99 TiB")

    monkeypatch.setattr("l2rw_jax.training.loop.compiled", compiled)
    done = run_program("train", [*SMOKE, f"--workdir={tmp_path}/run"])
    assert done.status == 1 and "out of memory (99 TiB)" in done.errors
    assert len(done.errors.splitlines()) == 1


# The library's configs -----------------------------------------------------------------------

WRONG = {
    int: [NAN, INF, -1, "1", None, True, 1.5, 1.0, [1], 10**30],
    float: [NAN, INF, -INF, -1, "0.1", None, [0.1], 1e300],
    bool: [1, 0, 0.0, "true", None, 2],
    str: [None, 3, True, b"x", ("x",)],
    tuple: [None, 3, "10", (1.5,), (-1,), ("a",), (True,), (None,), (NAN,), (10**30,)],
}
SIGNED = ("low", "high")  # what black and white become
FREE = ("data_dir",)  # any text


def _wrong_values(field):
    default = FIELDS[field]
    values = list(WRONG[TYPE[field]])
    if isinstance(default, str) and field not in FREE:
        values += [each for each in (default + "x", default.upper(), "", "é\n") if each != default]
    return [value for value in values if not (field in SIGNED and value == -1)]


SETS = [
    *(({field: value}, field) for field in FIELDS for value in _wrong_values(field)),
    ({"low": 1.0, "high": 1.0}, "low"),
    ({"seeds": 1001}, "seeds"),
    ({"pad": 100}, "pad"),
    ({"model": "mlp-0"}, "model"),
    ({"model": "mlp-" + "9" * 30}, "model"),
    ({"model": "mlp-"}, "model"),
    ({"model": "mlp--5"}, "model"),
    ({"boundaries": (10, 10)}, "boundaries"),
    ({"boundaries": (20, 10)}, "boundaries"),
    ({"classes": (3,)}, "classes"),
    ({"classes": (3, 3)}, "classes"),
    ({"classes": (3, 10)}, "classes"),
    ({"optimizer": "adam(b1=2)"}, "optimizer"),
    ({"optimizer": "adamw(mask='x')"}, "optimizer"),
    ({"optimizer": "sgd(momentum=0.9,momentum=0.8)"}, "optimizer"),
    ({"optimizer": "sgd(momentum=nan)"}, "optimizer"),
    ({"optimizer": "-" * 5000}, "optimizer"),
    ({"optimizer": "sgd(" * 500}, "optimizer"),
    ({"optimizer": "__import__('os')"}, "optimizer"),
    ({"micro_batches": 3}, "micro_batches"),
    ({"noise.kind": "background", "noise.ratio": 0.1, "noise.background": -1}, "noise.background"),
    ({"noise.kind": "background", "noise.ratio": 0.1, "noise.background": 10}, "noise.background"),
    ({"imbalance.kind": "majority", "imbalance.total": 10**9}, "imbalance.total"),
    ({"imbalance.kind": "majority", "imbalance.total": 0}, "imbalance.total"),
    ({"noise.kind": "none", "noise.ratio": 0.1}, "noise.ratio"),
    ({"noise.kind": "given", "noise.ratio": 0.1, "noise.column": "x"}, "noise.ratio"),
    ({"noise.kind": "given"}, "noise.column"),
    ({"noise.kind": "given", "noise.column": "x"}, "noise.column"),
    ({"noise.kind": "uniform", "noise.ratio": 0.1, "noise.column": "x"}, "noise.column"),
    ({"clean_batch_size": 200}, "clean_batch_size"),
    ({"batch_size": 10_000}, "batch_size"),
    ({"clean_size": 10_000}, "clean_size"),
    ({"val_size": 10_000}, "val_size"),
    ({"steps": 150}, "steps"),
    ({"eval_every": 150}, "eval_every"),
    ({"checkpoint_every": 150}, "checkpoint_every"),
    ({"seeds": 2, "stream": True}, "seeds"),
    ({"dropout": 0.5}, "dropout"),
    ({"remat": True}, "remat"),
    ({"seed": 2**32}, "seed"),
]


def _assert_not_resolved(values, word):
    config = default_config().unlock()
    with config.ignore_type():
        for field, value in values.items():
            section, _, name = field.rpartition(".")
            holder = config[section] if section else config
            with holder.ignore_type():
                holder[name] = value
    with pytest.raises(ConfigError) as error:
        resolve(config)
    message = str(error.value)
    assert word in message
    assert len(message.splitlines()) == 1


def test_wrong_configs():
    check_each(_assert_not_resolved, SETS)


# Users' own data sets ------------------------------------------------------------------------

LABEL = np.arange(12) % 3
PIXELS, ROWS = np.zeros((12, 4, 4), np.uint8), np.zeros((12, 5), np.float32)
TARGETS = {"train_labels": LABEL, "test_labels": LABEL, "given": LABEL}
OF_IMAGES = TARGETS | {"train_images": PIXELS, "test_images": PIXELS}
OF_FEATURES = TARGETS | {"train_features": ROWS, "test_features": ROWS}
NPZ = [  # the set, what replaces its arrays (None: nothing), the column, a word of the message
    *((OF_IMAGES, {key: None}, None, key) for key in OF_IMAGES if key != "given"),
    *((OF_FEATURES, {key: None}, None, key) for key in OF_FEATURES if key != "given"),
    (OF_IMAGES, dict.fromkeys(OF_IMAGES), None, "train_images"),
    (OF_IMAGES, {"train_features": ROWS}, None, "both images and features"),
    (OF_IMAGES, {"train_images": PIXELS / 255}, None, "train_images is float64 [12, 4, 4]"),
    (OF_IMAGES, {"train_images": PIXELS.astype(int)}, None, "train_images is int64"),
    (OF_IMAGES, {"train_images": np.zeros((12, 3, 8, 8), np.uint8)}, None, "with channels first"),
    (OF_IMAGES, {"test_images": PIXELS[0]}, None, "test_images"),
    (OF_IMAGES, {"test_images": PIXELS[:0], "test_labels": LABEL[:0]}, None, "test_images"),
    (OF_IMAGES, {"test_images": PIXELS[:, :3]}, None, "test_images [12, 3, 4, 1]"),
    (OF_IMAGES, {"train_images": PIXELS[:, :0]}, None, "train_images"),
    (OF_IMAGES, {"train_images": np.array([None])}, None, "Python objects"),
    (OF_IMAGES, {"train_labels": LABEL.astype(object)}, None, "Python objects"),
    (OF_FEATURES, {"train_features": ROWS * NAN}, None, "NaN, infinity or"),
    (OF_FEATURES, {"test_features": ROWS + INF}, None, "12 of its 12 rows"),
    (OF_FEATURES, {"train_features": np.float64(ROWS) + 1e300}, None, "float32 holds"),
    (OF_FEATURES, {"train_features": ROWS.astype(int)}, None, "train_features is int64"),
    (OF_FEATURES, {"train_features": ROWS.astype(complex)}, None, "train_features"),
    (OF_FEATURES, {"train_features": ROWS[:, None]}, None, "train_features"),
    (OF_FEATURES, {"train_features": ROWS[:, :0]}, None, "at least one feature"),
    (OF_FEATURES, {"test_features": ROWS[:, 1:]}, None, "test_features [12, 1, 1, 4]"),
    (OF_FEATURES, {"train_labels": LABEL[1:]}, None, "train_labels is int64 [11]"),
    (OF_FEATURES, {"test_labels": LABEL[:, None]}, None, "test_labels is int64 [12, 1]"),
    (OF_FEATURES, {"train_labels": LABEL / 1}, None, "train_labels is float64"),
    (OF_FEATURES, {"train_labels": LABEL > 0}, None, "train_labels is bool"),
    (OF_FEATURES, {"train_labels": LABEL.astype(str)}, None, "train_labels is <U21"),
    (OF_FEATURES, {"train_labels": LABEL - 1}, None, "in -1..1: number"),
    (OF_FEATURES, {"train_labels": LABEL * 0}, None, "1 classes in 0..0: number two or more"),
    (OF_FEATURES, {"train_labels": LABEL * 2}, None, "3 classes in 0..4: number"),
    (OF_FEATURES, {"train_labels": LABEL + 10**12}, None, "number two or more"),
    (OF_FEATURES, {"test_labels": LABEL + 1}, None, "test labels span 1..3: give 0..2"),
    (OF_FEATURES, {"test_labels": LABEL - 1}, None, "test labels span -1..1"),
    (OF_FEATURES, {}, "Given", "column is 'Given'"),
    (OF_FEATURES, {}, "train_labels", "column is 'train_labels'"),
    (OF_FEATURES, {"given": LABEL[1:]}, "given", "given is int64 [11]"),
    (OF_FEATURES, {"given": LABEL / 1}, "given", "given is float64"),
    (OF_FEATURES, {"given": LABEL - 1}, "given", "given labels span -1..1: give 0..2"),
    (OF_FEATURES, {"given": LABEL + 1}, "given", "given labels span 1..3: give 0..2"),
    (OF_FEATURES, {"given": np.array([None])}, "given", "Python objects"),
]


def _assert_not_loaded(name, column, word):
    with pytest.raises((ValueError, OSError, data.ReadError)) as error:
        data.load(name, column=column)
    assert word in str(error.value)
    config = default_config()
    config.dataset = name
    config.noise.kind, config.noise.column = ("given", column) if column else ("none", "")
    with pytest.raises(ConfigError, match=r"^config.dataset=") as error:
        resolve(config)
    assert word in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_wrong_npz_files(tmp_path):
    def check(arrays, others, column, word):
        kept = {key: array for key, array in (arrays | others).items() if array is not None}
        np.savez(tmp_path / "own.npz", **kept)
        _assert_not_loaded(f"npz:{tmp_path}/own.npz", column, word)

    check_each(check, NPZ, name=lambda case: f"{case[2]}, {case[3]}")


def test_an_npz_of_an_unknown_user():
    _assert_not_loaded("npz:~nobody.of.that.name/own.npz", None, "cannot be read")


DAMAGED = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("a,b\n1,2\n"),
    "pickle": lambda path: path.write_bytes(pickle.dumps(OF_IMAGES)),
    "npy": lambda path: np.save(path.open("wb"), PIXELS),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "flipped": lambda path: path.write_bytes(path.read_bytes().replace(b"<i8", b"<i4", 1)),
    "a folder": lambda path: path.unlink() or path.mkdir(),
    "a FIFO": lambda path: path.unlink() or os.mkfifo(path),
    "endless": lambda path: path.unlink() or path.symlink_to("/dev/zero"),
    "gone": lambda path: path.unlink(),
}


def test_damaged_npz_files(tmp_path):
    def check(damage):
        path = tmp_path / f"{damage}.npz"
        np.savez(path, **OF_IMAGES)
        DAMAGED[damage](path)
        _assert_not_loaded(f"npz:{path}", None, f"{path} cannot be read")

    check_each(check, [(damage,) for damage in DAMAGED])


def test_no_own_data_set():
    def check(name):
        with pytest.raises(ValueError, match=r"^name ") as error:
            data.load(name)
        assert len(str(error.value).splitlines()) == 1

    names = ("npz:", "folder:", "npz:a\nb", "folder:a\0b", "npy:a.npy", "csv:")
    check_each(check, [(name,) for name in names])


def _write(name, content):
    def write(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    return write


def _picture(name, size=(4, 4), mode="L"):
    def write(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size).save(root / name)

    return write


def _remove(name):
    return lambda root: shutil.rmtree(root / name)


def _table(text):
    return _write("given.csv", text.encode())


TABLE = "file,label\na/0.png,a\na/1.png,b\nb/0.png,b\nb/1.png,b\n"
FOLDERS = [  # what is changed, the column, a word of the message
    (_remove("train"), None, "has no folder 'train': give a folder with train/CLASS/*.png"),
    (_remove("test"), None, "has no folder 'test': give a folder with train/CLASS/*.png"),
    (_remove("."), None, "has no folder 'train'"),
    (lambda root: _remove("train")(root) or _write("train", b"")(root), None, "no folder 'train'"),
    (lambda root: _remove("test/a")(root) or _remove("test/b")(root), None, "test has no images"),
    (
        lambda root: _remove("train/a")(root) or _remove("train/b")(root),
        None,
        "train has no images",
    ),
    (_remove("train/b"), None, "test/b is no class of train: the classes are 'a'"),
    (lambda root: (root / "train/c").mkdir(), None, "train/c is empty"),
    (_picture("test/c/0.png"), None, "test/c is no class of train"),
    (lambda root: _remove("train/b")(root) or _remove("test/b")(root), None, "two or more classes"),
    (_picture("train/a/0.png", (4, 5)), None, "a/1.png is 4x4 pixels, "),
    (_picture("test/b/0.png", (5, 4)), None, "test/b/0.png is 5x4 pixels, "),
    (_picture("train/a/0.png", mode="I;16"), None, "a/0.png cannot be read as an image: more"),
    (_picture("train/a/0.tiff", mode="F"), None, "a/0.tiff cannot be read as an image: more"),
    (_write("train/a/notes.txt", b"abc"), None, "a/notes.txt cannot be read as an image"),
    (_write("test/b/0.png", b""), None, "test/b/0.png cannot be read as an image"),
    (
        lambda root: os.mkfifo(root / "train/a/2.png"),
        None,
        "a/2.png cannot be read as an image: not",
    ),
    (_picture("train/a/0.png", (20000, 8000), "1"), None, "more than 50 million pixels"),
    (_picture("train/a\nb/0.png"), None, r"own/train has 'a\nb': give it a name"),
    (_picture("test/a/\udcff.png"), None, r"own/test/a has '\udcff.png': give it a name"),
    (_picture("train/a/more/0.png"), None, "train/a/more cannot be read as an image"),
    (_remove("test/a"), "crowd", "column is 'crowd': give the name of a .csv in"),
    (_table(TABLE), "../given", "column is '../given': give the name of a .csv in"),
    (_table(""), "given", "has columns []: give file,label"),
    (_table("image,label\na/0.png,a\n"), "given", "has columns ['image', 'label']: give"),
    (_table("file,label\n"), "given", "has no row for 'a/0.png'"),
    (_table(TABLE[:-10]), "given", "has no row for 'b/1.png'"),
    (_table(TABLE + "a/0.png,a\n"), "given", "names 'a/0.png' twice"),
    (_table(TABLE + "a/9.png,a\n"), "given", "names 'a/9.png', which is not in"),
    (
        _table(TABLE.replace("0.png,a", "0.png,c")),
        "given",
        "labels 'a/0.png' as 'c': give 'a', 'b'",
    ),
    (_table(TABLE.replace("0.png,a", "0.png")), "given", "labels 'a/0.png' as ''"),
    (_table(TABLE + '"'), "given", "given.csv cannot be read"),
    (_write("given.csv", b"file,label\n\xff,a\n"), "given", "given.csv cannot be read"),
    (lambda root: (root / "given.csv").mkdir(), "given", "given.csv cannot be read"),
]


def test_wrong_folders(tmp_path):
    def check(change, column, word):
        root = tmp_path / "own"
        shutil.rmtree(root, ignore_errors=True)
        for name in ("train/a/0", "train/a/1", "train/b/0", "train/b/1", "test/a/0", "test/b/0"):
            _picture(f"{name}.png")(root)
        change(root)
        _assert_not_loaded(f"folder:{root}", column, word)

    check_each(check, FOLDERS, name=lambda case: case[2])


# Arrays --------------------------------------------------------------------------------------

LABELS = np.arange(100, dtype=np.int32) % 5
IMAGES = jnp.zeros((4, 8, 8, 1), jnp.uint8)
ARRAYS = {
    "labels": [LABELS / 1.0, LABELS[None], LABELS - 1, LABELS * 100, None, "abc", LABELS > 2],
    "ratio": [NAN, INF, -0.1, 1.5, "0.3", None],
    "share": [NAN, INF, -0.1, 1.0, "0.3", None],
    "num_classes": [1, 0, -1, 2.5, None, NAN, "5"],
    "background": [-1, 5, 1.5, None, "0"],
    "total": [0, -1, 10**9, 1.5, None, NAN],
    "majority": [-1, 99, None],
    "clean_size": [-1, 100, 10**9, 1.5, None, NAN],
    "val_size": [-1, 100, 10**9, 1.5, None, NAN],
    "seed": [-1, 1.5, "a"],
    "images": [np.zeros((8, 8), np.uint8), np.zeros((4, 8, 8, 1), np.int32), None],
    "pad": [-1, 1.5, None],
    "size": [-1, 9, 1.5, None],
    "scores": [np.zeros((2, 2), np.float32), np.zeros(0, np.float32), np.arange(3), np.float32(1)],
    "min_weight": [-1.0, NAN, INF, "0", [0.0, 0.0]],
    "groups": [[0, 1], [0.0, 1.0, 0.0], [0, 1, None], [[0, 1, 0]]],
    "axis_name": ["nowhere"],
    "name": ["", "L2RW", "mpl-16", "mlp-0", "digitsx", "/", None, 3],
    "column": ["x", "", 3, True],
    "dtype": ["float8", "int32", None, "x"],
    "dropout": [-0.1, 1.0, NAN],
    "image_shape": [(8, 8), (0, 8, 1), (8, 8, 1, 1)],
}
draw = {"labels": LABELS, "seed": 0}
CALLS = [
    (data.uniform_flip, draw | {"ratio": 0.3, "num_classes": 5}),
    (data.background_flip, draw | {"ratio": 0.3, "num_classes": 5, "background": 0}),
    (data.majority_subset, draw | {"share": 0.5, "majority": 0, "total": 20}),
    (data.long_tail_subset, draw | {"ratio": 0.3, "num_classes": 5}),
    (data.split, draw | {"clean_size": 10, "val_size": 10, "num_classes": 5}),
    (data.augment, {"key": jax.random.key(0), "images": IMAGES, "pad": 1}),
    (data.to_float, {"images": IMAGES}),
    (data.sample_without_replacement, {"key": jax.random.key(0), "n": 8, "size": 4}),
    (data.load, {"name": "digits", "column": None}),
    (get_method, {"name": "l2rw"}),
    (
        example_weights,
        {
            "scores": np.ones(3, np.float32),
            "min_weight": 0.0,
            "groups": [0, 1, 0],
            "axis_name": None,
        },
    ),
    (
        create_model,
        {
            "name": "mlp-16",
            "num_classes": 5,
            "image_shape": (8, 8, 1),
            "dtype": "float32",
            "dropout": 0.0,
        },
    ),
]
RIGHT = {
    *((data.to_float, "images", 0), (data.augment, "images", 1), (create_model, "dtype", 2)),
    (data.majority_subset, "labels", 3),  # any classes
}
WRONG_CALLS = [
    (function, arguments, name, i)
    for function, arguments in CALLS
    for name in arguments
    for i in range(len(ARRAYS.get(name, [])))
    if (function, name, i) not in RIGHT
]


def test_wrong_arguments():
    def check(function, arguments, name, i):
        with pytest.raises((ValueError, TypeError)) as error:
            function(**arguments | {name: ARRAYS[name][i]})
        message = str(error.value)
        assert ("method" if function is get_method else name) in message
        assert len(message.splitlines()) == 1

    check_each(check, WRONG_CALLS, name=lambda case: f"{case[0].__name__}, {case[2]}, {case[3]}")
