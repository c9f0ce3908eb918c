"""The data of a run: sizes, disjoint parts, corruption, and the seed's streams."""

import jax
import numpy as np
import pytest

from l2rw_jax import data
from l2rw_jax.training import ConfigError, default_config
from l2rw_jax.training.prepare import prepare


def _config(**fields):
    config = default_config()
    config.update_from_flattened_dict({"noise.kind": "uniform", "noise.ratio": 0.4} | fields)
    return config


def test_parts_are_disjoint_and_complete_and_only_training_labels_are_corrupted():
    run_data, num_classes = prepare(_config(clean_size=50, val_size=100))
    true = data.load("digits").train_labels
    train, clean, val = (part.index for part in (run_data.train, run_data.clean, run_data.val))
    assert num_classes == 10
    assert (len(clean), len(val)) == (50, 100)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, clean, val])), np.arange(1437))
    np.testing.assert_array_equal(run_data.clean.label, true[clean])
    np.testing.assert_array_equal(np.bincount(run_data.clean.label), np.full(10, 5))
    np.testing.assert_array_equal(run_data.corrupted, run_data.train.label != true[train])
    assert run_data.corrupted.sum() == round(0.4 * len(train))
    assert (run_data.val.label != true[val]).sum() == 40  # noisy like the training set


def test_more_noise_leaves_the_split_as_it_is():
    little, _ = prepare(_config(**{"noise.ratio": 0.1}))
    much, _ = prepare(_config(**{"noise.ratio": 0.5}))
    np.testing.assert_array_equal(little.train.index, much.train.index)


