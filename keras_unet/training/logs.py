"""A run's history, epoch by epoch: history.csv and TensorBoard's files, without doubled rows."""

from __future__ import annotations

import csv
import io
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_unet.disk import write_text


class History(keras.callbacks.Callback):
    """Writes each epoch's numbers to `history.csv` and to `tensorboard/{train,validation}`.

    The CSV has 6 digits of each number. A checkpoint holds all rows, so a resumed run writes both
    anew up to there, whatever a killed process, a full disk or a power failure left of them.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path, self.board = folder / "history.csv", folder / "tensorboard"
        self.rows: list[dict[str, float]] = []
        self.times: list[float] = []  # when each row was written, seconds since 1970
        self._events: dict[str, EventFile] = {}

    def state(self) -> dict[str, Any]:
        return {"rows": self.rows, "times": self.times}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.rows = [dict(row) for row in state["rows"]]
        self.times = list(state["times"])

    def on_train_begin(self, logs: Any = None) -> None:
        write_text(self.path, "".join(map(self._line, range(len(self.rows)))))
        for old in self.board.glob("*/events.out.tfevents.*"):
            old.unlink()
        self._events = {name: EventFile(self.board / name) for name in ("train", "validation")}
        for epoch in range(len(self.rows)):
            self._to_board(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        numbers = {k: v if isinstance(v, int) else float(v) for k, v in (logs or {}).items()}
        self.rows.append({"epoch": epoch, **dict(sorted(numbers.items()))})
        self.times.append(time.time())
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(self._line(len(self.rows) - 1))
        self._to_board(len(self.rows) - 1)

    def on_train_end(self, logs: Any = None) -> None:
        self.close()

    def close(self) -> None:
        """Closes TensorBoard's files."""
        for events in self._events.values():
            events.close()
        self._events = {}

    def _line(self, number: int) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), restval="", extrasaction="ignore")
        if number == 0:
            writer.writeheader()
        row = self.rows[number].items()
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row})
        return text.getvalue()

    def _to_board(self, number: int) -> None:
        row = self.rows[number]
        parts: dict[str, dict[str, float]] = {"train": {}, "validation": {}}
        for key, value in row.items():
            if key != "epoch":
                part = "validation" if key.startswith("val_") else "train"
                parts[part][f"epoch_{key.removeprefix('val_')}"] = value
        for part, values in parts.items():
            self._events[part].write(values, int(row["epoch"]), self.times[number])


class EventFile:
    """One of TensorBoard's event files, each record handed to the system as it is written."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._file = (folder / name).open("xb")
        self._records = RecordWriter(self._file)
        self._add(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def write(self, values: Mapping[str, float], step: int, wall_time: float) -> None:
        """Adds one event with these scalars."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if not values:
            return
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(Event(wall_time=wall_time, step=step, summary=Summary(value=scalars)))

    def close(self) -> None:
        self._records.close()

    def _add(self, event: Any) -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()
