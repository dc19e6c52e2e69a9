"""history.csv and TensorBoard's files before and after a run is resumed."""

from __future__ import annotations

import csv

import pytest

from keras_unet.training.callbacks import History

ROWS = [
    {"loss": 0.1 + epoch / 3, "step": 5 * epoch, "val_loss": 1e-9 / (epoch + 1)}
    for epoch in (0, 1, 2)
]


def events(folder):
    """(tag, step, value) of each scalar, in the order of writing, by part."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.util.tensor_util import make_ndarray

    found = {}
    for path in sorted((folder / "tensorboard").glob("*/events*")):
        part = found.setdefault(path.parent.name, [])
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            part += [(v.tag, event.step, make_ndarray(v.tensor)) for v in event.summary.value]
    return found


def run(history, rows, first=0):
    history.on_train_begin()
    for epoch, row in enumerate(rows, first):
        history.on_epoch_end(epoch, row)


def test_the_table_has_6_digits_and_the_state_all(tmp_path):
    history = History(tmp_path)
    run(history, [{"loss": 1.123412847518921, "learning_rate": 0.00088524207, "step": 1234567}])
    assert (tmp_path / "history.csv").read_text().splitlines()[1] == "0,0.000885242,1.12341,1234567"
    assert history.state()["rows"][0]["loss"] == 1.123412847518921


def test_rows_are_written_as_they_come(tmp_path):
    history = History(tmp_path)
    run(history, ROWS)
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    for found, row in zip(rows, ROWS, strict=True):
        assert {k: float(found[k]) for k in row} == pytest.approx(row, rel=5e-6)
    assert found["step"] == "10"
    logged = events(tmp_path)
    assert len(logged["train"]) == 6
    assert ("epoch_loss", 1, pytest.approx(ROWS[1]["loss"])) in logged["train"]
    assert [name for name, _, _ in logged["validation"]] == ["epoch_loss"] * 3


@pytest.mark.parametrize("left", ["later rows", "torn rows", "nothing"])
def test_a_resumed_run_has_each_row_once(tmp_path, left):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    run(History(whole), ROWS)

    first = History(cut)
    run(first, ROWS[:2])
    state = first.state()
    state = {key: list(value) for key, value in state.items()}
    if left == "later rows":
        first.on_epoch_end(2, {**ROWS[2], "loss": 99.0})
    for path in [cut / "history.csv", *cut.glob("tensorboard/*/*")]:
        if left == "torn rows":
            path.write_bytes(path.read_bytes()[:-7])
        elif left == "nothing":
            path.unlink()
    again = History(cut)
    again.restore(state)
    run(again, ROWS[2:], first=2)
    assert (cut / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()
    assert events(cut) == events(whole)
    assert len(events(cut)["train"]) == 6
