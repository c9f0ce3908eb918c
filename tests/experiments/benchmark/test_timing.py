"""What is compared takes turns; what fails or does not fit into the time is a row that says so."""

import time

from experiments.benchmark.timing import LEAST, Ready, measure

OUT_OF_TIME = "not run: out of time (--minutes)"


def ready(*seconds, **fields):
    """A maker of what takes so long in its turns, the first of which is not timed."""
    turns = iter(seconds)
    return lambda: Ready(lambda: next(turns), **fields)


def working():
    return Ready(lambda: 0.5)


def broken():
    raise RuntimeError("no such | thing\nand more")


def test_a_failure_is_a_row_and_stops_no_other():
    makers = {"a": broken, "b": ready(1, 1), "c": ready(9, 4, 2, 8, about={"x": 7}, steps=8)}
    rows, times = measure(makers, seconds=60, most=3)
    assert list(rows) == list("abc") and times == {"c": [0.5, 0.25, 1.0]}
    assert rows["a"] == {"error": "RuntimeError: no such | thing"}
    assert rows["b"] == {"error": "StopIteration: no message"}
    figures = {"q1_ms": 375.0, "median_ms": 500.0, "q3_ms": 750.0, "rounds": 3}
    assert rows["c"] == {"error": None, "x": 7} | figures


def test_each_round_has_all_in_an_order_of_its_own():
    taken = []
    makers = {name: lambda name=name: Ready(lambda: taken.append(name) or 0.5) for name in "abcd"}
    measure(makers, seconds=60, most=5)
    rounds = ["".join(taken[start : start + 4]) for start in range(4, 24, 4)]  # the first warms up
    assert {"".join(sorted(one)) for one in rounds} == {"abcd"} and len(set(rounds)) > 1


def test_a_failure_to_measure_memory_leaves_the_times():
    def out_of_memory():
        raise MemoryError("no room")

    memory = {"a": lambda: {"memory_bytes": 7}, "b": out_of_memory}
    makers = {name: ready(1, 1, measure_memory=function) for name, function in memory.items()}
    rows, _ = measure(makers, seconds=60, most=1)
    assert [row["rounds"] for row in rows.values()] == [1, 1]
    assert rows["a"]["memory_bytes"] == 7
    assert rows["b"]["memory_kind"] == "MemoryError: no room" and "memory_bytes" not in rows["b"]


def test_what_does_not_fit_into_the_time_is_a_row():
    def memory():
        raise AssertionError("there is no time for it")

    makers = {"a": lambda: Ready(lambda: 0.5, measure_memory=memory), "b": working}
    rows, _ = measure(makers, seconds=1e-9, most=9)
    assert (rows["a"]["error"], rows["a"]["rounds"]) == (None, LEAST)
    assert rows["a"]["memory_kind"] == "not measured: out of time (--minutes)"
    assert rows["b"] == {"error": OUT_OF_TIME}


def test_time_is_kept_for_the_rounds_of_what_is_prepared_and_for_memory():
    def slow():
        return Ready(lambda: time.sleep(0.05) or 0.5)

    # Each takes 0.05 s to prepare, and 0.25 s for its rounds: of two, 0.6 s in all.
    for reserve, third in ((0.0, None), (0.5, OUT_OF_TIME)):
        rows, _ = measure(dict.fromkeys("abc", slow), seconds=0.8, reserve=reserve, most=1)
        assert rows["a"]["error"] is None
        assert rows["c"]["error"] == third
