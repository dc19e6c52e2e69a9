"""What one image adds to the scores of a set, and the scores that follow from such sums.

Every score is a function of counts that add up over images. So one function gives the scores of
an image, of a set, of each bootstrap draw and of the images that two evaluations share; memory
does not grow with the size of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from keras_unet.data.reading import Sample
from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation import boundaries, calibration, confusion, instances, isbi
from keras_unet.evaluation.settings import ScoreSettings
from keras_unet.inference.objects.finding import to_instances

Counts = dict[str, np.ndarray]


def image_counts(
    sample: Sample,
    truth: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    settings: ScoreSettings,
) -> Counts:
    """Counts of one image.

    Args:
        sample: with labels. Its objects are its `instances`, or, where it has none, components of
            its classes; predicted objects are components of the prediction.
        truth: its `scored_classes`: int [H, W], −1 where a pixel does not count.
        probabilities: float [H, W, K], K ≥ 2.
        classes: K names.
        settings: what to count.

    Returns:
        By name: `confusion` [K, K]; `boundary` [K, len(boundaries.COUNTS)]; `wrong` [2]: wrong
        pixels, and those of them within the tolerance of an outline of the truth; `confidence`
        [calibration.GROUPS, 3]; `squared_error` [1]; where asked for, `objects`
        [len(instances.COUNTS)] and `isbi` [thresholds, len(isbi.COUNTS)].

    Raises:
        ConfigError: the settings do not fit the classes. DataError: truth does not fit.
    """
    number = len(classes)
    predicted = probabilities.argmax(axis=-1).astype(np.int32)
    counted = truth >= 0
    found: Counts = {
        "confusion": confusion.confusion_matrix(truth, predicted, number, ignore_class=-1),
        "boundary": boundaries.boundary_counts(
            truth, predicted, number, tolerance=settings.tolerance, image_edge=False
        ),
        "wrong": _wrong(truth, predicted, settings.tolerance),
        "confidence": calibration.confidence_counts(truth[counted], probabilities[counted]),
        "squared_error": np.array(
            [calibration.squared_error(truth[counted], probabilities[counted])]
        ),
    }
    if scores_objects(sample, settings):
        found["objects"] = _objects(sample, predicted, classes, settings)
    if settings.isbi:
        found["isbi"] = _isbi(truth, probabilities, classes)
    return found


def score(counts: Mapping[str, np.ndarray], classes: Sequence[str]) -> dict[str, Any]:
    """Scores of sums of counts, whose blocks may have further axes in front: nested by name.

    A score of one value a class is a mapping from class name to value. NaN where undefined.
    """
    pixels = counts["confusion"].sum(axis=(-2, -1))
    per_class = {
        **confusion.rates(counts["confusion"]),
        **boundaries.rates(counts["boundary"]),
    }
    found: dict[str, Any] = {
        name: dict(zip(classes, np.moveaxis(values, -1, 0), strict=True))
        if values.ndim == pixels.ndim + 1
        else values
        for name, values in per_class.items()
    }
    found["wrong_near_outline"] = confusion.ratio(counts["wrong"][..., 1], counts["wrong"][..., 0])
    found["calibration_error"] = calibration.expected_calibration_error(counts["confidence"])
    found["brier"] = confusion.ratio(counts["squared_error"][..., 0], pixels)
    if "objects" in counts:
        found["objects"] = instances.rates(counts["objects"])
    if "isbi" in counts:
        found["isbi"] = isbi.rates(counts["isbi"])
    return found


def add(total: Counts, one: Counts) -> Counts:
    """Sums block by block; an empty `total` is nothing yet."""
    return {name: total[name] + block for name, block in one.items()} if total else dict(one)


def stack(each: Sequence[Counts]) -> Counts:
    """Counts of n images as blocks [n, …]."""
    return {name: np.stack([one[name] for one in each]) for name in each[0]}


def resampled(block: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Sums of the drawn images' counts: block [images, …], drawn [..., n] -> [..., …]."""
    return block[drawn].sum(axis=drawn.ndim - 1)


def _wrong(truth: np.ndarray, predicted: np.ndarray, tolerance: float) -> np.ndarray:
    wrong = (truth >= 0) & (truth != predicted)
    edges = np.zeros(truth.shape, bool)
    for number in np.unique(truth[truth >= 0]):
        edges |= boundaries.outline(truth, int(number), image_edge=False)
    near: int | np.integer = 0
    if edges.any() and wrong.any():
        near = np.count_nonzero(ndimage.distance_transform_edt(~edges)[wrong] <= tolerance)
    return np.array([np.count_nonzero(wrong), near])


def scores_objects(sample: Sample, settings: ScoreSettings) -> bool:
    """Whether objects are scored.

    Raises:
        ConfigError: they are not, and settings are for them alone.
    """
    if sample.instances is not None if settings.objects is None else settings.objects:
        return True
    if settings.split is not None or settings.min_size:
        raise ConfigError(
            "split and min_size change predicted objects, and objects are not scored; with labels "
            "that are classes, objects=True (--objects) scores their components"
        )
    return False


def _objects(
    sample: Sample, predicted: np.ndarray, classes: Sequence[str], settings: ScoreSettings
) -> np.ndarray:
    true, object_class = sample.classes, settings.object_class
    assert true is not None  # scored_classes saw them
    if object_class is None:
        inside, found = true > 0, predicted > 0
    elif object_class in classes:
        number = list(classes).index(object_class)
        inside, found = true == number, predicted == number
    else:
        raise ConfigError(f"object_class is {object_class!r}; expected one of {', '.join(classes)}")
    found = found & (true >= 0)  # pixels that do not count belong to no object
    true_objects = to_instances(inside) if sample.instances is None else sample.instances
    proposed = to_instances(
        found,
        min_size=settings.min_size,
        split=settings.split,
        seed_distance=settings.seed_distance,
    )
    return instances.object_counts(true_objects, proposed)


def _isbi(truth: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    if len(classes) != 2:
        raise ConfigError(
            f"the ISBI 2012 metrics are for two classes, membrane and inside; this model has "
            f"{len(classes)}: {', '.join(classes)}"
        )
    if (truth < 0).any():
        raise DataError(
            "the ISBI 2012 metrics count every pixel, these labels have pixels that do not count "
            "(ignored ones, or lines between touching cells of instance labels)"
        )
    return isbi.isbi_counts(truth, np.clip(probabilities[..., 1], 0, 1))
