"""Settling of what a configuration leaves open, from the raw files: labels, channels, dtypes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from keras_unet.data import (
    ClassNames,
    DataReport,
    LabelRule,
    Pair,
    check_data,
    find_class_names,
    pairs_of_files,
    write_dataset,
)
from keras_unet.disk import replacing
from keras_unet.errors import ConfigError, DataError
from keras_unet.settings import merged
from pipelines.config import PipelineConfig
from pipelines.sections import DataSettings

T = TypeVar("T")
LOOKED_AT = 32  # images, evenly among all: enough to tell what labels mean; each record is checked
SYNTHETIC = {"train": 32, "val": 0, "size": 256}
QUICK = {"model": {"filters": 8, "depth": 3}, "steps_per_epoch": 25}  # suits synthetic cells


def settled(config: PipelineConfig, say: Callable[[str], None]) -> PipelineConfig:
    """The configuration with nothing left open, so that the same files make the same pipeline.

    Without images, synthetic cells are drawn into the root. What labels mean, the channels and
    dtypes come from the check of `keras-unet train` on up to 32 of the images, where not given; so
    do class names then, from a `classes.txt` beside them.

    Raises:
        ConfigError: no images are given for Vertex AI.
        DataError: there are no images, or their labels need a setting, or a `classes.txt` does not
            fit; says which.
    """
    data, train = config.data, config.train
    if data.images is None:
        if config.runner == "vertex":
            raise ConfigError("data.images: expected a folder or a manifest, found nothing")
        made = {"images": str(_synthetic(config)), "label_kind": "instances"}
        data = data.model_copy(update=made)
        train = merged(QUICK if "steps" in train else {**QUICK, "minutes": 2.0}, train)
        say(f"No data given: synthetic cells in {data.images}")
    meant = data.label_values is not None or data.label_kind == "instances"
    if not meant or data.channels is None or not data.dtypes:
        rule = data.rule or LabelRule(ignore=data.label_ignore)
        pairs = some_pairs(data)
        report = check_data(pairs, rule)
        data, named = _named(_filled(data, report), report, pairs[0])
        say(_told(data, report) + ("" if named is None else f"\n{named}"))
    data = DataSettings.model_validate(data.model_dump())
    return config.model_copy(update={"data": data, "train": train})


def _synthetic(config: PipelineConfig) -> Path:
    """Drawn once: files that stay the same keep what was made of them valid."""
    folder = Path(config.pipeline_root) / "synthetic"
    if not folder.is_dir():
        with replacing(folder) as beside:
            write_dataset(beside, **SYNTHETIC)
    return folder / "train"


def some_pairs(data: DataSettings) -> list[Pair]:
    """Up to so many pairs of files, evenly among those that a run will read.

    Raises:
        DataError: there are none; names what stands in the way.
    """
    from pipelines.examples.items import list_source, listed_lines

    listing = list_source(*resolved_source(data))
    items = _evenly(listing.items)
    found = [pairs_of_files(item.image, item.label, item.name, item.group) for item in items]
    pairs = _evenly([pair for own, _ in found for pair in own])
    if not pairs:
        problems = [*listing.problems, *(problem for _, own in found for problem in own)]
        raise DataError(f"{data.images}: found no image with labels:{listed_lines(problems)}")
    return pairs


def resolved_source(data: DataSettings) -> tuple[str, str]:
    """(folder, pattern) with {SPAN} and {VERSION} replaced by what TFX will choose."""
    folder, pattern = data.source
    if "{" not in pattern:
        return folder, pattern
    from tfx.components.example_gen.utils import calculate_splits_fingerprint_span_and_version
    from tfx.proto import example_gen_pb2

    from pipelines.pipeline import span_range

    split = example_gen_pb2.Input.Split(name="all", pattern=pattern)
    try:
        calculate_splits_fingerprint_span_and_version(folder, [split], span_range(data.span))
    except ValueError as error:
        raise DataError(f"data.images is {data.images}: {error}") from error
    return folder, split.pattern


def _evenly(items: Sequence[T]) -> list[T]:
    return list(items[:: max(1, -(-len(items) // LOOKED_AT))])


def _filled(data: DataSettings, report: DataReport) -> DataSettings:
    mapping = report.mapping
    if mapping is None or not report.summary.channels:
        report.raise_if_bad()
        raise DataError(f"{data.images}: found no labels; expected labels/ beside images/")
    channels = max(report.summary.channels, key=lambda c: report.summary.channels[c])
    return data.model_copy(
        update={
            "label_kind": mapping.kind,
            # a mask's 0 and 255 too: the checks hold every later batch against these very values
            "label_values": mapping.values or None,
            "num_classes": None,
            "label_ignore": mapping.ignore,
            "channels": data.channels or int(channels),
            "dtypes": data.dtypes or tuple(sorted(report.summary.dtypes)),
        }
    )


def _named(
    data: DataSettings, report: DataReport, pair: Pair
) -> tuple[DataSettings, ClassNames | None]:
    """With the class names of a file beside a pair's, if there is one and none are given."""
    if data.class_names is not None or report.mapping is None:
        return data, None
    found = find_class_names(pair.image, pair.label, count=report.mapping.num_classes)
    if found is None:
        return data, None
    return data.model_copy(update={"class_names": found.names}), found


def _told(data: DataSettings, report: DataReport) -> str:
    """What was settled, and the settings that would say the same."""
    if data.label_kind == "instances":
        labels = "each number is one object (data.label_kind = instances)"
    else:
        values = list(data.label_values or ())
        labels = f"stored values of the classes {values} (data.label_values)"
    notes = "".join(f"\n  note: {note}" for note in report.notes)
    return (
        f"Labels: {labels}; images: {data.channels} channel(s), {', '.join(data.dtypes)} "
        f"(from {report.summary.images} of the images){notes}"
    )
