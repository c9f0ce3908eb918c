"""The one error of the label audit."""


class AuditError(ValueError):
    """An argument, a file or a flag that an audit cannot use; one line says what to do."""
