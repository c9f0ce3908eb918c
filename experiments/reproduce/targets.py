"""What each table and figure holds: its rows and columns, and the paper's own values.

A row's label is the paper's, in its notation: "+ ES" is the shorter schedule, "+ FT" some steps on
the clean set at the end.
"""

from typing import Any, NamedTuple


class Row(NamedTuple):
    """A method as a table's row or a figure's line.

    Attributes:
      label: the paper's name for it.
      method: its name in ``l2rw_jax.methods``; "" where the paper's value is quoted and not run.
      paper: the paper's value for each column of the target, in percent.
      fields: config fields of its own.
      seeds: how many, where they are not the scale's.
    """

    label: str
    method: str = ""
    paper: tuple[str, ...] = ()
    fields: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to
    seeds: int | None = None

    @property
    def short(self):
        """Whether it trains on the shorter schedule."""
        return "+ ES" in self.label

    @property
    def finetune(self):
        """Whether it ends with steps on the clean set."""
        return "+ FT" in self.label


class Column(NamedTuple):
    """A setting as a table's column or a place on a figure's axis: a config, and fields over it."""

    label: str
    config: str
    fields: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to


class Target(NamedTuple):
    """A table or a figure.

    Attributes:
      title: what it shows.
      family: the protocol, which the scales say in numbers.
      columns: all of them.
      rows: all of them.
      axis: the columns' meaning where they are a figure's axis.
      error: whether it shows errors, not accuracies.
      metrics: the metric of each column by its name; more than one, by their own names.
      fewer: the labels of the columns at a scale that lacks some of them.
      against: the row that the others are compared with, seed by seed; "" for none.
    """

    title: str
    family: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    axis: str = ""
    error: bool = False
    metrics: dict[str, str] = {"": "test_accuracy"}  # noqa: RUF012 - never written to
    fewer: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - never written to
    against: str = ""


def _over(config, field, values, form="{:g}"):
    return tuple(Column(form.format(value), config, {field: value}) for value in values)


# Other methods train on the clean set too, so that ours sees no more data than they do.
_CLEAN_TOO = {"clean_in_train": True}
_CIFAR_10: dict[str, tuple[str, ...]] = {"cpu": ("CIFAR-10",)}


def _made(kind, *ratios):
    """Columns of noise that is made on the true labels of the human data."""
    return tuple(
        Column(
            f"{kind} {ratio:g}",
            "features",
            {"noise.kind": kind, "noise.column": "", "noise.ratio": ratio},
        )
        for ratio in ratios
    )


# Not in the paper: every method that docs/explanation/choosing.md compares.
_METHODS = (
    Row("baseline", "baseline"),
    Row("baseline + clean", "baseline", fields=_CLEAN_TOO),
    Row("clean only", "clean_only"),
    Row("label smoothing", "label_smoothing"),
    Row("GCE", "gce"),
    Row("1/(loss + 0.3)", "inverse_loss"),
    Row("l2rw", "l2rw"),
    Row("l2rw, head only", "l2rw", fields={"l2rw.mask": "output/*"}),
    Row("Meta-Weight-Net", "mwnet"),
    Row("groups", "groups"),
    Row("evidence", "evidence"),
)

