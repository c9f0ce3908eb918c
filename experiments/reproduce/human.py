"""Writes the data of ``--target=human`` as one file, from a folder of features and labels.

python -m experiments.reproduce.human --source=human/ --output=runs/human.npz

The folder holds ``embeddings_train.npy`` and ``embeddings_test.npy``, ``[N, d]`` floats, and
``labels_train.csv`` (columns human_label, true_label) and ``labels_test.csv`` (true_label), a row
for each row of the features.
"""

import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from absl import flags

from experiments import programs
from l2rw_jax._files import write_whole
from l2rw_jax.training import ConfigError

SOURCE = flags.DEFINE_string("source", "human", "Folder of the features and labels.")
OUTPUT = flags.DEFINE_string("output", "runs/human.npz", "The file to write.")
ARRAYS = ("train_features", "train_labels", "given_labels", "test_features", "test_labels")


def main():
    """Reads, checks and writes."""
    source, output = Path(SOURCE.value), Path(OUTPUT.value)
    if output.exists() and not _is_own(output):
        raise ConfigError(f"--output={output}: exists and holds something else; give a new name.")
    try:
        train, test = (np.load(source / f"embeddings_{part}.npy") for part in ("train", "test"))
        given, true = (
            _column(source / "labels_train.csv", f"{kind}_label") for kind in ("human", "true")
        )
        test_true = _column(source / "labels_test.csv", "true_label")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--source={source}: {error}") from error
    classes = sorted(set(true))
    codes = {name: code for code, name in enumerate(classes)}
    labels = [np.array([codes[name] for name in names]) for names in (true, given, test_true)]
    arrays = dict(zip(ARRAYS, (train, labels[0], labels[1], test, labels[2]), strict=True))
    file = io.BytesIO()
    np.savez(file, **arrays)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_whole(output, file.getvalue())
    except OSError as error:
        raise ConfigError(f"--output={output}: cannot be written: {error.strerror}.") from None
    print(f"{OUTPUT.value}: {len(train):,} and {len(test):,} rows, {len(classes)} classes")


def _is_own(path):
    """Whether an earlier call wrote the file."""
    try:
        with np.load(path) as file:
            return set(file.files) == set(ARRAYS)
    except (OSError, ValueError, AttributeError, EOFError, zipfile.BadZipFile):
        return False


def _column(path, name):
    table = pd.read_csv(path, dtype=str)
    if name not in table:
        raise ValueError(f"{path.name} has no column {name}; it has {', '.join(table)}")
    return table[name].tolist()


if __name__ == "__main__":
    programs.run(main)
