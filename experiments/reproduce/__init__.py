"""The paper's tables and figures: what they hold, the runs that they take, reports."""
