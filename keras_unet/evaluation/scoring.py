"""Evaluation run: labelled images read, predicted and scored in turn; JSON, report and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from keras_unet import run_layout
from keras_unet.data.check import (
    count_regions,
    file_notes,
    label_notes,
    read_source,
    refuse,
    settle_labels,
    single_class,
)
from keras_unet.data.label_rule import LabelRule
from keras_unet.data.pairs import Problem, find_source
from keras_unet.data.pipeline import scored_classes
from keras_unet.data.samples import RawPair, Sample
from keras_unet.errors import DataError
from keras_unet.evaluation import calibration
from keras_unet.evaluation.advice import advise
from keras_unet.evaluation.counts import (
    Counts,
    add,
    found_by,
    image_counts,
    interval_notes,
    require_objects,
    score,
    score_intervals,
    stack,
)
from keras_unet.evaluation.evaluation import (
    Evaluation,
    ScoreSettings,
    counts_as_lists,
    file_name,
    nested,
    plain,
    write_evaluation,
)
from keras_unet.evaluation.report import Gallery, longest_side, thumbnail, write_report
from keras_unet.inference.ensemble import Model, members
from keras_unet.inference.inputs import ArraySource
from keras_unet.inference.options import PredictOptions
from keras_unet.inference.predictor import Predictor, to_classes
from keras_unet.inference.scale import NATIVE, Ratio
from keras_unet.models.keras_file import ModelCard, Stated, TrainedModel
from keras_unet.pictures import error_entries, overlay, save_png
from keras_unet.remote_path import local_path
from keras_unet.settings import validated

MOST_PICTURES = 300  # in a report; the worst images
_LABELS = "labels for each image: give the folder that holds images/ and labels/, or --labels"


class Samples(Protocol):
    """A list of samples, or anything else with a length that gives them in a loop."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Sample]: ...


