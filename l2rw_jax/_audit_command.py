"""What ``l2rw-audit`` starts: says in one line if the extra `audit` is missing."""

import sys


def main() -> int:
    """Runs ``l2rw_jax.audit.command``; returns the exit status."""
    try:
        from l2rw_jax.audit.command import main as run
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return run()
