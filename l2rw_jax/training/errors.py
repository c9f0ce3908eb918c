"""How a run can end early, each told to its user in one line."""


class RunError(RuntimeError):
    """A run that cannot go on: one line for the user; what was saved before is kept."""


class Ended(RunError):  # noqa: N818 - no error of this call's
    """A run that has ended for good, before: it diverged."""


class OutOfMemory(RunError):  # noqa: N818 - the field's own word
    """A run that does not fit into the memory of its device or host."""


class ConfigError(ValueError):
    """A run that cannot be as asked for: one line for the user, raised before any work starts."""
