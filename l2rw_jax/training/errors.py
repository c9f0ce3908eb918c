"""How a run can end early; each error is one line for the user."""


class RunError(RuntimeError):
    """A run that cannot continue: one line for the user; what was saved before is kept."""


class Ended(RunError):  # noqa: N818 - no error of this call's
    """A run that has ended for good, before: it diverged."""


class OutOfMemory(RunError):  # noqa: N818 - the field's own word
    """A run that does not fit into the memory of its device or host."""


class ConfigError(ValueError):
    """A run that is not possible as configured: one line for the user, before any work starts."""
