"""Many inputs in one test: all that fail are named."""

import pytest


def check_each(check, cases, name=repr):
    """Runs ``check(*case)`` for every case; the test fails at the end with those that failed.

    Args:
      check: a function of a case that raises as a test would.
      cases: tuples of arguments.
      name: what to call a case in the report.
    """
    cases, faults = list(cases), []
    assert cases
    for case in cases:
        try:
            check(*case)
        except (Exception, pytest.fail.Exception) as error:
            faults.append(f"{name(case):.200}: {type(error).__name__}: {error}")
    assert not faults, f"{len(faults)} of {len(cases)} cases fail:\n" + "\n".join(faults)
