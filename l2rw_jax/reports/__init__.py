"""Tables and figures of finished runs."""

from l2rw_jax import _extras

_extras.require("train", "matplotlib", "scipy")

from l2rw_jax.reports.figures import plot_curves, plot_sweep, plot_weights
from l2rw_jax.reports.table import markdown_table, mean_interval, summarize, to_markdown

__all__ = [
    "markdown_table",
    "mean_interval",
    "plot_curves",
    "plot_sweep",
    "plot_weights",
    "summarize",
    "to_markdown",
]
