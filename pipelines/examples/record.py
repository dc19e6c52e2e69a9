"""One image and its labels to one record, with everything that later steps need of it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from keras_unet.data import (
    Border,
    FeatureValues,
    LabelMapping,
    Problem,
    RawPair,
    Sample,
    border_term,
    encode_example,
    settle_labels,
)
from keras_unet.errors import DataError
from pipelines.examples.options import ExampleOptions


def make_record(raw: RawPair, options: ExampleOptions) -> tuple[bytes | None, list[Problem]]:
    """The serialised record and no problems, or None and what is wrong.

    Whether instance labels are masks is settled here for each image, in a training for the whole
    set. The border term is the same either way; `label/cells` may differ where the only object of
    an image is in pieces.
    """
    problems = list(raw.problems)
    if raw.pair.label is None:
        problems.append(
            Problem(file=raw.pair.image_shown, found="has no labels", expected="labels")
        )
    mapping, strange = settle_labels([raw], options.rule)
    problems += strange
    if problems or mapping is None:
        return None, problems
    try:
        sample = raw.sample(mapping)
        assert sample is not None and raw.labels is not None  # there are no problems
        if mapping.ignore is not None and set(raw.values) == {mapping.ignore}:
            raise DataError("has no pixel that counts; expected some beside label_ignore")
        weights = border_term(sample, options.sigma, options.separation)
        record = encode_example(
            sample.name,
            sample.measured,
            raw.labels,
            dtype=sample.image.dtype,
            group=sample.group,
            border=Border(weights, options.sigma, options.separation),
            more=statistics(sample, raw.values, mapping),
        )
    except DataError as error:
        found, _, expected = str(error).removeprefix(f"{raw.pair.name}: ").partition("; expected ")
        return None, [Problem(file=raw.pair.image_shown, found=found, expected=expected)]
    return record, []


def statistics(
    sample: Sample, values: dict[int, int], mapping: LabelMapping
) -> dict[str, FeatureValues]:
    """Features that TFDV looks at: grey values over all channels, classes, cells.

    Args:
        values: stored label values and their pixels.
    """
    classes = sample.classes
    assert classes is not None
    image = sample.image if sample.missing is None else sample.image[~sample.missing]
    cells = sample.instances
    if cells is None:
        cells = ndimage.label(classes > 0)[0]
    area = np.bincount(cells.ravel())[1:]
    area = area[area > 0]
    counted = np.count_nonzero(classes >= 0)
    stored = values.keys() - {mapping.ignore}
    if mapping.kind == "instances":
        stored = {int(value > 0) for value in stored}
    found: dict[str, FeatureValues] = {
        "image/mean": [float(image.mean(dtype=np.float64))],
        "image/std": [float(image.std(dtype=np.float64))],
        "image/low": [float(image.min())],
        "image/high": [float(image.max())],
        "label/values": sorted(stored),
        "label/foreground": [float(np.count_nonzero(classes > 0)) / max(int(counted), 1)],
        "label/cells": [len(area)],
    }
    if len(area):
        found["label/diameter"] = [float(np.median(2 * np.sqrt(area / np.pi)))]
    return found
