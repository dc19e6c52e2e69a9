"""Counts that one image adds to the scores of a set, scores of such sums, and bootstrap intervals.

Every score is a function of counts that add up over images. So one function gives the scores of
an image, of a set, of each bootstrap draw and of the images that two evaluations share; memory
does not grow with the size of images.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage, stats

from keras_unet.data.samples import Sample
from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation import boundaries, calibration, confusion
from keras_unet.evaluation.evaluation import ScorePath, ScoreSettings, flat, has_interval
from keras_unet.inference.scale import NATIVE, Ratio, objects_at
from keras_unet.models.decoding import Decoding

Counts = dict[str, np.ndarray]

MOST_FOR_BCA = 1000  # images; the jackknife of BCa takes the square of them
FEW = 10  # images: with fewer, a note states that intervals mean little
_AT_ONCE = 2_000_000  # drawn numbers held in memory


def image_counts(
    sample: Sample,
    truth: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    settings: ScoreSettings,
    ratio: Ratio = NATIVE,
) -> Counts:
    """Counts of one image.

    Args:
        sample: with labels. Its objects are its `instances`, or, where it has none, components of
            its classes; predicted objects are found as the settings say, components by default.
            Where pixels do not count, those are scored that the labels can tell right or wrong, see
            `instances.judged`.
        truth: its `scored_classes`: int [H, W], −1 where a pixel does not count.
        probabilities: float [H, W, K], K ≥ 2.
        classes: K names.
        settings: what to count.
        ratio: at which the image was predicted, see `Predictor.ratio`; for objects.

    Returns:
        By name: `confusion` [K, K]; `boundary` [K, len(boundaries.COUNTS)]; `wrong` [2]: wrong
        pixels, and those of them within the tolerance of an outline of the truth; `confidence`
        [calibration.GROUPS, 3]; `squared_error` [1]; where asked for, `objects`
        [len(instances.COUNTS)], `object_areas` [3, instances.AREAS] and `isbi` [thresholds,
        len(isbi.COUNTS)].

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
        found |= _objects(sample, predicted, probabilities, classes, settings, ratio)
    if settings.isbi:
        found["isbi"] = _isbi(truth, probabilities, classes)
    return found


def score(counts: Mapping[str, np.ndarray], classes: Sequence[str]) -> dict[str, Any]:
    """Scores of sums of counts, whose blocks may have further axes in front: nested by name.

    A score of one value a class is a mapping from class name to value. NaN where undefined.
    """
    pixels = counts["confusion"].sum(axis=(-2, -1))
    per_class = {**confusion.rates(counts["confusion"]), **boundaries.rates(counts["boundary"])}
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
        from keras_unet.evaluation import instances

        found["objects"] = instances.rates(counts["objects"])
        if "object_areas" in counts:  # not in evaluations of 0.3
            found["objects"] |= instances.area_rates(counts["object_areas"])
    if "isbi" in counts:
        from keras_unet.evaluation import isbi

        found["isbi"] = isbi.rates(counts["isbi"])
    return found


def add(total: Counts, one: Counts) -> Counts:
    """Sums block by block; an empty `total` is nothing yet."""
    return {name: total[name] + block for name, block in one.items()} if total else dict(one)


def stack(each: Sequence[Counts]) -> Counts:
    """Counts of n images as blocks [n, …]."""
    return {name: np.stack([one[name] for one in each]) for name in each[0]}


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
    """Whether objects are scored."""
    return sample.instances is not None if settings.objects is None else settings.objects


def require_objects(sample: Sample, settings: ScoreSettings) -> None:
    """Refuses settings of objects where none are scored.

    Args:
        settings: as they were stated, not completed by a model's own.

    Raises:
        ConfigError: names them.
    """
    if settings.finding and not scores_objects(sample, settings):
        raise ConfigError(
            f"{', '.join(settings.finding)}: of predicted objects, and objects are not scored; "
            "with labels that are classes, objects=True (--objects) scores their components"
        )


def _objects(
    sample: Sample,
    predicted: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    settings: ScoreSettings,
    ratio: Ratio,
) -> Counts:
    from keras_unet.evaluation.instances import image_blocks, judged
    from keras_unet.inference.objects.finding import to_instances

    true, object_class = sample.classes, settings.object_class
    assert true is not None  # scored_classes saw them
    if object_class is None:
        inside, found = true > 0, predicted > 0
        if len(classes) == 2 and settings.threshold is not None:
            found = probabilities[..., 1].astype(np.float32)
    elif object_class in classes:
        number = list(classes).index(object_class)
        inside, found = true == number, predicted == number
    else:
        raise ConfigError(f"object_class is {object_class!r}; expected one of {', '.join(classes)}")
    if sample.missing is not None:  # there is nothing, as outside of the image
        found = found * ~sample.missing
    true_objects = to_instances(inside) if sample.instances is None else sample.instances
    proposed = objects_at(found, found_by(settings), ratio)
    if sample.ignored.any():
        true_objects, proposed = judged(true_objects, proposed, sample.ignored)
    return image_blocks(true_objects, proposed)


