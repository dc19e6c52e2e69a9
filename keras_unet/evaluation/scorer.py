"""From predictions, one image after the other, to an evaluation with its files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from keras_unet.data.reading import Sample
from keras_unet.data.targets import scored_classes
from keras_unet.errors import DataError
from keras_unet.evaluation import calibration, confusion, isbi, pictures, record
from keras_unet.evaluation.counts import Counts, add, image_counts, resampled, score, stack
from keras_unet.evaluation.descriptions import has_interval
from keras_unet.evaluation.intervals import interval_notes, intervals
from keras_unet.evaluation.record import Evaluation
from keras_unet.evaluation.report import write_report
from keras_unet.evaluation.settings import ScoreSettings
from keras_unet.evaluation.thumbnails import Gallery, longest_side, thumbnail
from keras_unet.inference.prediction import to_classes
from keras_unet.models.bundle import ModelCard

MOST_PICTURES = 300  # in a report; the worst images


class Scorer:
    """Takes predictions image by image; memory holds counts, and the pictures of the worst.

    Args:
        cards: of the models that predict; the first says how labels are scored.
        settings: what is scored.
        images: how many will come, for the size of pictures.
        folder: for overlays, `evaluation.json` and `report.html`; None writes nothing.
        data: where the images are, for the report.
        notes: on the images and labels, for the evaluation's own.
    """

    def __init__(
        self,
        cards: Sequence[ModelCard],
        settings: ScoreSettings,
        images: int,
        folder: Path | None = None,
        data: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        self._card, self._settings, self._folder = cards[0], settings, folder
        self._model = " + ".join(dict.fromkeys(card.name for card in cards))
        self._data, self._notes = _readable(data), tuple(map(_readable, notes))
        self._gallery, self._longest = Gallery(MOST_PICTURES), longest_side(images)
        self._total: Counts = {}
        self._each: dict[str, Counts] = {}
        self._histogram = np.zeros((len(self._card.classes), calibration.BINS, 2), np.int64)

    def add(self, sample: Sample, probabilities: np.ndarray) -> None:
        """Scores one image.

        Args:
            sample: with labels. probabilities: float [H, W, K], or [H, W, 1] of the foreground.

        Raises:
            DataError: no labels, or labels that do not fit the settings; a name seen before; or
                probabilities that are not finite.
            ConfigError: the settings do not fit the classes.
        """
        name = _readable(sample.name)
        if name in self._each:
            raise DataError(f"{name}: two images of this name")
        names = self._card.classes
        given = both_classes(probabilities)
        if not np.isfinite(given).all():
            raise DataError(f"{name}: the model answers numbers that are not finite")
        truth = scored_classes(sample, self._card.separation)
        counts = image_counts(sample, truth, given, names, self._settings)
        counted = truth >= 0
        self._histogram += calibration.class_histogram(truth[counted], given[counted])
        self._total = add(self._total, counts)
        self._each[name] = counts
        if self._folder is not None:
            classes = to_classes(given)
            picture = pictures.overlay(sample.image, classes, truth)
            file = f"{record.file_name(name)}.png"
            legend = pictures.error_entries(len(names))
            pictures.save_png(self._folder / "overlays" / file, picture, legend)
            iou = score(counts, names)["mean_iou"]
            small = thumbnail(sample.image, classes, truth, self._longest)
            self._gallery.add(name, 0.0 if np.isnan(iou) else 1.0 - float(iou), small)

    def finish(self) -> Evaluation:
        """The scores of all images; writes the files.

        Raises:
            DataError: there was no image.
        """
        if not self._each:
            raise DataError("found no image to score, expected one or more")
        evaluation = self._evaluation()
        if self._folder is not None:
            record.write_evaluation(evaluation, self._folder)
            write_report(evaluation, self._gallery.pictures(), self._folder / "report.html")
        return evaluation

    def _evaluation(self) -> Evaluation:
        names, total, each = self._card.classes, self._total, self._each
        settings = self._settings
        whole = score(total, names)
        whole["average_precision"] = {
            name: calibration.average_precision(one)
            for name, one in zip(names, self._histogram, strict=True)
        }
        curves = {
            "precision_recall": {
                name: _thinned(calibration.precision_recall(one))
                for name, one in zip(names, self._histogram, strict=True)
            },
            "best_threshold": {
                name: calibration.best_threshold(one)
                for name, one in zip(names, self._histogram, strict=True)
            },
            "reliability": {
                name: calibration.reliability(one)
                for name, one in zip(names, self._histogram, strict=True)
            },
        }
        if "isbi" in total:
            curves["isbi"] = {
                "threshold": list(isbi.THRESHOLDS),
                **isbi.per_threshold(total["isbi"]),
            }
        return Evaluation(
            model=self._model,
            data=self._data,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            classes=names,
            settings=settings,
            total=record.plain(whole),
            intervals=record.plain(_intervals(list(each.values()), names, settings)),
            images={name: record.plain(score(counts, names)) for name, counts in each.items()},
            counts={name: record.counts_as_lists(counts) for name, counts in each.items()},
            curves=record.plain(curves),
            notes=(
                *self._notes,
                *_exchanged(total["confusion"]),
                *interval_notes(len(each), settings.confidence, settings.resamples, settings.seed),
            ),
            card=self._card.model_dump(mode="json"),
        )


def _readable(name: str) -> str:
    """A name of a file whose bytes are no UTF-8, as JSON and HTML can hold it."""
    return name.encode(errors="backslashreplace").decode()


def both_classes(probabilities: np.ndarray) -> np.ndarray:
    """[H, W, 1] (of the foreground) as [H, W, 2]; others as they are."""
    if probabilities.shape[-1] > 1:
        return probabilities
    return np.concatenate([1 - probabilities, probabilities], axis=-1)


def _intervals(
    each: Sequence[Counts], names: Sequence[str], settings: ScoreSettings
) -> dict[str, Any]:
    stacked = stack(each)
    paths = [path for path in record.flat(score(stacked, names)) if has_interval(path)]

    def statistic(drawn: np.ndarray) -> np.ndarray:
        sums = {name: resampled(block, drawn) for name, block in stacked.items()}
        found = record.flat(score(sums, names))
        return np.stack([found[path] for path in paths])

    limits = intervals(
        statistic,
        len(each),
        confidence=settings.confidence,
        resamples=settings.resamples,
        seed=settings.seed,
    )
    return record.nested(dict(zip(paths, limits, strict=True)))


def _exchanged(matrix: np.ndarray) -> tuple[str, ...]:
    """A note where labels of two classes would fit the prediction better the other way round."""
    if len(matrix) != 2 or not matrix.sum(axis=1).all():  # a class alone says nothing of it
        return ()
    as_they_are, exchanged = (float(np.trace(m) / m.sum()) for m in (matrix, matrix[::-1]))
    worse = confusion.rates(matrix)["mean_dice"] < confusion.rates(matrix[::-1])["mean_dice"]
    if exchanged < 0.8 or not worse:
        return ()
    return (
        f"prediction and labels agree in {as_they_are:.1%} of the pixels; with the two classes of "
        f"the labels exchanged they would in {exchanged:.1%}: are the labels inverted (white for "
        "black)?",
    )


def _thinned(curve: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every tenth threshold: enough for a curve."""
    return {name: values[::10] for name, values in curve.items()}
