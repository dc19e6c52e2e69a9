"""`evaluate`: scores of a trained model on labelled images, as a table, JSON and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_unet.data.samples import Sample, load_samples
from keras_unet.data.targets import scored_classes
from keras_unet.errors import DataError
from keras_unet.evaluation import pictures
from keras_unet.evaluation.confusion import confusion_matrix, scores
from keras_unet.evaluation.instances import ObjectCounts, object_counts
from keras_unet.inference.objects import to_instances
from keras_unet.inference.prediction import predict, to_classes
from keras_unet.models.bundle import TrainedModel, load_model


class Evaluation(NamedTuple):
    """Scores over all pixels of the set, and each image's own."""

    total: dict[str, Any]
    images: dict[str, dict[str, Any]]


def evaluate(
    model: TrainedModel | str | Path,
    images: str | Path,
    labels: str | Path | None = None,
    *,
    output: str | Path | None = None,
    tile: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Predicts every image and compares it with its labels, read by the model's own rule.

    For instance labels, the line between touching cells does not count (`scored_classes`), and
    connected regions of the foreground are scored as objects too (`object_scores`).

    Args:
        model: what `load_model` returns, or the run folder or `.keras` file it takes.
        images, labels: as for `keras_unet.train`.
        output: folder for `evaluation.json` and an overlay of errors per image.
        tile: largest input tile, see `predict`.
        progress: called with (images done, images in all).

    Raises:
        DataError: images or labels cannot be used; names every bad file.
    """
    if not isinstance(model, TrainedModel):
        model = load_model(model)
    samples, _ = load_samples(
        images, labels, model.card.labels.as_rule(), need_labels=True, for_scoring=True
    )
    result = evaluate_samples(model, samples, output=output, tile=tile, progress=progress)
    if output is not None:
        write_evaluation(model, result, Path(output))
    return result


def write_evaluation(model: TrainedModel, evaluation: Evaluation, folder: Path) -> None:
    """Writes `evaluation.json`: the model's name, total and each image's scores."""
    report = {"model": model.card.name, **evaluation._asdict()}
    (folder / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def evaluate_samples(
    model: TrainedModel,
    samples: Sequence[Sample],
    *,
    output: str | Path | None = None,
    tile: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """`evaluate` for images in memory; writes only the overlays."""
    names = model.card.classes
    total = np.zeros((len(names), len(names)), np.int64)
    objects = ObjectCounts()
    each = {}
    for done, sample in enumerate(samples, start=1):
        truth = scored_classes(sample, model.card.separation)
        try:
            predicted = to_classes(predict(model, sample.image, tile=tile))
        except DataError as error:
            raise DataError(f"{sample.name}: {error}") from error
        matrix = confusion_matrix(truth, predicted, len(names), ignore_class=-1)
        total += matrix
        each[sample.name] = named_scores(matrix, names)
        if sample.instances is not None:
            counts = object_counts(sample.instances, to_instances(predicted > 0))
            objects += counts
            each[sample.name]["objects"] = _plain(counts.scores())
        if output is not None:
            picture = pictures.overlay(sample.image, predicted, truth)
            pictures.save_png(Path(output) / "overlays" / f"{file_name(sample.name)}.png", picture)
        if progress is not None:
            progress(done, len(samples))
    whole = named_scores(total, names)
    if model.card.labels.kind == "instances":
        whole["objects"] = _plain(objects.scores())
    return Evaluation(whole, each)


def named_scores(matrix: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """`confusion.scores` with class names for class numbers; an absent class is None (JSON)."""
    found = scores(matrix)
    return {
        key: {n: _number(v) for n, v in zip(names, value, strict=True)}
        if isinstance(value, (tuple, list, np.ndarray))
        else _number(value)
        for key, value in found.items()
    }


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """Scores as JSON holds them: an undefined one is None."""
    return {k: _plain(v) if isinstance(v, dict) else _number(v) for k, v in found.items()}


def file_name(name: str) -> str:
    """A sample's name as part of a file name: a page of a stack is `stack:003`."""
    return name.replace(":", "_").replace("/", "_")


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
