"""Tables against closed forms, figures as files with the right lines in them."""

import matplotlib
import numpy as np
import pytest

from l2rw_jax import reports
from l2rw_jax.reports import style


def _result(method, accuracy, **fields):
    figures = {"test_accuracy": accuracy, "best_test_accuracy": accuracy + 0.1}
    figures |= {"test_balanced_accuracy": accuracy, "noise_auroc": None, "steps_per_second": 5.0}
    return {"method": method} | figures | fields


def test_mean_interval_is_student_s():
    # t at 0.975 with 4 degrees of freedom is 2.776445 in every table.
    values = [0.1, 0.4, 0.2, 0.5, 0.3]
    mean, half_width = reports.mean_interval(values)
    assert mean == pytest.approx(0.3)
    assert half_width == pytest.approx(2.776445 * np.std(values, ddof=1) / np.sqrt(5), rel=1e-6)
    assert reports.mean_interval([0.5, None]) == (None, None)


def test_summary_groups_by_the_keys_in_order():
    results = [_result("b", 0.5), _result("a", 0.7), _result("b", 0.7)]
    rows = reports.summarize(results, ["method"])
    assert [(row["method"], row["seeds"]) for row in rows] == [("b", 2), ("a", 1)]
    assert rows[0]["test_accuracy"]["mean"] == pytest.approx(0.6)
    assert rows[1]["test_accuracy"]["ci95"] is None


def test_the_table_shows_the_last_step_before_the_best_and_a_dash_for_nothing():
    header, rows = reports.table(reports.summarize([_result("a", 0.7)], ["method"]), ["method"])
    table = reports.to_markdown(header, rows)
    header, _, row = table.splitlines()
    assert header.index("(last)") < header.index("best")
    assert row == "| a | 70.0 | 80.0 | 70.0 | - | 1 |"


def test_figures_are_written(tmp_path):
    lines = [{"step": 10}, {"step": 20, "test_accuracy": 0.5}, {"step": 40, "test_accuracy": 0.6}]
    reports.plot_curves({"a": [lines, lines]}, tmp_path / "curves.png", title="t")
    weights, corrupted = np.array([0.1, 1.0, 2.0]), np.array([True, False, False])
    reports.plot_weights(weights, corrupted, tmp_path / "weights.png", title="t")
    none = np.zeros(3, bool)
    reports.plot_weights(np.zeros(3), none, tmp_path / "none.png", title="t")
    points = {"a": {0.1: [0.5, 0.6], 0.2: [0.4, 0.5]}}
    reports.plot_sweep(points, tmp_path / "sweep.png", xlabel="x", title="t")
    for name in ("curves", "weights", "none", "sweep"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_title_of_a_figure_is_its_answer(tmp_path, monkeypatch):
    answers = []
    monkeypatch.setattr(
        "l2rw_jax.reports.figures.set_titles", lambda axes, answer, about: answers.append(answer)
    )

    def run(accuracy):
        return [{"step": 10, "test_accuracy": accuracy}]

    lines = {"a": [run(0.6), run(0.61)], "b": [run(0.68), run(0.69)]}
    reports.plot_curves(lines, tmp_path / "curves.png", title="t")
    groups = {"a": {0: [0.5], 1: [0.9]}, "b": {0: [0.6], 1: [0.8]}}
    reports.plot_sweep(groups, tmp_path / "sweep.png", xlabel="noise", title="t")
    reports.plot_sweep({"a": groups["a"]}, tmp_path / "one.png", xlabel="noise", title="t")
    groups = {"a": {0: [0.5, 0.7], 1: [0.4, 0.41]}, "b": {0: [0.6, 0.61], 1: [0.9, 0.91]}}
    reports.plot_sweep(groups, tmp_path / "level.png", xlabel="noise", title="t")
    groups = {"a": {0: [0.5, 0.7]}, "b": {0: [0.55, 0.7]}}
    reports.plot_sweep(groups, tmp_path / "same.png", xlabel="noise", title="t")
    corrupted = np.array([True, False])
    reports.plot_weights(np.array([0.5, 2.0]), corrupted, tmp_path / "weights.png", title="t")
    assert answers == [
        "b and a are level, at 60.5 to 68.5 %",  # by Student's t each is ± 6.4 points
        "a is highest (one seed) at noise = 1",
        "a: noise = 1 ends highest (one seed), at 90.0 %",
        "b is highest or level at every noise",
        "b and a are level at noise = 0",
        "A corrupted label weighs 25 % of a right one",
    ]


@pytest.mark.parametrize(
    ("other", "best"), [((91.1, 2.1), ["b", "a"]), ((91.1, 0.9), ["b"]), ((91.1, None), ["b", "a"])]
)
def test_who_leads_is_said_by_the_interval_of_the_difference(other, best):
    # sqrt(2.1² + 0.7²) = 2.2 and sqrt(0.9² + 0.7²) = 1.14; the difference is 1.2.
    figures = {"a": other, "b": (92.3, 0.7)}
    assert style.leaders(figures) == best
    mirrored = {name: (-mean, half) for name, (mean, half) in figures.items()}
    assert style.leaders(mirrored, lowest=True) == best


def test_who_leads_without_any_interval_is_the_highest_mean():
    assert style.leaders({"a": (91.1, None), "b": (91.2, None)}) == ["b"]


def test_many_that_are_level_are_counted():
    figures = {name: (90.0, 1.0) for name in "abcd"} | {"e": (70.0, 1.0)}
    assert style.who_leads(figures, "is highest") == "4 of 5 share the lead"


def test_the_style_of_figures_stays_in_them(tmp_path):
    before = dict(matplotlib.rcParams)
    reports.plot_sweep({"a": {0: [0.5]}}, tmp_path / "sweep.png", xlabel="noise", title="t")
    assert dict(matplotlib.rcParams) == before