def found_by(settings: ScoreSettings) -> Decoding:
    """How predicted objects are found: components, but for what the settings say."""
    return Decoding(fill_holes=False, min_size=0, split="none").changed(settings.finding)


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
    from keras_unet.evaluation.isbi import isbi_counts  # it makes tables as it is imported

    return isbi_counts(truth, np.clip(probabilities[..., 1], 0, 1))


def score_intervals(
    sets: Sequence[Counts], classes: Sequence[str], *, confidence: float, resamples: int, seed: int
) -> dict[ScorePath, np.ndarray]:
    """Bootstrap intervals of the scores of a set, or of what the second of two has more.

    Args:
        sets: one or two, each `stack`ed counts of the same images: every draw takes the same
            images of both.
        classes: names. confidence, resamples, seed: see `intervals`.

    Returns:
        [low, high] by path, of scores that have an interval.
    """
    sets = [{k: block for k, block in one.items() if k != "object_areas"} for one in sets]
    paths = [path for path in flat(score(sets[0], classes)) if has_interval(path)]

    def statistic(drawn: np.ndarray) -> np.ndarray:
        """Scores [S, ..., draws] of the images drawn, [..., draws, images]."""
        found = []
        for counts in sets:
            sums = {k: block[drawn].sum(axis=drawn.ndim - 1) for k, block in counts.items()}
            scores = flat(score(sums, classes))
            found.append(np.stack([scores[path] for path in paths]))
        return found[-1] - found[0] if len(found) > 1 else found[0]

    images = len(sets[0]["confusion"])
    limits = intervals(statistic, images, confidence=confidence, resamples=resamples, seed=seed)
    return dict(zip(paths, limits, strict=True))


def intervals(
    statistic: Callable[[np.ndarray], np.ndarray],
    images: int,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> np.ndarray:
    """Bootstrap intervals of several scores at once, each draw with the same images for all.

    Images are drawn with replacement, all their pixels and objects together. The interval is BCa
    (Efron 1987) up to `MOST_FOR_BCA` images and the percentile one beyond. Where BCa is not
    defined (equal scores in all draws, or a draw without the class), it is the percentiles of the
    draws in which the score is defined.

    It shows how much the choice of images matters, not what another training would give. With a
    handful of images it is wide, and still narrower than it should be: fewer than about ten mean
    little.

    Args:
        statistic: image numbers [..., draws, images] -> scores [S, ..., draws].
        images: how many there are.
        confidence: in (0, 1). resamples: number of draws. seed: of the draws.

    Returns:
        float64 [S, 2]: low, high; NaN for fewer than two images, no draws, or an undefined score.
    """
    every = np.arange(images)
    shape = np.shape(statistic(every))
    if images < 2 or resamples < 1:
        return np.full((*shape, 2), np.nan)
    # scipy wants data of the result's shape: the same numbers once for each score
    data = np.broadcast_to(every, (*shape, images))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        with np.errstate(all="ignore"):  # BCa of equal scores divides by 0 and is replaced below
            found = stats.bootstrap(
                (data,),
                lambda drawn, axis: statistic(drawn[0]),
                n_resamples=resamples,
                batch=max(1, _AT_ONCE // data.size),
                vectorized=True,
                axis=-1,
                confidence_level=confidence,
                method="BCa" if images <= MOST_FOR_BCA else "percentile",
                random_state=np.random.default_rng(seed),
            )
    limits = np.stack([found.confidence_interval.low, found.confidence_interval.high], axis=-1)
    draws = found.bootstrap_distribution
    for place in np.flatnonzero(np.isnan(limits).any(axis=-1)):
        defined = draws[place][~np.isnan(draws[place])]
        if defined.size:
            limits[place] = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return limits


def interval_notes(
    images: int, confidence: float, resamples: int, seed: int = 0
) -> tuple[str, ...]:
    """How intervals were made, in words, and how far they can be trusted."""
    if images < 2:
        return ("no intervals: they need two images or more",)
    if not resamples:
        return ()
    method = "BCa" if images <= MOST_FOR_BCA else "percentile"
    notes = [
        f"Intervals: {confidence:.0%}, {method} bootstrap over {images} images, {resamples} draws, "
        f"seed {seed}."
    ]
    if images < FEW:
        notes.append(
            f"{images} images are few: an interval from so few is a rough guide, rather too narrow "
            "than too wide."
        )
    return tuple(notes)
