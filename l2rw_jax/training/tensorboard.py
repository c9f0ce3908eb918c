"""A run's metrics for TensorBoard, by tensorboardX; metrics.jsonl stays the record."""

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from l2rw_jax.training.resolve import Run
from l2rw_jax.training.state import mean_over_draws
from l2rw_jax.training.workdir import TENSORBOARD, written

Board = Callable[[Mapping[str, Any], Mapping[str, Any], tuple[Any, Any]], None]


@contextlib.contextmanager
def open_board(run: Run, workdir: Path, start: int) -> Iterator[Board]:
    """Yields ``log(line, classes, (weight_sum, weight_count))``.

    It writes a line of metrics as scalars, and with an evaluation's classes the weights of the
    examples as histograms and the test set's confusion as a picture. A run that continues from
    step ``start`` continues in the same log; later steps in it are dropped.
    """
    # Slow to import, and in the extra `tensorboard`.
    from tensorboardX import summary, utils
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.record_writer import RecordWriter

    num_classes = len(run.data.confusion)
    corrupted, labels = np.asarray(run.data.corrupted), np.asarray(run.data.test_labels)
    folder = workdir / TENSORBOARD

    def log(line: Mapping[str, Any], classes: Mapping[str, Any], weights: tuple[Any, Any]) -> None:
        step = line["step"]
        told = [
            summary.scalar(name, value)
            for name, value in line.items()
            if name != "step" and np.isfinite(value)
        ]
        if classes:
            means = mean_over_draws(*weights) * run.batches.batch_size  # 1 is an equal weight
            for name, chosen in (("uncorrupted", ~corrupted), ("corrupted", corrupted)):
                if (drawn := chosen & (weights[1] > 0)).any():
                    told.append(summary.histogram(f"weight/{name}", means[drawn], "auto"))
            figure = _confusion(labels, classes["test"], num_classes)
            told.append(summary.image("test_confusion", utils.figure_to_image(figure)))
        write(Event(summary=each, step=step) for each in told)

    def write(events: Iterator[Any]) -> None:
        with written(folder):
            for event in events:
                event.wall_time = time.time()
                records.write(event.SerializeToString())
            records.flush()

    # Not by tensorboardX's writer, whose thread would wait for ever on a full disk.
    with written(folder):
        folder.mkdir(exist_ok=True)
        names = (folder / f"events.out.tfevents.{n:06d}" for n in itertools.count())
        records = RecordWriter(str(next(name for name in names if not os.path.lexists(name))))
    try:
        write(iter([Event(file_version="brain.Event:2")]))
        session = SessionLog(status=SessionLog.START)
        write(iter([Event(session_log=session, step=start + 1)]))
        yield log
    finally:
        with contextlib.suppress(OSError):  # a full disk has been told of
            records.close()


def _confusion(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> Any:
    from matplotlib.figure import Figure
    from sklearn.metrics import ConfusionMatrixDisplay

    figure = Figure(figsize=(6, 6), layout="tight")
    ConfusionMatrixDisplay.from_predictions(
        labels,
        predictions,
        labels=np.arange(num_classes),
        normalize="true",
        include_values=num_classes <= 20,
        values_format=".2f",
        colorbar=False,
        ax=figure.add_subplot(),
    )
    return figure
