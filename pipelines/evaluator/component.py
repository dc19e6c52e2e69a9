"""SegmentationEvaluator: TFX's Evaluator for masks.

TensorFlow Model Analysis is not used. It takes a label and a prediction an example and adds up
metrics of Keras or its own; its masks are bounding boxes of detection or instances in COCO's
format. Scores of objects (matching at an IoU, SEG, panoptic quality), outlines and per-image
bootstrap intervals need the two label images of an example together, in their own size, and a model
that predicts images of any size by tiles: there is no place for that in its extractors, which put
predictions of a batch into one array. So the library's `evaluate` scores, and the artifacts are
those of TFX's Evaluator: its Resolver strategy for the latest blessed model, and Pusher, take them.
"""

# no `from __future__ import annotations`: TFX reads the annotations of a component as objects

import json
import logging
from typing import Any

from tfx import v1 as tfx
from tfx.components.evaluator import constants
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.types import artifact_utils, system_executions
from tfx.types.standard_artifacts import Examples, Model, ModelBlessing, ModelEvaluation

from keras_unet.disk import write_text
from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation import Evaluation, LabelledImages, compare, evaluate_samples
from keras_unet.models import TrainedModel, structure
from pipelines import models
from pipelines.evaluator.pages import verdict_page
from pipelines.evaluator.policy import EvaluationPolicy
from pipelines.evaluator.slices import Observed, scores, slices
from pipelines.evaluator.verdict import Verdict, judge

RECORDED = ("mean_iou", "mean_dice", "objects.f1")  # in the metadata store, beside the files


@tfx.dsl.components.component(component_annotation=system_executions.Evaluate)
def SegmentationEvaluator(
    examples: InputArtifact[Examples],
    model: InputArtifact[Model],
    evaluation: OutputArtifact[ModelEvaluation],
    blessing: OutputArtifact[ModelBlessing],
    baseline_model: InputArtifact[Model] = None,  # type: ignore[assignment]
    policy: Parameter[str] = "{}",
    split: Parameter[str] = "eval",
) -> None:
    """Scores a model on the held-out records, compares it with the baseline, and judges it.

    Args:
        examples: records as ImageExampleGen writes them.
        model, baseline_model: of the Trainer; the baseline from a Resolver, or none.
        evaluation: `evaluation.json`, `report.html`, `overlays/`, `verdict.html`, `verdict.json`,
            `slices.json`; with a baseline `baseline/` and `comparison.html`.
        blessing: as TFX's Evaluator: `BLESSED` or `NOT_BLESSED`, property `blessed`, and
            `blessing_message`, which says why.
        policy: an `EvaluationPolicy` as JSON.
        split: of the examples.
    """
    rules = EvaluationPolicy.model_validate_json(policy)
    records = artifact_utils.get_split_uri([examples], split)
    with models.local_copy(records) as source, models.local_output(evaluation.uri) as folder:
        trained = models.load(model.uri)
        older = None if baseline_model is None else _load_baseline(baseline_model, trained)
        found, observed = _evaluate(trained, source, folder, rules)
        before = None
        if older is not None:
            before, _ = _evaluate(older, source, folder / "baseline", rules)
            compare(folder / "baseline", folder, output=folder / "comparison.html")
        parts = slices(observed.traits, rules.density)
        by_slice = {part.name: scores(found, part.images) for part in parts}
        old = None if before is None else {p.name: scores(before, p.images) for p in parts}
        verdict = judge(rules.thresholds, parts, by_slice, old)
        write_text(folder / "verdict.html", verdict_page(verdict, parts, by_slice, old))
        write_text(folder / "verdict.json", verdict.model_dump_json(indent=1) + "\n")
        listed = [
            {"slice": part.name, "limits": part.limits, "images": len(part.images)}
            | {"scores": by_slice[part.name]}
            for part in parts
        ]
        write_text(folder / "slices.json", json.dumps(listed, indent=1) + "\n")
    for name in RECORDED:
        value = by_slice[""].get(name)
        if value is not None:
            evaluation.set_float_custom_property(name, float(value))
    evaluation.set_int_custom_property("images", len(found.images))
    _bless(blessing, verdict, model, baseline_model)
    logging.getLogger("absl").info("Evaluator: %s", verdict.message)


def _evaluate(
    model: TrainedModel, source: Any, folder: Any, rules: EvaluationPolicy
) -> tuple[Evaluation, Observed]:
    channels = structure(model.network).channels
    images = LabelledImages(source, None, model.card.labels.as_rule(), channels)
    observed = Observed(images)
    found = evaluate_samples(
        model,
        observed,
        output=folder,
        settings=rules.scores,
        prediction=rules.prediction,
        data=str(source),
        notes=images.notes,
    )
    return found, observed


def _load_baseline(artifact: Model, model: TrainedModel) -> TrainedModel:
    """The baseline model, which must be comparable with this one."""
    try:
        baseline = models.load(artifact.uri)
    except DataError as error:
        raise DataError(
            f"the baseline model, {artifact.id}, cannot be compared with: {error}. Put its "
            "folder back, or give the pipeline another root, whose first is compared with none"
        ) from error
    _require_comparable(model, baseline)
    return baseline


def _require_comparable(model: TrainedModel, baseline: TrainedModel) -> None:
    ours, theirs = model.card.classes, baseline.card.classes
    if ours != theirs or model.card.labels.as_rule() != baseline.card.labels.as_rule():
        raise ConfigError(
            f"the baseline model has the classes {', '.join(theirs)}, this one "
            f"{', '.join(ours)}, or reads labels otherwise: they cannot be compared. Give the "
            "pipeline another name, whose first model is compared with none"
        )
    channels = [structure(one.network).channels for one in (model, baseline)]
    if channels[0] != channels[1]:
        raise ConfigError(
            f"the baseline model takes images of {channels[1]} channels, this one of "
            f"{channels[0]}: they cannot be compared. Give the pipeline another name, whose first "
            "model is compared with none"
        )


def _bless(blessing: ModelBlessing, verdict: Verdict, model: Model, baseline: Model | None) -> None:
    """The files and properties that TFX's Evaluator writes."""
    blessing.set_string_custom_property(
        constants.ARTIFACT_PROPERTY_CURRENT_MODEL_URI_KEY, model.uri
    )
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY, model.id)
    if baseline is not None:
        blessing.set_string_custom_property(
            constants.ARTIFACT_PROPERTY_BASELINE_MODEL_URI_KEY, baseline.uri
        )
        blessing.set_int_custom_property(
            constants.ARTIFACT_PROPERTY_BASELINE_MODEL_ID_KEY, baseline.id
        )
    blessing.set_string_custom_property(
        constants.ARTIFACT_PROPERTY_BLESSING_MESSAGE_KEY, verdict.message
    )
    name = constants.BLESSED_FILE_NAME if verdict.blessed else constants.NOT_BLESSED_FILE_NAME
    with models.local_output(blessing.uri) as folder:
        (folder / name).write_text("", encoding="utf-8")
    value = constants.BLESSED_VALUE if verdict.blessed else constants.NOT_BLESSED_VALUE
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, value)