def test_seeds_draw_other_splits_and_the_same_seed_the_same():
    first, again, other = (prepare(_config(seed=seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train.label, again.train.label)
    assert not np.array_equal(first.clean.index, other.clean.index)
    assert not np.array_equal(first.corrupted, other.corrupted)


def test_classes_are_renumbered_and_the_last_is_the_majority():
    fields = {"classes": (4, 9), "clean_size": 10, "clean_batch_size": 10, "noise.kind": "none"}
    fields |= {"imbalance.kind": "majority", "imbalance.share": 0.9, "imbalance.total": 100}
    run_data, num_classes = prepare(_config(batch_size=20, **fields))
    true = data.load("digits")
    assert num_classes == 2
    # 90 nines and 10 fours, five of each in the clean set.
    np.testing.assert_array_equal(np.bincount(run_data.train.label), [5, 85])
    np.testing.assert_array_equal(np.bincount(run_data.clean.label), [5, 5])
    fours = run_data.train.index[run_data.train.label == 0]
    np.testing.assert_array_equal(true.train_labels[fours], np.full(5, 4))
    np.testing.assert_array_equal(
        np.bincount(run_data.test_labels), np.bincount(true.test_labels)[[4, 9]]
    )
    assert len(run_data.test_images) == len(run_data.test_labels)
    # A method without other use for the clean images has all 100 to train on.
    with_clean, _ = prepare(_config(batch_size=20, clean_in_train=True, **fields))
    np.testing.assert_array_equal(np.bincount(with_clean.train.label), [10, 90])
    assert not set(run_data.clean.index) & set(run_data.train.index)
    assert set(with_clean.train.index) == {*run_data.clean.index, *run_data.train.index}


def test_clean_images_that_are_trained_on_keep_their_labels():
    fields = {"noise.kind": "background", "noise.ratio": 0.9, "clean_in_train": True}
    run_data, num_classes = prepare(_config(**fields))
    without, _ = prepare(_config(**fields | {"clean_in_train": False}))
    size = len(run_data.clean.index)
    np.testing.assert_array_equal(run_data.train.index[-size:], run_data.clean.index)
    np.testing.assert_array_equal(run_data.train.label[-size:], run_data.clean.label)
    np.testing.assert_array_equal(run_data.train.label[:-size], without.train.label)
    assert len(run_data.corrupted) == len(run_data.train.label)
    assert not run_data.corrupted[-size:].any()
    added = np.diag(np.bincount(run_data.clean.label, minlength=num_classes))
    np.testing.assert_array_equal(run_data.confusion - without.confusion, added)


def test_a_long_tail_can_be_combined_with_background_noise():
    fields = {"imbalance.kind": "long_tail", "imbalance.share": 0.1, "noise.kind": "background"}
    run_data, _ = prepare(_config(clean_size=20, clean_batch_size=20, **fields))
    true = data.load("digits").train_labels[run_data.train.index]
    counts = np.bincount(true)
    assert counts[0] > 8 * counts[9]
    np.testing.assert_array_equal(np.unique(run_data.train.label[run_data.corrupted]), [0])
    assert run_data.corrupted.sum() == round(0.4 * (true != 0).sum())


def _with_given(path, given):
    """Digits as an npz, with these given labels."""
    digits = data.load("digits")
    np.savez(
        path,
        train_images=digits.train_images,
        train_labels=digits.train_labels,
        test_images=digits.test_images,
        test_labels=digits.test_labels,
        crowd=given,
    )
    return {
        "dataset": f"npz:{path}",
        "noise.kind": "given",
        "noise.ratio": 0.0,
        "noise.column": "crowd",
    }


@pytest.mark.parametrize("clean_in_train", [False, True])
def test_given_noise_is_what_made_noise_would_be(tmp_path, clean_in_train):
    sizes = {"clean_size": 50, "val_size": 100, "clean_in_train": clean_in_train}
    made, _ = prepare(_config(**sizes))
    given = data.load("digits").train_labels.copy()
    given[made.clean.index] = (given[made.clean.index] + 1) % 10  # which nothing may read
    noisy = made.train.index[made.corrupted]
    given[noisy] = made.train.label[made.corrupted]
    given[made.val.index] = made.val.label
    got, num_classes = prepare(_config(**sizes | _with_given(tmp_path / "digits.npz", given)))
    assert num_classes == 10
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(made), strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


def test_of_given_noise_a_class_is_selected_by_both_labels(tmp_path):
    true = data.load("digits").train_labels
    given = true.copy()
    fours, nines = (np.flatnonzero(true == label) for label in (4, 9))
    given[fours[:20]], given[nines[:30]], given[nines[30:40]] = 9, 4, 3
    given[np.flatnonzero(true == 3)[:5]] = 4
    fields = {"classes": (9, 4), "clean_size": 10, "clean_batch_size": 10, "batch_size": 20}
    run_data, num_classes = prepare(_config(**fields | _with_given(tmp_path / "a.npz", given)))
    assert num_classes == 2
    kept = np.concatenate([fours, nines[:30], nines[40:]])
    index = np.concatenate([run_data.train.index, run_data.clean.index])
    np.testing.assert_array_equal(np.sort(index), np.sort(kept))
    np.testing.assert_array_equal(run_data.train.label == 1, given[run_data.train.index] == 4)
    np.testing.assert_array_equal(run_data.clean.label == 1, true[run_data.clean.index] == 4)
    wrong = given[run_data.train.index] != true[run_data.train.index]
    np.testing.assert_array_equal(run_data.corrupted, wrong)
    assert run_data.confusion[0, 1] == (wrong & (run_data.train.label == 1)).sum() > 20


def test_classes_that_the_test_set_lacks_are_refused(tmp_path):
    images, labels = np.zeros((40, 2, 2), np.uint8), np.arange(40) % 4
    arrays = {"train_images": images, "train_labels": labels, "test_images": images[:2]}
    np.savez(tmp_path / "a.npz", **arrays, test_labels=labels[:2])
    fields = {"dataset": f"npz:{tmp_path}/a.npz", "classes": (2, 3)}
    with pytest.raises(ConfigError, match=r"^config.classes: got \(2, 3\), of which the test set"):
        prepare(_config(**fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dataset": "digit"}, r"config.dataset=digit: .*'digits'"),
        ({"clean_size": 5000}, r"clean_size 5000"),
        ({"clean_size": 1400}, r"class \d has \d+ examples but 140 are needed"),
        ({"batch_size": 5000}, r"config.batch_size: got 5000, but only 1337 images are left"),
        ({"classes": (4,)}, r"config.classes is \(4,\): give two or more of 0..9"),
        ({"classes": (4, 4)}, r"config.classes is \(4, 4\): give two or more of 0..9"),
        ({"classes": (4, 10)}, r"config.classes is \(4, 10\): give two or more of 0..9"),
        ({"noise.kind": "background", "noise.background": 10}, r"background is 10"),
        ({"imbalance.kind": "majority"}, r"total is 0"),
        (
            {"noise.kind": "given", "noise.column": "crowd"},
            r"config.noise.column=crowd: column is 'crowd', but digits has no second labels",
        ),
    ],
)
def test_what_the_data_cannot_give_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        prepare(_config(**fields))
