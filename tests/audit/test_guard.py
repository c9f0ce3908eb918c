"""The apostrophe before what a spreadsheet would run: each text comes back, and as itself."""

import re
from importlib import resources

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l2rw_jax.audit import tables
from l2rw_jax.audit.tables import guard, read_labels, unguard, write_csv

CELLS = st.text("'=+-@\t\r\n1.5ae٣ \"", max_size=6) | st.text(max_size=4)


@settings(max_examples=200, deadline=None)
@given(st.lists(CELLS, max_size=6, unique=True))
def test_every_text_comes_back_and_none_is_run(cells):
    guarded = [guard(cell) for cell in cells]
    assert unguard(guarded) == cells and len(set(guarded)) == len(cells)
    assert not [cell for cell in guarded if cell[:1] in "=@\t\r\n" and cell]
    signed = [cell for cell in guarded if cell[:1] in ("+", "-") and cell]
    assert all(re.fullmatch(r"[+-][0-9.]*[0-9]", cell) for cell in signed)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.text("'=+-@15.ab\"", min_size=1, max_size=6), min_size=1, unique=True))
def test_ids_and_labels_come_back_through_a_file(tmp_path, cells):
    write_csv(tmp_path / "t.csv", pd.DataFrame({"id": cells, "label": cells}))
    table = read_labels("--labels", tmp_path / "t.csv", "label", "id")
    np.testing.assert_array_equal(table.ids, cells)
    np.testing.assert_array_equal(table.labels, cells)


def test_a_table_that_nothing_guarded_is_taken_as_it_is(tmp_path):
    (tmp_path / "t.csv").write_text("id,label\n=r0,'cat\n'=r0,-x\n''=r0,'-x\n")
    table = read_labels("--labels", tmp_path / "t.csv", "label", "id")
    assert table.ids.tolist() == ["=r0", "'=r0", "''=r0"]
    assert table.labels.tolist() == ["'cat", "-x", "'-x"]


def test_the_page_guards_the_same():
    page = resources.files("l2rw_jax.audit").joinpath("report.html").read_text("utf-8")
    pattern = tables._FORMULA.pattern.replace("\\Z", "$")
    assert f"const formula = /^{pattern}/;" in page
