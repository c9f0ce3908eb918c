"""The label audit: which labels of a data set are probably wrong.

`audit_labels` returns a table; the command ``l2rw-audit`` reads files and writes a folder with the
table, a report for checking labels by hand, corrected labels and the model.
"""

from l2rw_jax import _extras

_extras.require("audit", "pandas", "PIL")
_extras.require("train", "sklearn")

from l2rw_jax.audit.errors import AuditError
from l2rw_jax.audit.table import audit_labels

__all__ = ["AuditError", "audit_labels"]
