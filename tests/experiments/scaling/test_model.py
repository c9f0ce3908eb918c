"""The cost model: its arithmetic in closed form, and stored results that follow from it."""

import json
from pathlib import Path

import pytest

from experiments.scaling import model

RESULTS = Path(__file__).parents[3] / "results"
STORED = json.loads((RESULTS / "scaling-cpu.json").read_text())["model"]
SMALL = model.Network(params=1000, flops=1e6, activations=100)


def test_all_reduce():
    def seconds(n, size=8e6, hop=1e-6):
        return model.all_reduce_seconds(size, [(n, 1e9, hop)])

    assert seconds(1) == 0
    assert seconds(4) == pytest.approx(2 * 3 / 4 * 8e-3 + 2 * 3 * 1e-6)
    assert all(seconds(n) < seconds(2 * n) < 2 * 8e-3 + 4 * n * 1e-6 for n in (1, 2, 4, 128))
    # Rings within rings send what one ring sends; only the hops are fewer.
    nested = model.all_reduce_seconds(8e6, [(8, 1e9, 0), (32, 1e9, 0)])
    assert nested == pytest.approx(seconds(256, hop=0))


@pytest.mark.parametrize("kind", model.HARDWARE)
def test_tiers_hold_all_devices(kind):
    for devices in model.DEVICES:
        (inner, _, _), (outer, _, _) = model.HARDWARE[kind].tiers(devices)
        assert inner * outer == devices


def test_networks_by_hand():
    # 2 flops a weight, one a bias, one a ReLU.
    small = model.network("mlp-8", (2, 2, 1), num_classes=3)
    assert small == (4 * 8 + 8 + 8 * 3 + 3, 2 * 4 * 8 + 8 + 8 + 2 * 8 * 3 + 3, 0)
    # Three convolutions of 16 channels, then two of 32 and two of 64 at half the side each.
    narrow = model.network("resnet-8", (8, 8, 3))
    assert narrow.activations == 3 * 16 * 64 + 2 * 32 * 16 + 2 * 64 * 4
    assert model.network("resnet-32").params == pytest.approx(0.46e6, rel=0.01)
    # With the paper's shortcuts, which have no parameters.
    assert model.network("wrn-28-10").params == pytest.approx(36.2e6, rel=0.01)


@pytest.mark.parametrize(
    ("batch", "memory", "one"),
    [(10, 1e15, 10 * 1e6 / 0.35e9), (10, 1e5, (10 * 1000 + 4000) / 0.8e5)],
    ids=["arithmetic", "memory"],
)
def test_step_by_hand(batch, memory, one):
    hardware = model.Hardware(1e9, memory, lambda devices: [(devices, 1e6, 1e-3)])
    got = model.step(SMALL, hardware, 4, batch)
    reduce = 2 * 3 / 4 * 4000 / 0.8e6 + 2 * 3 * 1e-3
    compute = 8 * one + 20_000 / (0.8 * memory)
    scalars = 2 * 2 * 2 * 1e-3  # two numbers, up and down a tree of two levels
    assert got["teraflop"] == pytest.approx(8 * batch * 1e-6)
    assert got["gigabytes"] == pytest.approx((8 * (batch * 1000 + 4000) + 20_000) / 1e9)
    assert got["compute_ms"] == pytest.approx(1e3 * compute)
    assert got["all_reduce_ms"] == pytest.approx(1e3 * reduce)
    assert got["in_sequence_ms"] == pytest.approx(1e3 * (compute + scalars + 2 * reduce))
    assert reduce < 2 * one  # hidden
    assert got["overlapped_ms"] == pytest.approx(1e3 * (compute + scalars))
    alone = model.step(SMALL, hardware, 1, batch)
    assert alone["overlapped_ms"] == alone["in_sequence_ms"] == alone["compute_ms"]


def test_what_is_too_long_to_hide_counts():
    hardware = model.Hardware(1e9, 1e15, lambda devices: [(devices, 1e3, 0.0)])
    got = model.step(SMALL, hardware, 2, 1)
    shown = got["overlapped_ms"] - got["compute_ms"]
    assert shown == pytest.approx(2 * (got["all_reduce_ms"] - 1e3 * 2 * 1e6 / 0.35e9))


def test_the_batch_that_hides_an_all_reduce_is_the_least():
    for row in STORED["rows"]:
        size = model.Network(**STORED["networks"][row["model"]])
        hardware, least = model.HARDWARE[row["hardware"]], row["hiding_batch"]
        backward = [2e3 * model.pass_seconds(size, hardware, b) for b in (least - 1, least)]
        assert backward[1] >= row["all_reduce_ms"]
        assert least == 0 or backward[0] < row["all_reduce_ms"]


def test_stored_rows_follow_from_the_model():
    for row in STORED["rows"]:
        size = model.Network(**STORED["networks"][row["model"]])
        again = model.modelled_row(row["model"], size, row["hardware"], row["devices"])
        assert again == pytest.approx(row)
        for kind in ("weak", "strong"):
            assert 0 < row[f"{kind}_in_sequence"] <= row[f"{kind}_overlapped"] <= 1


def test_the_stored_model_is_what_the_program_makes():
    again = json.loads(json.dumps(model.table(STORED["networks"])))
    for got, want in zip(again.pop("rows"), STORED["rows"], strict=True):
        assert got == pytest.approx(want)
    assert again == {key: value for key, value in STORED.items() if key != "rows"}


def test_passes_are_those_of_the_compiled_steps():
    """XLA counts every operation of the benchmark's steps; the model eight passes, or three."""
    rows = json.loads((RESULTS / "benchmark-cpu.json").read_text())["rows"]
    passes = {"ours plain": (3, 0), "ours l2rw forward": (5, 3)}  # over batch and clean batch
    checked = 0
    for row in rows:
        if row["implementation"] in passes and row["model"] in ("lenet", "resnet-32", "vit-192-6"):
            train, clean = passes[row["implementation"]]
            size = model.network(row["model"], tuple(row["image_shape"]), row["num_classes"])
            counted = size.flops * (train * row["batch"] + clean * row["clean_batch"])
            # The first layer needs no gradient of its input.
            assert 0.97 <= row["flops"] / counted <= 1.03
            checked += 1
    assert checked == 12
    assert sum(passes["ours l2rw forward"]) == model.PASSES
