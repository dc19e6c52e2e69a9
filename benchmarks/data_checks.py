"""How far two draws of the same images are apart, and a changed batch: `python
benchmarks/data_checks.py FOLDER …`, in the environment of TFX.

The thresholds of skew and drift in pipelines/checks/schema.pbtxt, and `min_images`, rest on these
distances. Each FOLDER has images/ and instance labels/; synthetic cells come beside. Per image the
pipeline's own features are taken; draws are with replacement. To benchmarks/results/
data_checks.json go, per source, the quantiles of the distance between two draws of some sizes
(the median, 99 % and the largest of 60), and the distances after a change.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pyarrow as pa
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics.stats_impl import generate_statistics_in_memory
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from keras_unet.data import LabelRule, Sample, load_samples, make_cells
from keras_unet.data.label_rule import LabelMapping
from pipelines.checks.schema import curated_schema
from pipelines.checks.statistics import statistics_options
from pipelines.examples.record import statistics

RESULT = Path(__file__).parent / "results" / "data_checks.json"
NAMES = ("image/mean", "image/std", "label/foreground", "label/cells", "label/diameter")
SIZES = ((40, 10), (100, 25), (60, 60), (200, 50), (400, 100))
CHANGES = {  # of (brightness, width of the cells, grey values added)
    "brightness x 1.25": (1.25, 1.0, 0.0),
    "brightness x 1.5": (1.5, 1.0, 0.0),
    "brightness x 2": (2.0, 1.0, 0.0),
    "brightness x 0.5": (0.5, 1.0, 0.0),
    "cells x 1.25": (1.0, 1.25, 0.0),
    "cells x 1.5": (1.0, 1.5, 0.0),
    "20 grey values more": (1.0, 1.0, 20.0),
}
Row = dict[str, float]  # feature -> number; no diameter without cells


def row(sample: Sample, mapping: LabelMapping) -> Row:
    """What ImageExampleGen records of an image."""
    found = statistics(sample, {0: 1, 1: 1}, mapping)
    return {name: found[name][0] for name in NAMES if name in found}


def synthetic(count: int) -> list[Row]:
    """Of `count` pictures of cells."""
    mapping = LabelRule(kind="instances").resolve((0, 1, 2))
    rows = []
    for seed in range(count):
        image, labels = make_cells(96, seed=seed)
        cells = (labels > 0).astype(np.int32)
        rows.append(row(Sample(str(seed), image[..., None], cells, labels), mapping))
    return rows


def changed(one: Row, brightness: float, width: float, added: float) -> Row:
    """As if the image had been taken so."""
    factors = {
        "image/mean": brightness,
        "image/std": brightness,
        "label/foreground": width**2,
        "label/diameter": width,
    }
    out = {name: value * factors.get(name, 1.0) for name, value in one.items()}
    out["image/mean"] += added
    return out


def counted(rows: list[Row]) -> statistics_pb2.DatasetFeatureStatisticsList:
    """As StatisticsGen counts."""
    columns = []
    for name in NAMES:
        kind = pa.list_(pa.int64() if name == "label/cells" else pa.float32())
        columns.append(pa.array([[r[name]] if name in r else None for r in rows], kind))
    batch = pa.RecordBatch.from_arrays(columns, list(NAMES))
    return generate_statistics_in_memory(batch, statistics_options())


def distances(before: list[Row], after: list[Row], schema: schema_pb2.Schema) -> dict[str, float]:
    """feature -> Jensen-Shannon divergence, as TFDV has it."""
    found = tfdv.validate_statistics(counted(after), schema, previous_statistics=counted(before))
    return {one.path.step[0]: one.drift_measurements[0].value for one in found.drift_skew_info}


def compared() -> schema_pb2.Schema:
    """The schema's features of NAMES, every one with a comparator."""
    schema = schema_pb2.Schema()
    for feature in curated_schema().feature:
        if feature.name in NAMES:
            feature.drift_comparator.jensen_shannon_divergence.threshold = 1.0
            schema.feature.append(feature)
    return schema


def measure(rows: list[Row], repeats: int, rng: np.random.Generator) -> dict[str, object]:
    """See the module."""
    schema = compared()

    def draw(count: int) -> list[Row]:
        return [rows[k] for k in rng.integers(0, len(rows), count)]

    same, other = {}, {}
    for n, m in SIZES:
        found = [distances(draw(n), draw(m), schema) for _ in range(repeats)]
        same[f"{n} against {m}"] = {
            name: [
                round(float(np.quantile([d[name] for d in found], q)), 3) for q in (0.5, 0.99, 1)
            ]
            for name in NAMES
        }
    for text, change in CHANGES.items():
        found = [
            distances(draw(200), [changed(one, *change) for one in draw(50)], schema)
            for _ in range(max(repeats // 5, 1))
        ]
        other[text] = {name: round(float(np.median([d[name] for d in found])), 3) for name in NAMES}
    return {"images": len(rows), "same images": same, "200 against 50, changed": other}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=60)
    given = parser.parse_args()
    sources = {"synthetic": synthetic(150)}
    rule = LabelRule(kind="instances")
    real: list[Row] = []
    for folder in given.folders:
        samples, report = load_samples(folder, rule=rule, for_scoring=True)
        real += [row(sample, report.mapping) for sample in samples]
    if real:
        sources["real"] = real
    rng = np.random.default_rng(0)
    result = {name: measure(rows, given.repeats, rng) for name, rows in sources.items()}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
