"""Shards of records, the Beam part: written by as many workers as the runner has.

An element is a shard's task, a few paths; the images of a shard are read one after the other by
the worker that writes them. Beam's own `WriteToTFRecord` (behind TFX's `WriteSplit`, after a
shuffle of the records) holds all records in memory where Beam runs on one machine, and on the
DaskRunner it loses what a bundle's end returns and all outputs but the last. Here no record is ever
an element, so every runner needs the memory of a few images for each worker, and there is one
output.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import NamedTuple

import apache_beam as beam
import tensorflow as tf

from keras_unet.data import PairReader
from pipelines.examples.options import ExampleOptions
from pipelines.examples.plan import from_lines
from pipelines.examples.record import make_record

NAMESPACE = "keras_unet.ImageExampleGen"


class ShardTask(NamedTuple):
    """Paths of one shard: its plan, its records, and where it tells of itself."""

    split: str
    plan: str
    records: str
    summary: str  # JSON: split, written, bad (a list of problems)


class WriteShard(beam.DoFn):
    """Writes the records of a task; a shard is there with all its records, or not at all."""

    def __init__(self, options: str) -> None:
        self._json = options

    def setup(self) -> None:
        self._options = ExampleOptions.model_validate_json(self._json)
        counter = beam.metrics.Metrics.counter
        self._written, self._bad = (counter(NAMESPACE, name) for name in ("written", "bad"))

    def process(self, task: ShardTask) -> Iterator[tuple[str, int, int]]:
        beside = f"{task.plan}.{uuid.uuid4().hex}"
        bad, written = [], 0
        with PairReader() as reader, tf.io.TFRecordWriter(beside, "GZIP") as writer:
            for pair in from_lines(read_text(task.plan)):
                raw = reader.read(pair, self._options.rule)
                record, problems = make_record(raw, self._options)
                if record is None:
                    bad.append([problem.model_dump() for problem in problems])
                    self._bad.inc()
                else:
                    writer.write(record)
                    written += 1
                    self._written.inc()
        tf.io.gfile.rename(beside, task.records, overwrite=True)
        told = {"split": task.split, "written": written, "bad": bad}
        write_text(task.summary, json.dumps(told))
        yield task.split, written, len(bad)


def read_text(path: str) -> str:
    with tf.io.gfile.GFile(path, "r") as file:
        return file.read()


def write_text(path: str, text: str) -> None:
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(text)
