"""What the data's functions cannot use is refused in one line that names the argument."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from looped import check_each

from l2rw_jax import data

KEY = jax.random.key(0)
LABELS = np.array([0, 1, 0, 1, 0, 1, 0, 1])
COUNTS = np.array([4, 4])
IMAGES = np.zeros((2, 4, 4, 1), np.uint8)

GOOD = {
    data.uniform_flip: dict(labels=LABELS, ratio=0.5, num_classes=2, seed=0),
    data.background_flip: dict(labels=LABELS, ratio=0.5, background=0, num_classes=2, seed=0),
    data.majority_subset: dict(labels=LABELS, share=0.5, majority=1, total=4, seed=0),
    data.long_tail_subset: dict(labels=LABELS, ratio=0.5, num_classes=2, seed=0),
    data.split: dict(labels=LABELS, clean_size=2, val_size=2, num_classes=2, seed=0),
    data.augment: dict(key=KEY, images=IMAGES, pad=1, flip=True),
    data.to_float: dict(images=IMAGES, low=0.0, high=1.0),
    data.sample: dict(key=KEY, n=3, size=4),
    data.sample_without_replacement: dict(key=KEY, n=4, size=3),
    data.sample_balanced: dict(key=KEY, labels=LABELS, counts=COUNTS, size=4),
    data.load: dict(name="digits"),
}
INTEGERS = [True, 2.0, 1.5, float("nan"), "2", None, np.array(2), np.array([2, 2]), -1]
RATIOS = [float("nan"), -0.1, 1.5, float("inf"), True, "0.5", None, np.array(0.5), 0.5j]
BAD = {
    "labels": [
        np.array(0),
        LABELS.astype(float),
        LABELS.astype(bool),
        LABELS[None],
        LABELS - 1,
        np.array(["a", "b"]),
        [[0], [1, 0]],
        None,
        7,
    ],
    "seed": INTEGERS,
    "ratio": RATIOS,
    "share": RATIOS,
    "num_classes": [*INTEGERS, 0, 1],
    "background": [*INTEGERS, 2],
    "majority": INTEGERS,
    "total": [*INTEGERS, 0],
    "clean_size": INTEGERS,
    "val_size": INTEGERS,
    "n": [*INTEGERS, 0, 2**31],
    "size": INTEGERS,
    "pad": INTEGERS,
    "flip": [1, "no", None],
    "balanced": [1, "no", None],
    "lazy": [1, "no", None],
    "key": [0, None, "key", jax.random.split(KEY), np.zeros(2), jnp.zeros((), jnp.uint32)],
    "images": [IMAGES.astype(np.int32), IMAGES.astype(np.int8), IMAGES.tolist(), None],
    "low": [float("nan"), float("inf"), "0", None],
    "high": [float("nan"), float("inf"), "0", None],
    "dtype": ["int8", "float23", None, 5],
    "counts": [COUNTS[None], COUNTS.tolist(), np.array([5, 3]), np.array([4.5, 3.5]), None],
    "name": ["", None, 5, "a\nb", "di gits", "x" * 5000],
    "data_dir": [5, b"/data"],
    "cache_dir": [5, b"/data"],
}
MORE = {data.to_float: ["dtype"], data.split: ["balanced"]}
MORE[data.load] = ["lazy", "data_dir", "cache_dir"]
CASES = [
    (function, argument, value)
    for function, arguments in GOOD.items()
    for argument in [*arguments, *MORE.get(function, [])]
    for value in BAD[argument]
]


def test_good_arguments_pass():
    check_each(lambda function: function(**GOOD[function]), [(function,) for function in GOOD])


def test_a_bad_argument_is_refused_by_name():
    def check(function, argument, value):
        with pytest.raises(ValueError) as error:
            function(**(GOOD[function] | {argument: value}))
        message = str(error.value)
        assert message.startswith((f"{argument} is ", f"{argument} span ", f"{argument} has "))
        assert ": give " in message and "\n" not in message and len(message) < 200

    check_each(check, CASES)


LINES = [
    (data.sample, {"n": 0}, "n is 0: give an integer in 1..2147483647"),
    (
        data.sample_without_replacement,
        {"n": 3, "size": 4},
        "size is 4: give at most n=3 when drawing without replacement",
    ),
    (data.uniform_flip, {"seed": None}, "seed is None: give an integer of at least 0"),
    (data.split, {"val_size": 1.5}, "val_size is 1.5: give an integer of at least 0"),
    (
        data.augment,
        {"images": IMAGES[0]},
        "images is uint8 [4, 4, 1]: give uint8 or floats of shape [b, H, W, C]",
    ),
    (
        data.to_float,
        {"images": np.zeros(3, int)},
        "images is int64 [3]: give uint8 or floats of any shape",
    ),
    (data.uniform_flip, {"labels": []}, "labels is float64 [0]: give integers of shape [n]"),
    (
        data.sample_balanced,
        {"counts": np.array([3, 4])},
        "counts has 3 examples of class 0, labels hold 4: give how often each class is among "
        "the labels",
    ),
    (
        data.sample_balanced,
        {"labels": LABELS[:0]},
        "n is 0: give an integer in 1..2147483647",
    ),
]


def test_the_line_says_what_came_and_what_to_give():
    def check(function, changes, message):
        with pytest.raises(ValueError) as error:
            function(**(GOOD[function] | changes))
        assert str(error.value) == message

    check_each(check, LINES)


def test_narrow_numbers_are_taken_at_their_value():
    narrow = dict(clean_size=np.uint8(200), val_size=np.uint8(100), num_classes=np.uint8(3), seed=0)
    with pytest.raises(ValueError, match=r"^clean_size 200 and val_size 100 leave none of 300"):
        data.split(np.arange(300) % 3, **narrow)
    parts = data.split(np.arange(900) % 3, **narrow)
    assert [len(part) for part in parts] == [600, 200, 100]
    labels = np.zeros(180_000, int)
    _, corrupted = data.uniform_flip(labels, np.float16(0.5), num_classes=np.uint8(3), seed=0)
    assert corrupted.sum() == 90_000


def test_one_class_alone_can_be_corrupted_but_not_balanced():
    ones = np.ones(20, int)
    assert data.uniform_flip(ones, 0.5, num_classes=2, seed=0)[1].sum() == 10
    with pytest.raises(ValueError, match=r"^class 0 has 0 examples but 2 are needed"):
        data.split(ones, clean_size=4, val_size=4, num_classes=2, seed=0)
    with pytest.raises(ValueError, match=r"^class 0 has 0 examples but 1 are needed"):
        data.long_tail_subset(ones, 0.5, num_classes=2, seed=0)


def test_under_jit_shapes_and_dtypes_are_checked_and_values_are_not():
    draw = jax.jit(data.sample_balanced, static_argnames="size")
    assert draw(KEY, LABELS, COUNTS + 1, size=3).shape == (3,)
    with pytest.raises(ValueError, match=r"^labels is float32 \[8\]: give integers of shape"):
        draw(KEY, LABELS.astype(np.float32), COUNTS, size=3)
    with pytest.raises(ValueError, match=r"^images is int32 \[2, 4, 4, 1\]: give uint8"):
        jax.jit(data.augment)(KEY, IMAGES.astype(np.int32))
    with pytest.raises(ValueError, match=r"^size is int32 \[\]: give an integer in 0"):
        jax.jit(data.sample, static_argnames="n")(KEY, n=3, size=4)


def test_traced_labels_are_refused_on_the_host():
    with pytest.raises(
        ValueError, match=r"^labels is int32 \[8\]: give integers of shape .*traced"
    ):
        jax.jit(lambda x: data.uniform_flip(x, 0.5, num_classes=2, seed=0))(LABELS)


def test_both_kinds_of_key_are_taken():
    old = data.sample(jax.random.PRNGKey(0), 10, 4)
    np.testing.assert_array_equal(old, data.sample(KEY, 10, 4))