def evaluate(
    model: Model | Sequence[Model],
    images: str | Path,
    labels: str | Path | None = None,
    *,
    rule: LabelRule | None = None,
    normalization: Stated = None,
    class_names: str | Sequence[str] | None = None,
    output: str | Path | None = None,
    settings: ScoreSettings | Mapping[str, Any] | None = None,
    prediction: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Predicts every image and compares it with its labels, read by the model's own rule.

    Images are read one after the other: memory does not grow with their number. For instance
    labels, the line between touching cells does not count (`scored_classes`), and objects are
    scored too (`object_scores`), found as the model's card says and the settings do not.

    Args:
        model: what `load_model` returns, the run folder or `.keras` file it takes, any model of
            `build_unet`; or several that predict together, as for `predict`.
        images, labels: as for `keras_unet.train`.
        rule: what the labels' numbers mean; None: what they meant in training, and for a model of
            a script class numbers.
        normalization, class_names: for a model of a script, see `keras_unet.models.trained_model`.
        output: folder for `evaluation.json`, `report.html` and `overlays/`.
        settings: what is scored: a `ScoreSettings`, or a mapping that makes one.
        prediction: options of `predict`, such as `tile` and `symmetries`.
        progress: called with (images done, images in all).

    Raises:
        DataError: images or labels cannot be used; names every bad file.
        ConfigError: a setting is unknown or does not fit the model.
    """
    chosen = _checked(settings)
    loaded = members(model, normalization, class_names)
    trained = [TrainedModel(one.network, one.card) for one in loaded]
    card = loaded[0].card
    read = rule or card.labels.as_rule()
    try:
        channels, classes = loaded[0].form.channels, len(card.classes)
        samples = LabelledImages(images, labels, read, channels, classes)
    except DataError as error:
        if rule is not None or card.source == "train":
            raise
        raise DataError(
            f"{error}\nNobody has said what the labels of this model mean, so its classes' numbers "
            'were expected; if each number is one object: rule=LabelRule(kind="instances"), or '
            "--instances on the command line"
        ) from error
    return evaluate_samples(
        trained,
        samples,
        output=output,
        settings=chosen,
        prediction=prediction,
        data=str(images),
        notes=samples.notes,
        progress=progress,
    )


def evaluate_samples(
    model: Model | Sequence[Model],
    samples: Samples,
    *,
    output: str | Path | None = None,
    settings: ScoreSettings | Mapping[str, Any] | None = None,
    prediction: Mapping[str, Any] | None = None,
    data: str = "",
    notes: Sequence[str] = (),
    advice: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """`evaluate` for images in memory, or for anything else that gives `Samples`.

    Args:
        notes: on the images, for the evaluation's own.
        advice: what is known of the model beforehand; the evaluation's own follows it.
    """
    options = validated(PredictOptions, {**(prediction or {}), "dtype": "float32"})
    predictor = Predictor(model, options)
    folder = None if output is None else local_path(output)
    chosen = _checked(settings)
    scorer = Scorer(predictor.cards, chosen, len(samples), folder, data, notes, advice)
    lengths = []
    for done, sample in enumerate(samples, start=1):
        require_objects(sample, chosen)  # before time is spent on a prediction
        try:
            image = sample.measured
            fitted = predictor.fitted([ArraySource(image)], sample.pixel_size)
            scorer.add(sample, fitted(image), fitted.ratio)
            lengths.append(fitted.ratio.length)
        except DataError as error:
            raise DataError(f"{sample.name}: {error}") from error
        if progress is not None:
            progress(done, len(samples))
    if options.rescales and lengths:
        asked = options.model_dump(include={"diameter", "pixel_size"}, exclude_none=True)
        told = ", ".join(f"{name} {value}" for name, value in asked.items())
        low, middle, high = np.quantile(lengths, [0, 0.5, 1])
        scorer.note(
            f"Images were rescaled for the network ({told}) by {middle:.3g} (median; {low:.3g} to "
            f"{high:.3g}), and scored in their own size."
        )
    return scorer.finish()


def _checked(settings: ScoreSettings | Mapping[str, Any] | None) -> ScoreSettings:
    if isinstance(settings, ScoreSettings):
        return settings
    return validated(ScoreSettings, settings or {}, "settings of the evaluation")


class LabelledImages:
    """The samples of a data set, read anew in each loop over it.

    All files are read and checked once when it is made. A set of background alone is accepted.

    Args:
        images, labels: as for `keras_unet.train`, records too.
        rule: what label values mean.
        channels: of the images; others are refused.
        classes: of the model; more of them in the labels are refused.

    Attributes:
        notes: what is worth a look in them, such as a set without a pixel of a class.

    Raises:
        DataError: images or labels cannot be used; names every bad file.
    """

    def __init__(
        self,
        images: str | Path,
        labels: str | Path | None,
        rule: LabelRule,
        channels: int,
        classes: int | None = None,
    ) -> None:
        self._source, self._rule = find_source(images, labels), rule
        problems = list(self._source.problems)
        seen: list[RawPair] = []
        unstated = rule.kind == "semantic" and rule.stated() is None
        for raw in read_source(self._source, rule):
            problems += raw.problems
            name = raw.pair.image_shown
            if raw.pair.label is None:
                problems.append(Problem(file=name, found="has no labels", expected=_LABELS))
            if raw.image is not None and raw.image.shape[2] != channels:
                found = f"has {raw.image.shape[2]} channels"
                expected = f"{channels}, as the model was trained"
                problems.append(Problem(file=name, found=found, expected=expected))
            if raw.labels is not None:  # what is small is kept
                regions = count_regions(raw.labels) if unstated else 0
                raw = replace(raw, labels=np.empty((0, 0), np.int32), regions=regions)
            seen.append(replace(raw, image=None, border=None, missing=None))
        self._count = len(seen)
        mapping, strange = settle_labels(seen, rule)
        refuse([*problems, *strange], len(seen))
        if mapping is None:
            raise DataError(f"{images}: holds no image; expected one or more with labels")
        if classes is not None and mapping.num_classes > classes:
            raise DataError(
                f"{images}: labels of {mapping.num_classes} classes; expected at most {classes}, "
                "as the model has them"
            )
        self._mapping = mapping
        self.notes: tuple[str, ...] = (
            *self._source.notes,
            *mapping.notes,
            *map(str, single_class(seen, mapping)),
            *label_notes(seen, mapping),
            *file_notes(seen, rule.ignore),
        )

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sample]:
        for raw in read_source(self._source, self._rule):
            sample = None if raw.labels is None else raw.sample(self._mapping)
            if sample is None:
                raise DataError("\n".join(map(str, raw.problems)))  # changed since the check
            yield sample


class Scorer:
    """Takes predictions image by image; memory holds counts, and the pictures of the worst.

    Args:
        cards: of the models that predict; the first states how labels are scored.
        settings: what is scored.
        images: how many will come, for the size of pictures.
        folder: for overlays, `evaluation.json` and `report.html`; None writes nothing.
        data: where the images are, for the report.
        notes: on the images and labels, for the evaluation's own.
        advice: what is known beforehand; the evaluation's own follows it.
    """

    def __init__(
        self,
        cards: Sequence[ModelCard],
        settings: ScoreSettings,
        images: int,
        folder: Path | None = None,
        data: str = "",
        notes: Sequence[str] = (),
        advice: Sequence[str] = (),
    ) -> None:
        self._card, self._settings, self._folder = cards[0], settings.completed(cards[0]), folder
        self._model = " + ".join(dict.fromkeys(card.name for card in cards))
        self._data, self._notes = _readable(data), tuple(map(_readable, notes))
        self._advice = tuple(map(_readable, advice))
        self._gallery, self._longest = Gallery(MOST_PICTURES), longest_side(images)
        self._total: Counts = {}
        self._each: dict[str, Counts] = {}
        self._histogram = np.zeros((len(self._card.classes), calibration.BINS, 2), np.int64)

    def note(self, text: str) -> None:
        """Adds to the evaluation's notes."""
        self._notes = (*self._notes, _readable(text))

    def add(
        self, sample: Sample, probabilities: np.ndarray, ratio: tuple[float, float] = NATIVE
    ) -> None:
        """Scores one image.

        Args:
            sample: with labels. probabilities: float [H, W, K], or [H, W, 1] of the foreground.
            ratio: at which the image was predicted, see `Predictor.ratio`.

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
        counts = image_counts(sample, truth, given, names, self._settings, Ratio(*ratio))
        counted = truth >= 0
        self._histogram += calibration.class_histogram(truth[counted], given[counted])
        self._total = add(self._total, counts)
        self._each[name] = counts
        if self._folder is not None:
            classes = to_classes(given)
            picture = overlay(sample.image, classes, truth)
            file = f"{file_name(name)}.png"
            legend = error_entries(len(names))
            save_png(self._folder / run_layout.OVERLAYS / file, picture, legend)
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
            write_evaluation(evaluation, self._folder)
            write_report(evaluation, self._gallery.pictures(), self._folder / run_layout.REPORT)
        return evaluation

    def _evaluation(self) -> Evaluation:
        names, total, each = self._card.classes, self._total, self._each
        settings = self._settings
        whole = score(total, names)
        histogram = dict(zip(names, self._histogram, strict=True))
        whole["average_precision"] = _each(calibration.average_precision, histogram)
        curves = {
            "precision_recall": _each(_thinned_precision_recall, histogram),
            "best_threshold": _each(calibration.best_threshold, histogram),
            "reliability": _each(calibration.reliability, histogram),
        }
        if "isbi" in total:
            from keras_unet.evaluation import isbi

            curves["isbi"] = {
                "threshold": list(isbi.THRESHOLDS),
                **isbi.per_threshold(total["isbi"]),
            }
        limits = score_intervals(
            [stack(list(each.values()))],
            names,
            confidence=settings.confidence,
            resamples=settings.resamples,
            seed=settings.seed,
        )
        found = Evaluation(
            model=self._model,
            data=self._data,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            classes=names,
            settings=settings,
            total=plain(whole),
            intervals=plain(nested(limits)),
            images={name: plain(score(counts, names)) for name, counts in each.items()},
            counts={name: counts_as_lists(counts) for name, counts in each.items()},
            curves=plain(curves),
            notes=(
                *self._notes,
                *_found_by(total, settings),
                *interval_notes(len(each), settings.confidence, settings.resamples, settings.seed),
            ),
            card=self._card.model_dump(mode="json"),
        )
        return found.model_copy(update={"advice": (*self._advice, *advise(found))})


def _readable(name: str) -> str:
    """A name of a file whose bytes are no UTF-8, as JSON and HTML can hold it."""
    return name.encode(errors="backslashreplace").decode()


def both_classes(probabilities: np.ndarray) -> np.ndarray:
    """[H, W, 1] (of the foreground) as [H, W, 2]; others as they are."""
    if probabilities.shape[-1] > 1:
        return probabilities
    return np.concatenate([1 - probabilities, probabilities], axis=-1)


def _found_by(total: Counts, settings: ScoreSettings) -> tuple[str, ...]:
    if "objects" not in total or not settings.finding:
        return ()
    return (f"Predicted objects: {found_by(settings)}.",)


def _each(
    value: Callable[[np.ndarray], Any], histogram: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    return {name: value(one) for name, one in histogram.items()}


def _thinned_precision_recall(histogram: np.ndarray) -> dict[str, np.ndarray]:
    """Every tenth threshold: enough for a curve."""
    curve = calibration.precision_recall(histogram)
    return {name: values[::10] for name, values in curve.items()}
