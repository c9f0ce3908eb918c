"""The parts of ``experiments.reproduce``: the paper's tables and figures, runs, reports."""
