"""What is public of losses, models and data says what it takes and raises, and how it is used."""

import inspect
import re

import pytest

from l2rw_jax import audit, data, losses, models

FUNCTIONS = [
    function
    for module in (losses, models, data, audit)
    for name, function in vars(module).items()
    if inspect.isfunction(function)
    and not name.startswith("_")
    and function.__module__.startswith(module.__name__)
]


def test_functions_are_found():
    assert {"cross_entropy", "create_model", "load", "sample"} <= {f.__name__ for f in FUNCTIONS}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_docstring_is_whole(function):
    doc = inspect.getdoc(function)
    sections = dict(re.findall(r"^(Args|Returns|Raises):\n((?: .*\n|\n)+)", doc, re.MULTILINE))
    assert set(sections) == {"Args", "Returns", "Raises"}
    (indent,) = re.findall("^ +", sections["Args"])
    described = re.findall(rf"^{indent}(\w+): ", sections["Args"], re.MULTILINE)
    assert described == list(inspect.signature(function).parameters)
    assert ">>> " in doc
