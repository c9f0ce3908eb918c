"""Tables and figures of finished runs."""

from l2rw_jax import _extras

_extras.require("train", "matplotlib", "scipy", *_extras.TRAIN)

from l2rw_jax.reports.doubts import Doubt, most_doubted
from l2rw_jax.reports.figures import plot_curves, plot_sweep, plot_weights
from l2rw_jax.reports.page import write_page
from l2rw_jax.reports.table import mean_interval, summarize, table, to_markdown

__all__ = [
    "Doubt",
    "mean_interval",
    "most_doubted",
    "plot_curves",
    "plot_sweep",
    "plot_weights",
    "summarize",
    "table",
    "to_markdown",
    "write_page",
]
