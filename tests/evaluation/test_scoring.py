"""`evaluate` from files to files, with a small network of random weights."""

from __future__ import annotations

import gc
import json
import weakref

import numpy as np
import pytest
from conftest import make_trained
from PIL import Image

from keras_unet.data import LabelRule, write_dataset
from keras_unet.data.check import load_samples
from keras_unet.data.pipeline import scored_classes
from keras_unet.data.samples import Sample
from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation import evaluate, evaluate_samples, isbi2012, read_evaluation
from keras_unet.evaluation.confusion import confusion_matrix, scores
from keras_unet.evaluation.evaluation import ScoreSettings
from keras_unet.evaluation.instances import object_scores
from keras_unet.evaluation.scoring import LabelledImages, Scorer
from keras_unet.inference import predict, to_classes, to_instances
from keras_unet.models import TrainedModel, save_model


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    return write_dataset(folder, train=1, val=3, size=(40, 52), seed=0) / "val"


@pytest.fixture(scope="module")
def cells():
    """A network whose labels are instances."""
    trained = make_trained(padding="same")
    labels = LabelRule(kind="instances").resolve(range(9))
    return TrainedModel(trained.network, trained.card.model_copy(update={"labels": labels}))


@pytest.fixture(scope="module")
def evaluated(cells, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    return evaluate(cells, data, output=folder, settings={"resamples": 100}), folder


def test_scores_are_those_of_what_predict_gives(cells, data, evaluated):
    evaluation, folder = evaluated
    samples, _ = load_samples(data, rule=cells.card.labels.as_rule())
    matrix, truths, seen = np.zeros((2, 2), int), [], []
    for sample in samples:
        classes = to_classes(predict(cells, sample.image))
        one = confusion_matrix(scored_classes(sample, 2), classes, 2, ignore_class=-1)
        matrix += one
        expected = scores(one)["mean_iou"]
        assert evaluation.images[sample.name]["mean_iou"] == pytest.approx(expected, abs=1e-6)
        truths.append(sample.instances)
        seen.append(to_instances(classes > 0))
    assert evaluation.total["iou"]["cell"] == pytest.approx(scores(matrix)["iou"][1], abs=1e-6)
    objects = object_scores(truths, seen)
    assert evaluation.total["objects"]["pq"] == pytest.approx(objects["pq"], abs=1e-6)
    assert read_evaluation(folder) == evaluation
    names = {file.name for file in folder.iterdir()}
    assert names == {"evaluation.json", "report.html", "overlays"}
    assert {f.stem for f in (folder / "overlays").iterdir()} == set(evaluation.images)
    again = evaluate_samples(cells, samples, settings={"resamples": 100})
    assert again.total == evaluation.total and again.intervals == evaluation.intervals


def test_several_models_are_scored_together(cells, data, evaluated):
    twice = evaluate([cells, cells], data, settings={"resamples": 0})
    assert twice.total["iou"] == pytest.approx(evaluated[0].total["iou"], abs=1e-5)
    assert twice.intervals["mean_iou"] == [None, None]
    assert [note.partition(":")[0] for note in twice.notes] == ["Predicted objects"]
    turned = evaluate(cells, data, prediction={"symmetries": "flips"}, settings={"resamples": 0})
    assert turned.total["brier"] != evaluated[0].total["brier"]


def test_a_saved_model_and_the_challenges_metrics(data, tmp_path):
    trained = make_trained(padding="same")
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for file in sorted((data / "images").iterdir()):
        labels = np.asarray(Image.open(data / "labels" / file.name))
        Image.fromarray((255 * (labels > 0)).astype(np.uint8)).save(
            tmp_path / "data" / "labels" / file.name
        )
        Image.open(file).save(tmp_path / "data" / "images" / file.name)
    model = save_model(trained, tmp_path / "best.keras")
    found = evaluate(model, tmp_path / "data", settings={"isbi": True, "resamples": 50})
    samples, _ = load_samples(tmp_path / "data")
    truth = np.stack([sample.classes for sample in samples])
    given = np.stack([predict(model, sample.image)[..., 1] for sample in samples])
    expected = isbi2012(truth, given)
    for name, value in found.total["isbi"].items():
        assert value == pytest.approx(expected[name], abs=1e-6)
    assert "objects" not in found.total  # class labels, and not asked for


def test_images_are_read_one_after_the_other(cells, data):
    """While one is read, of those before it only the last is still held, by the loop over them."""
    alive: list[weakref.ref] = []

    class Watched(LabelledImages):
        def __iter__(self):
            for sample in super().__iter__():
                gc.collect()
                assert not [ref for ref in alive[:-1] if ref() is not None]
                alive.append(weakref.ref(sample))
                yield sample
                del sample

    rule = cells.card.labels.as_rule()
    evaluation = evaluate_samples(cells, Watched(data, None, rule, 1), settings={"resamples": 0})
    assert len(alive) == len(evaluation.images) == 3


def test_all_bad_files_are_named_before_anything_is_written(cells, data, tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for file in (data / folder).iterdir():
            (tmp_path / folder / file.name).write_bytes(file.read_bytes())
    first, second, _ = sorted((tmp_path / "images").iterdir())
    first.write_bytes(b"no image")
    Image.new("RGB", (52, 40)).save(second)
    (tmp_path / "labels" / "extra.png").write_bytes((data / "labels" / first.name).read_bytes())
    with pytest.raises(DataError) as error:
        evaluate(cells, tmp_path, output=tmp_path / "out")
    for part in (
        "3 problems",
        first.name,
        f"{second.name}: has 3 channels; expected 1",
        "extra.png",
    ):
        assert part in str(error.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="has no labels"):
        evaluate(cells, data / "images")


def test_a_network_of_a_script_scores_the_same(cells, data, evaluated):
    stated = {"normalization": "image", "class_names": "background,cell"}
    rule = LabelRule(kind="instances")
    how = {**evaluated[0].settings.finding, "resamples": 100}  # objects, as the card has it
    found = evaluate(cells.network, data, rule=rule, settings=how, **stated)
    assert found.total == evaluated[0].total
    with pytest.raises(DataError, match="(?s)3 problems.*is one object.*--instances"):
        evaluate(cells.network, data, **stated)
    with pytest.raises(DataError, match="labels of 9 classes; expected at most 2"):
        evaluate(cells.network, data, rule=LabelRule(num_classes=9), **stated)


def test_settings_and_models_that_do_not_fit(cells, data):
    with pytest.raises(ConfigError, match="tolerence"):
        evaluate(cells, data, settings={"tolerence": 3})
    with pytest.raises(ConfigError, match="tolerance"):
        evaluate(cells, data, settings={"tolerance": -1})
    with pytest.raises(ConfigError, match="tolerance"):  # JSON has no infinity
        evaluate(cells, data, settings={"tolerance": float("inf")})
    with pytest.raises(ConfigError, match="nucleus"):
        evaluate(cells, data, settings={"objects": True, "object_class": "nucleus"})
    with pytest.raises(DataError, match="no image to score"):
        evaluate_samples(cells, [])
    (sample, *_) = load_samples(data, rule=cells.card.labels.as_rule())[0]
    with pytest.raises(DataError, match="two images of this name"):
        evaluate_samples(cells, [sample, sample])
    scorer = Scorer([cells.card], ScoreSettings(), 1)
    with pytest.raises(DataError, match=f"{sample.name}.*not finite"):
        scorer.add(sample, np.full((*sample.image.shape[:2], 2), np.nan, np.float32))


def test_undefined_scores_are_null_in_the_file(cells, tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        image = rng.integers(0, 255, (24, 24), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{name}.png")
        Image.new("L", (24, 24)).save(tmp_path / "labels" / f"{name}.png")
    evaluation = evaluate(cells, tmp_path, output=tmp_path / "out", settings={"resamples": 20})
    stored = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert stored["total"]["recall"]["cell"] is None
    assert stored["total"]["objects"]["seg"] is None
    assert evaluation.total["average_precision"]["cell"] is None
    assert (tmp_path / "out" / "report.html").is_file()


def _masks(folder, values, seed=0):
    """Images with a square each, whose labels hold the two values (and a third in a corner)."""
    rng = np.random.default_rng(seed)
    for number in range(3):
        labels = np.full((30, 40), values[0], np.uint8)
        labels[8:20, 10:25] = values[1]
        labels[0, :3] = values[-1]
        for kind, array in (("images", rng.integers(0, 255, labels.shape)), ("labels", labels)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(folder / kind / f"{number}.png")
    return folder


def _reads(values, ignore=None):
    """A network whose labels were stored so."""
    trained = make_trained(padding="same")
    labels = LabelRule(ignore=ignore).resolve(values)
    return TrainedModel(trained.network, trained.card.model_copy(update={"labels": labels}))


def test_either_way_to_write_a_mask_scores_the_same(tmp_path):
    found = [
        evaluate(_reads(known), _masks(tmp_path / f"{top}", (0, top, 0))).total
        for known in ((0, 1), (0, 255))
        for top in (1, 255)
    ]
    assert all(total == found[0] for total in found) and found[0]["iou"]["cell"] is not None


@pytest.mark.parametrize("output", [False, True])
def test_foreground_stored_as_the_value_that_does_not_count_is_told(tmp_path, output):
    data = _masks(tmp_path / "data", (0, 255, 255))
    folder = tmp_path / "out" if output else None
    evaluation = evaluate(_reads((0, 1), ignore=255), data, output=folder)
    assert evaluation.total["recall"]["cell"] is None
    (note,) = (n for n in evaluation.notes if "was 255 meant as a class here" in n)
    assert "15.2% of the pixels hold 255" in note
    if folder is not None:
        assert "was 255 meant as a class here" in (folder / "report.html").read_text("utf-8")


def test_labels_that_are_inverted_are_told():
    trained = make_trained(padding="same")
    scorer = Scorer([trained.card], ScoreSettings(), 1)
    classes = np.zeros((20, 20), np.int32)
    classes[:4] = 1
    sample = Sample("a", np.zeros((20, 20, 1), np.uint8), 1 - classes)
    scorer.add(sample, np.stack([1.0 - classes, classes], axis=-1))
    (said,) = scorer.finish().advice  # all else would mislead
    assert "exchanged they would in 100.0%" in said
