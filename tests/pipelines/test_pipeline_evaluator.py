"""The Evaluator: who is blessed, on which images, compared with whom."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.tfx
pytest.importorskip("tfx")

import model_artifacts as made
from tfx.components.util import model_utils
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import (
    LatestBlessedModelStrategy,
)
from tfx.types import standard_artifacts

from keras_unet import evaluate
from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation.evaluation import ScoreSettings
from keras_unet.models import build_unet, save_model
from pipelines import models
from pipelines.evaluator.component import SegmentationEvaluator
from pipelines.evaluator.known import score_names
from pipelines.evaluator.kubeflow import KubeflowEvaluator
from pipelines.evaluator.policy import EvaluationPolicy, Threshold


def evaluated(
    folder: Path, *thresholds, model=None, baseline=None, component=SegmentationEvaluator, **policy
):
    outputs = {
        "evaluation": made.output(standard_artifacts.ModelEvaluation, folder / "evaluation"),
        "blessing": made.output(standard_artifacts.ModelBlessing, folder / "blessing"),
    }
    rules = EvaluationPolicy(
        thresholds=thresholds, scores={"resamples": 0, "objects": True}, **policy
    )
    inputs = {
        "examples": made.examples(),
        "model": made.trained() if model is None else model,
        "baseline_model": baseline,
    }
    made.run(component, inputs, outputs, policy=rules.model_dump_json())
    return outputs["blessing"], outputs["evaluation"]


def test_scores_slices_and_blessing(tmp_path):
    blessing, evaluation = evaluated(
        tmp_path,
        Threshold(score="mean_iou", at_least=0.0),
        Threshold(score="mean_iou", slice="group", at_least=0.0),
        Threshold(score="pixel_error", slice="density=high", at_most=1.0),
        density=2,
    )
    assert model_utils.is_model_blessed(blessing)
    assert [path.name for path in (tmp_path / "blessing").iterdir()] == ["BLESSED"]
    assert blessing.get_int_custom_property("current_model_id") == 7
    assert blessing.get_string_custom_property("current_model") == made.trained().uri
    folder = tmp_path / "evaluation"
    parts = {one["slice"]: one for one in json.loads((folder / "slices.json").read_text())}
    assert list(parts) == ["", "group=mouse1", "group=mouse2", "density=low", "density=high"]
    assert [one["images"] for one in parts.values()][:3] == [4, 2, 2]
    classes = models.load(made.trained().uri).card.classes
    known = score_names(ScoreSettings(), classes, instances=True)  # before the training
    assert set(parts[""]["scores"]) == set(known)
    records = Path(made.examples().uri) / "Split-eval"
    whole = evaluate(models.load(made.trained().uri), records, settings={"resamples": 0})
    assert parts[""]["scores"]["mean_iou"] == whole.total["mean_iou"]
    assert parts[""]["scores"]["objects.f1"] == whole.total["objects"]["f1"]
    sums = [parts[name]["scores"]["objects.false_negatives"] for name in list(parts)[1:3]]
    assert sum(sums) == parts[""]["scores"]["objects.false_negatives"]
    assert evaluation.get_float_custom_property("mean_iou") == whole.total["mean_iou"]
    for name in ("report.html", "verdict.html", "evaluation.json", "overlays"):
        assert (folder / name).exists()
    page = (folder / "verdict.html").read_text()
    assert "<h1>Blessed</h1>" in page and "group=mouse2" in page


def test_without_a_threshold_nothing_is_blessed(tmp_path):
    """And Kubeflow's form of the component does the very same."""
    blessing, evaluation = evaluated(tmp_path, component=KubeflowEvaluator)
    assert not model_utils.is_model_blessed(blessing)
    assert [path.name for path in (tmp_path / "blessing").iterdir()] == ["NOT_BLESSED"]
    assert "no threshold is given" in blessing.get_string_custom_property("blessing_message")
    assert (Path(evaluation.uri) / "report.html").is_file()  # it is scored all the same


def test_a_worse_model_is_not_blessed_and_the_better_stays_the_latest(tmp_path):
    two = {7: made.trained(), 9: made.altered(tmp_path / "other", 9)}
    found = {}
    for number, model in two.items():
        _, evaluation = evaluated(tmp_path / str(number), model=model)
        found[number] = evaluation.get_float_custom_property("mean_iou")
    worse, better = (two[number] for number in sorted(found, key=found.__getitem__))
    assert found[better.id] - found[worse.id] > 0.002
    gain = Threshold(score="mean_iou", min_gain=-0.001)
    first, _ = evaluated(tmp_path / "a", gain, model=better)  # nothing to compare with
    second, evaluation = evaluated(tmp_path / "b", gain, model=worse, baseline=better)
    assert model_utils.is_model_blessed(first) and not model_utils.is_model_blessed(second)
    message = second.get_string_custom_property("blessing_message")
    assert "baseline model" in message and "gain -" in message
    assert second.get_int_custom_property("baseline_model_id") == better.id
    assert (Path(evaluation.uri) / "comparison.html").is_file()
    latest = LatestBlessedModelStrategy()._resolve(
        {"model": [worse, better], "blessing": [first, second]}, "model", "blessing"
    )
    assert [one.id for one in latest["model"]] == [better.id]
    back, _ = evaluated(tmp_path / "c", gain, model=better, baseline=worse)
    assert model_utils.is_model_blessed(back)


def test_models_of_other_classes_are_not_compared(tmp_path):
    other = made.copied(tmp_path / "other", 3)
    trained = models.load(other.uri)
    card = trained.card.model_copy(update={"classes": ("background", "nucleus")})
    save_model(trained._replace(card=card), tmp_path / "other" / models.KERAS / models.FILE)
    with pytest.raises(ConfigError, match="classes background, nucleus, this one"):
        evaluated(tmp_path / "a", Threshold(score="mean_iou", at_least=0), baseline=other)


def test_a_baseline_that_cannot_be_compared_with_is_named(tmp_path):
    """Before anything is scored: its folder was deleted, or it takes colour images."""
    limit = Threshold(score="mean_iou", min_gain=0)
    gone = made.artifact(standard_artifacts.Model, tmp_path / "gone", 3)
    with pytest.raises(DataError, match="the baseline model, 3, cannot be compared with: "):
        evaluated(tmp_path / "a", limit, baseline=gone)
    other = made.copied(tmp_path / "other", 3)
    trained = models.load(other.uri)
    colour = build_unet((None, None, 3), 2, filters=2, depth=1)
    save_model(trained._replace(network=colour), Path(other.uri) / models.KERAS / models.FILE)
    with pytest.raises(ConfigError, match="takes images of 3 channels, this one of 1"):
        evaluated(tmp_path / "b", limit, baseline=other)
    assert not list(tmp_path.rglob("evaluation.json"))
