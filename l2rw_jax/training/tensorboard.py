"""A run's metrics for TensorBoard, by tensorboardX; metrics.jsonl stays the record."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from l2rw_jax.training.resolve import Run
from l2rw_jax.training.state import mean_weights


@contextlib.contextmanager
def open_board(
    run: Run, workdir: Path, start: int
) -> Iterator[Callable[[Mapping[str, Any], Mapping[str, Any], tuple[Any, Any]], None]]:
    """Yields ``log(line, classes, (weight_sum, weight_count))``.

    It writes a line of metrics as scalars, and with an evaluation's classes the weights of the
    examples as histograms and the test set's confusion as a picture. A run that goes on from step
    ``start`` goes on in the same log: what that had of later steps is dropped.
    """
    # Slow to import, and the last of the extra `tensorboard`.
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay
    from tensorboardX import SummaryWriter

    num_classes = len(run.data.confusion)
    corrupted, labels = np.asarray(run.data.corrupted), np.asarray(run.data.test_labels)

    def log(line: Mapping[str, Any], classes: Mapping[str, Any], weights: tuple[Any, Any]) -> None:
        step = line["step"]
        for name, value in line.items():
            if name != "step" and np.isfinite(value):
                writer.add_scalar(name, value, step)
        if not classes:
            return
        means = mean_weights(*weights) * run.batches.batch_size  # 1 is an equal weight
        for name, chosen in (("uncorrupted", ~corrupted), ("corrupted", corrupted)):
            if (drawn := chosen & (weights[1] > 0)).any():
                writer.add_histogram(f"weight/{name}", means[drawn], step)
        figure = Figure(figsize=(6, 6), layout="tight")
        ConfusionMatrixDisplay.from_predictions(
            labels,
            classes["test"],
            labels=np.arange(num_classes),
            normalize="true",
            include_values=num_classes <= 20,
            values_format=".2f",
            colorbar=False,
            ax=figure.add_subplot(),
        )
        writer.add_figure("test_confusion", figure, step)

    with SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1) as writer:
        yield log
