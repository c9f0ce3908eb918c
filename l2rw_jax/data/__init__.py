"""Data: loading on the host, label corruption, clean/validation splits, augmentation.

Everything up to the split works on numpy arrays with an integer seed; augmentation and index
sampling are JAX functions of a key, made to run inside the compiled training step.
"""

from l2rw_jax import _extras

_extras.require("train", "PIL", "absl", "grain", "sklearn", "tensorflow_datasets")

from l2rw_jax.data._records import ReadError
from l2rw_jax.data.augment import (
    augment,
    draw_bounds,
    sample,
    sample_balanced,
    sample_by_share,
    sample_without_replacement,
    to_float,
)
from l2rw_jax.data.corrupt import (
    background_flip,
    long_tail_subset,
    majority_subset,
    uniform_flip,
)
from l2rw_jax.data.load import Dataset, load
from l2rw_jax.data.split import Split, split
from l2rw_jax.data.stream import stream

__all__ = [
    "Dataset",
    "ReadError",
    "Split",
    "augment",
    "background_flip",
    "draw_bounds",
    "load",
    "long_tail_subset",
    "majority_subset",
    "sample",
    "sample_balanced",
    "sample_by_share",
    "sample_without_replacement",
    "split",
    "stream",
    "to_float",
    "uniform_flip",
]
