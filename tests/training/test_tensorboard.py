"""The log for TensorBoard tells what metrics.jsonl tells, also of a run that was stopped."""

import numpy as np
import pytest

from l2rw_jax.training import default_config, loop, train_and_evaluate
from l2rw_jax.training.workdir import read_metrics

pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
from tensorboardX.proto import event_pb2


def _config():
    config = default_config()
    every = {"log_every": 5, "eval_every": 10, "checkpoint_every": 10}
    fields = {"model": "mlp-16", "steps": 20, "noise.kind": "uniform", "noise.ratio": 0.4}
    config.update_from_flattened_dict(every | fields | {"tensorboard": True})
    return config


def _events(folder):
    """All events of a log: each is a length of 8 bytes, 4 of a checksum, the event, 4 more."""
    for path in sorted(folder.iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            size = int.from_bytes(content[at : at + 8], "little")
            yield event_pb2.Event.FromString(content[at + 12 : at + 12 + size])
            at += 16 + size


def test_a_run_that_goes_on_goes_on_in_the_same_log(tmp_path, monkeypatch):
    append = loop.files.append_metrics

    def die_at_15(workdir, line):
        append(workdir, line)
        if line["step"] == 15:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop.files, "append_metrics", die_at_15)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(_config(), tmp_path)
    monkeypatch.undo()
    train_and_evaluate(_config(), tmp_path)

    scalars, histograms, pictures, starts = {}, {}, {}, []
    for event in _events(tmp_path / "tensorboard"):
        if event.session_log.status == event.session_log.START:
            starts.append(event.step)
        for value in event.summary.value:
            kind = value.WhichOneof("value")
            if kind == "simple_value":
                scalars[value.tag, event.step] = value.simple_value
            elif kind == "histo":
                histograms[value.tag, event.step] = value.histo.num
            elif kind == "image":
                pictures[value.tag, event.step] = value.image.encoded_image_string
    assert starts == [1, 11]  # TensorBoard drops what came before with these steps or later
    for line in read_metrics(tmp_path):
        for name in line.keys() - {"step", "clean_loss"}:
            np.testing.assert_allclose(scalars[name, line["step"]], line[name], rtol=1e-5)
    assert {step for _, step in histograms} == {10, 20}
    assert histograms["weight/corrupted", 20] + histograms["weight/uncorrupted", 20] > 500
    assert pictures["test_confusion", 20].startswith(b"\x89PNG")
