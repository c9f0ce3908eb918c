"""From a config to the data of a run, on the host: load, thin, split, corrupt."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from l2rw_jax import data
from l2rw_jax.training.errors import ConfigError


class Part(NamedTuple):
    """Some examples of a set of images, by index.

    Attributes:
      index: rows of the images.  # shape=(n,), dtype=int32
      label: labels to train on or to test by; or each class's probability.  # shape=(n,) int32 or
        (n, K) float32
      bounds: how often each is drawn, as ``data.draw_bounds`` has it; None for equally often.
    """

    index: Any
    label: Any
    bounds: Any = None


class RunData(NamedTuple):
    """The data of a run.

    Attributes:
      images: all images of the training set, uint8; or features, floats of shape (N, 1, 1, d).
      train: what is trained on, labels corrupted.
      corrupted: whether a training label is not the true one.  # shape=(n,), dtype=bool
      confusion: how many training examples of each class have which label.  # shape=(K, K)
      clean: the trusted examples.
      val: the hyper-validation set, corrupted like the training set.
      test_images: images of the test set.  # shape=(M, h, w, c), as images
      test_labels: their labels.  # shape=(M,), dtype=int32
    """

    images: Any
    train: Part
    corrupted: Any
    confusion: Any
    clean: Part
    val: Part
    test_images: Any
    test_labels: Any


# Which arrays each seed has of its own (axis 0), and which they share (None).
SEED_AXES = RunData(
    images=None,
    train=Part(0, 0),
    corrupted=0,
    confusion=0,
    clean=Part(0, 0),
    val=Part(0, 0),
    test_images=None,
    test_labels=None,
)


def prepare(config: ConfigDict) -> tuple[RunData, int]:
    """Loads and splits the data of a run; everything random in it follows from ``config.seed``.

    Args:
      config: a validated config.

    Returns:
      ``(RunData, num_classes)``, the arrays on the host.

    Raises:
      ConfigError: the data cannot be loaded, or not split as the config asks.
    """
    source, column = f"config.dataset={config.dataset[:80]}", config.noise.column
    if column:
        source += f", config.noise.column={column[:80]}"
    with _refused(f"{source}: "):
        dataset = data.load(
            config.dataset,
            data_dir=config.data_dir or None,
            lazy=config.stream,
            column=column or None,
        )
        places = _places(config.classes, dataset.num_classes)
    num_classes = len(config.classes) or dataset.num_classes
    labels, test_labels = places[dataset.train_labels], places[dataset.test_labels]
    given = labels if dataset.given_labels is None else places[dataset.given_labels]
    # With a selection of classes, keep an example only if both its labels are in it: people who
    # collect these classes alone give no other label.
    chosen = np.flatnonzero((labels >= 0) & (given >= 0))
    labels, given = labels[chosen], given[chosen]
    test_chosen = np.flatnonzero(test_labels >= 0)
    if not len(test_chosen):
        raise ConfigError(
            f"config.classes: got {tuple(config.classes)}, of which the test set has no example; "
            "takes classes that it has."
        )
    # One stream each, so that more noise, for example, leaves the split as it is.
    imbalance_seed, split_seed, noise_seed, val_noise_seed = (
        int(seed) for seed in np.random.SeedSequence(config.seed).generate_state(4)
    )

    with _refused("config.imbalance."):
        kept = _thin(config.imbalance, labels, num_classes, imbalance_seed)
    chosen, labels, given = chosen[kept], labels[kept], given[kept]
    with _refused("config."):
        train, clean, val = data.split(
            labels,
            clean_size=config.clean_size,
            val_size=config.val_size,
            num_classes=num_classes,
            balanced=config.clean_balanced,
            seed=split_seed,
        )
    if config.batch_size > len(train):
        raise ConfigError(
            f"config.batch_size: got {config.batch_size}, but only {len(train)} images are left to "
            "train on; takes at most as many."
        )
    with _refused("config.noise."):
        noisy, corrupted = _corrupt(
            config.noise, labels[train], given[train], num_classes, noise_seed
        )
    if config.clean_in_train:
        train = np.concatenate([train, clean])
        noisy = np.concatenate([noisy, labels[clean]])
        corrupted = np.concatenate([corrupted, np.zeros(len(clean), bool)])
    val_noisy = labels[val]
    if config.val_size:
        val_noisy, _ = _corrupt(config.noise, labels[val], given[val], num_classes, val_noise_seed)

    def part(index: np.ndarray, label: np.ndarray) -> Part:
        return Part(chosen[index].astype(np.int32), label.astype(np.int32))

    run_data = RunData(
        images=dataset.train_images,
        train=part(train, noisy),
        corrupted=corrupted,
        confusion=_confusion(labels[train], noisy, num_classes),
        clean=part(clean, labels[clean]),
        val=part(val, val_noisy),
        test_images=dataset.test_images[test_chosen] if config.classes else dataset.test_images,
        test_labels=test_labels[test_chosen],
    )
    return run_data, num_classes


@contextlib.contextmanager
def _refused(prefix: str) -> Iterator[None]:
    """An error of the data functions, as a mistake in the config."""
    try:
        yield
    except (ValueError, TypeError, OSError, data.ReadError) as error:
        raise ConfigError(f"{prefix}{error}") from error


def prepare_seeds(config: ConfigDict) -> tuple[RunData, int]:
    """The data of ``config.seeds`` seeds as one, what depends on the seed stacked.

    Args:
      config: a validated config.

    Returns:
      ``(RunData, num_classes)``; of one seed as ``prepare`` returns it, of more with a leading
      axis on the leaves that ``SEED_AXES`` has a 0 for.

    Raises:
      ConfigError: as ``prepare`` does.
    """
    if config.seeds == 1:
        return prepare(config)
    seeds = range(config.seed, config.seed + config.seeds)
    prepared = [prepare(with_seed(config, seed)) for seed in seeds]
    run_data = jax.tree.map(
        lambda axis, *leaves: leaves[0] if axis is None else np.stack(leaves),
        SEED_AXES,
        *(run_data for run_data, _ in prepared),
        is_leaf=lambda axis: axis is None,
    )
    return run_data, prepared[0][1]


def with_seed(config: ConfigDict, seed: int) -> ConfigDict:
    """A copy of ``config`` with another seed."""
    config = copy.deepcopy(config)
    config.seed = seed
    return config


def without_train_images(run_data: RunData) -> RunData:
    """The same data with only the images that are not streamed: clean, validation, test.

    ``train.index`` still counts the rows of all images.
    """
    kept = np.concatenate([run_data.clean.index, run_data.val.index])
    clean, val = np.split(np.arange(len(kept), dtype=np.int32), [len(run_data.clean.index)])
    return run_data._replace(
        images=np.asarray(run_data.images[kept]),
        clean=run_data.clean._replace(index=clean),
        val=run_data.val._replace(index=val),
    )


def _confusion(labels: np.ndarray, noisy: np.ndarray, num_classes: int) -> np.ndarray:
    counts = np.zeros((num_classes, num_classes), np.float32)
    np.add.at(counts, (labels, noisy), 1)
    return counts


def _places(classes: Sequence[int], num_classes: int) -> np.ndarray:
    """The new label of each class, its place in ``classes``; -1 of the classes left out."""
    if not classes:
        return np.arange(num_classes, dtype=np.int32)
    distinct = len(set(classes)) == len(classes) > 1
    if not distinct or not all(0 <= label < num_classes for label in classes):
        raise ValueError(f"config.classes is {classes}: give two or more of 0..{num_classes - 1}")
    places = np.full(num_classes, -1, np.int32)
    places[list(classes)] = np.arange(len(classes))
    return places


def _thin(imbalance: ConfigDict, labels: np.ndarray, num_classes: int, seed: int) -> np.ndarray:
    if imbalance.kind == "majority":
        return data.majority_subset(
            labels, imbalance.share, majority=num_classes - 1, total=imbalance.total, seed=seed
        )
    if imbalance.kind == "long_tail":
        return data.long_tail_subset(labels, imbalance.share, num_classes=num_classes, seed=seed)
    return np.arange(len(labels))


def _corrupt(
    noise: ConfigDict, labels: np.ndarray, given: np.ndarray, num_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    if noise.kind == "uniform":
        return data.uniform_flip(labels, noise.ratio, num_classes=num_classes, seed=seed)
    if noise.kind == "background":
        return data.background_flip(
            labels,
            noise.ratio,
            background=noise.background,
            num_classes=num_classes,
            seed=seed,
        )
    return given, given != labels  # the data set's own second labels; without any, the true ones
