"""`evaluate`: scores of a trained model on labelled images, as JSON, report and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from keras_unet.data.label_rule import LabelRule
from keras_unet.data.samples import Sample
from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation.counts import scores_objects
from keras_unet.evaluation.reading import LabelledImages
from keras_unet.evaluation.record import Evaluation
from keras_unet.evaluation.scorer import Scorer
from keras_unet.evaluation.settings import ScoreSettings
from keras_unet.inference.members import Model, members
from keras_unet.inference.options import make_options
from keras_unet.inference.rows import Predictor
from keras_unet.models.bundle import Stated, TrainedModel
from keras_unet.remote_path import local_path


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
    labels, the line between touching cells does not count (`scored_classes`), and connected
    regions of the foreground are scored as objects too (`object_scores`).

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
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """`evaluate` for images in memory, or for anything else that gives `Samples`.

    Args:
        notes: on the images, for the evaluation's own.
    """
    predictor = Predictor(model, make_options({**(prediction or {}), "dtype": "float32"}))
    folder = None if output is None else local_path(output)
    chosen = _checked(settings)
    scorer = Scorer(predictor.cards, chosen, len(samples), folder, data, notes)
    for done, sample in enumerate(samples, start=1):
        scores_objects(sample, chosen)  # before time is spent on a prediction
        try:
            scorer.add(sample, predictor(sample.measured))
        except DataError as error:
            raise DataError(f"{sample.name}: {error}") from error
        if progress is not None:
            progress(done, len(samples))
    return scorer.finish()


def _checked(settings: ScoreSettings | Mapping[str, Any] | None) -> ScoreSettings:
    if isinstance(settings, ScoreSettings):
        return settings
    try:
        return ScoreSettings(**(settings or {}))
    except ValidationError as error:
        said = [f"{e['loc'][0]}: {e['msg']}, got {e['input']!r:.80}" for e in error.errors()]
        raise ConfigError(f"settings of the evaluation: {'; '.join(said)}") from error