TARGETS = {
    "table1": Target(
        "Table 1: test accuracy (%) with 40 % UniformFlip noise",
        "uniform",
        (Column("CIFAR-10", "cifar10_uniform"), Column("CIFAR-100", "cifar100_uniform")),
        (
            Row("Baseline", "baseline", ("67.97 ± 0.62", "50.66 ± 0.24")),
            Row("Reed-Hard", "reed_hard", ("69.66 ± 1.21", "51.34 ± 0.17")),
            Row("S-Model", "s_model", ("70.64 ± 3.09", "49.10 ± 0.58")),
            Row("MentorNet", "", ("76.6", "56.9")),
            Row("Random", "random", ("86.06 ± 0.32", "58.01 ± 0.37")),
            Row("Clean only", "clean_only", ("46.64 ± 3.90", "9.94 ± 0.82")),
            Row("Baseline + FT", "baseline", ("78.66 ± 0.44", "54.52 ± 0.40")),
            Row("MentorNet + FT", "", ("78", "59")),
            Row("Random + FT", "random", ("86.55 ± 0.24", "58.54 ± 0.52")),
            Row("Ours", "l2rw", ("86.92 ± 0.19", "61.34 ± 2.06")),
            Row("No noise", "baseline", ("95.5", "78.2"), {"noise.ratio": 0.0}, seeds=1),
        ),
        fewer=_CIFAR_10,
    ),
    "table2": Target(
        "Table 2: test accuracy (%) with 40 % BackgroundFlip noise",
        "background",
        (Column("CIFAR-10", "cifar10_background"), Column("CIFAR-100", "cifar100_background")),
        (
            Row("Baseline", "baseline", ("59.54 ± 2.16", "37.82 ± 0.69")),
            Row("Baseline + ES", "baseline", ("64.96 ± 1.19", "39.08 ± 0.65")),
            Row("Random", "random", ("69.51 ± 1.36", "36.56 ± 0.44")),
            Row("Weighted", "weighted", ("79.17 ± 1.36", "36.56 ± 0.44")),
            Row("Reed-Soft + ES", "reed_soft", ("63.47 ± 1.05", "38.44 ± 0.90")),
            Row("Reed-Hard + ES", "reed_hard", ("65.22 ± 1.06", "39.03 ± 0.55")),
            Row("S-Model", "s_model", ("58.60 ± 2.33", "37.02 ± 0.34")),
            Row("S-Model + Conf", "s_model_conf", ("68.93 ± 1.09", "46.72 ± 1.87")),
            Row("S-Model + Conf + ES", "s_model_conf", ("79.24 ± 0.56", "54.50 ± 2.51")),
            Row("Clean only", "clean_only", ("15.90 ± 3.32", "8.06 ± 0.76")),
            Row("Baseline + FT", "baseline", ("82.82 ± 0.93", "54.23 ± 1.75")),
            Row("Baseline + ES + FT", "baseline", ("85.19 ± 0.46", "55.22 ± 1.40")),
            Row("Weighted + FT", "weighted", ("85.98 ± 0.47", "53.99 ± 1.62")),
            Row("S-Model + Conf + FT", "s_model_conf", ("81.90 ± 0.85", "53.11 ± 1.33")),
            Row("S-Model + Conf + ES + FT", "s_model_conf", ("85.86 ± 0.63", "55.75 ± 1.26")),
            Row("Ours", "l2rw", ("86.73 ± 0.48", "59.30 ± 0.60")),
            Row("No noise", "baseline", ("92.5", "68.1"), {"noise.ratio": 0.0}, seeds=1),
        ),
        fewer=_CIFAR_10,
    ),
    "figure3": Target(
        "Figure 3: test error (%) on MNIST 4 against 9",
        "imbalance",
        _over("mnist_imbalance", "imbalance.share", (0.9, 0.95, 0.98, 0.99, 0.995)),
        (
            Row("Proportion", "proportion", fields=_CLEAN_TOO),
            Row("Resample", "resample", fields=_CLEAN_TOO),
            Row("Hard mining", "hard_mining", fields=_CLEAN_TOO),
            Row("Random", "random", fields=_CLEAN_TOO),
            Row("Ours", "l2rw"),
        ),
        axis="share of the majority class in the training set",
        error=True,
        metrics={"": "test_balanced_accuracy"},
        fewer={"cpu": ("0.9", "0.98", "0.995"), "smoke": ("0.9", "0.95")},
    ),
    "figure5": Target(
        "Figure 5: test accuracy (%) by the number of clean images, 40 % BackgroundFlip noise",
        "background",
        _over("cifar10_background", "clean_size", (15, 50, 100, 250, 500, 1000)),
        (
            Row("Baseline + FT", "baseline"),
            Row("Baseline + ES + FT", "baseline"),
            Row("Random", "random"),
            Row("Ours", "l2rw"),
        ),
        axis="clean images",
        fewer={
            "cpu": ("15", "50", "100", "1000"),
            "mnist": ("15", "50", "100", "1000"),
            "smoke": ("15", "50"),
        },
    ),
    "figure6": Target(
        "Figure 6: test accuracy (%) by the level of BackgroundFlip noise",
        "background",
        _over("cifar10_background", "noise.ratio", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
        (Row("Baseline", "baseline"), Row("Random", "random"), Row("Ours", "l2rw")),
        axis="share of the other classes' labels that are flipped",
        fewer={"cpu": ("0", "0.2", "0.4", "0.5"), "smoke": ("0", "0.4")},
    ),
    "figure7": Target(
        "Figure 7: accuracy (%) during training with 40 % BackgroundFlip noise",
        "background",
        (Column("CIFAR-10", "cifar10_background"),),
        (Row("Baseline", "baseline"), Row("Random", "random"), Row("Ours", "l2rw")),
        metrics={
            "training": "train_accuracy",
            "hyper-validation": "val_accuracy",
            "test": "test_accuracy",
        },
    ),
    "human": Target(
        "Test accuracy (%) on features of CIFAR-10, labels by people and with made noise",
        "human",
        (
            *_over("features", "clean_size", (1000, 100), "human, {:g} clean"),
            Column(
                "none", "features", {"noise.kind": "none", "noise.column": "", "noise.ratio": 0.0}
            ),
            *_made("uniform", 0.2, 0.4, 0.6),
            *_made("background", 0.2, 0.4, 0.6),
        ),
        _METHODS,
        fewer={"smoke": ("none", "uniform 0.4")},
        against="baseline",
    ),
    "mnist": Target(
        "Test accuracy (%) on MNIST with 40 % noise, a small convolutional network",
        "lenet",
        (Column("uniform", "cifar10_uniform"), Column("background", "cifar10_background")),
        tuple(row for row in _METHODS if row.label in ("baseline", "GCE", "l2rw", "evidence")),
        against="baseline",
    ),
}
