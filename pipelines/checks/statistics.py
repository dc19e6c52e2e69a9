"""Statistics of StatisticsGen: its options, and its numbers as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import statistics_pb2
from tfx.dsl.io import fileio

from keras_unet.settings import Frozen

HISTOGRAM_BARS = 10
MOST_VALUES = 300  # more than a label image of 8 bits has, so that all of them are listed


def statistics_options() -> tfdv.StatsOptions:
    """For records of images: no sampling, few and fixed histogram bars.

    StatisticsGen also gets the schema, in which encoded pixels are opaque (`image_domain`): of
    those only the number of bytes is counted. Decoding them for TFDV's own image statistics is
    left out: ImageExampleGen has done it, and recorded what matters.
    """
    return tfdv.StatsOptions(
        num_top_values=MOST_VALUES,
        num_rank_histogram_buckets=HISTOGRAM_BARS,
        num_histogram_buckets=HISTOGRAM_BARS,
        num_quantiles_histogram_buckets=HISTOGRAM_BARS,
    )


class Summary(Frozen):
    """One feature over the images of a split.

    images: that have it; whole: all of the split. low … high: of numbers, and None for text.
    values: how often each value occurs, the most frequent first (text and categories).
    bars: (from, to, count) of the histogram, of equal width.
    """

    feature: str
    images: int
    whole: int
    low: float | None = None
    median: float | None = None
    mean: float | None = None
    std: float | None = None
    high: float | None = None
    distinct: int | None = None
    values: tuple[tuple[str, int], ...] = ()
    bars: tuple[tuple[float, float, float], ...] = ()

    @property
    def missing(self) -> int:
        return self.whole - self.images


def read_statistics(uri: str) -> dict[str, dict[str, Summary]]:
    """From an ExampleStatistics artifact: split ("train" first) -> feature -> its summary."""
    found = {}
    for name in sorted(fileio.listdir(uri), reverse=True):
        folder = name.rstrip("/")
        if folder.startswith("Split-"):
            found[folder[len("Split-") :]] = summaries(load_statistics(uri, folder[6:]))
    return found


def load_statistics(uri: str, split: str) -> statistics_pb2.DatasetFeatureStatisticsList:
    """TFDV's own message, as StatisticsGen wrote it."""
    return tfdv.load_stats_binary(f"{uri}/Split-{split}/FeatureStats.pb")


def summaries(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> dict[str, Summary]:
    """feature -> summary, in the order of the names."""
    (dataset,) = statistics.datasets
    found = {}
    for feature in dataset.features:
        name = ".".join(feature.path.step) or feature.name
        found[name] = Summary(feature=name, whole=dataset.num_examples, **_numbers(feature))
    return dict(sorted(found.items()))


def _numbers(feature: statistics_pb2.FeatureNameStatistics) -> Mapping[str, Any]:
    kind = feature.WhichOneof("stats")
    stats = getattr(feature, kind)
    out: dict[str, Any] = {"images": stats.common_stats.num_non_missing}
    if kind == "num_stats":
        for ours, theirs in (
            ("low", "min"),
            ("median", "median"),
            ("mean", "mean"),
            ("std", "std_dev"),
            ("high", "max"),
        ):
            out[ours] = getattr(stats, theirs)
        for histogram in stats.histograms:
            if histogram.type == statistics_pb2.Histogram.STANDARD:
                out["bars"] = tuple(
                    (bar.low_value, bar.high_value, bar.sample_count) for bar in histogram.buckets
                )
    elif kind == "string_stats":
        out["distinct"] = stats.unique
        out["values"] = tuple((v.value, int(v.frequency)) for v in stats.top_values)
    return out
