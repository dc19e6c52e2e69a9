"""A run on instance labels ends with how its model finds objects, in the model's card."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from keras_unet import segment
from keras_unet.data.images import read_image
from keras_unet.data.synthetic import write_dataset
from keras_unet.evaluation.instances import object_counts, rates
from keras_unet.models import Decoding, load_model
from keras_unet.training import load_config, train

SETTINGS = [
    "model.filters=4",
    "model.depth=2",
    "model.padding=same",
    "model.normalization=batch",
    "loss.class_weights=none",
    "loss.dice=1",
    "augment=flips",
    "tile=64",
    "batch_size=4",
    "steps=30",
    "steps_per_epoch=30",
    "learning_rate=0.01",
    "precision=float32",
    "data.label_kind=instances",
]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    data = write_dataset(folder / "data", train=5, val=2, size=(96, 96), seed=0)
    where = {"images": data / "train", "validation": data / "val"}
    config = load_config(None, [*SETTINGS, f"output={folder}", "name=run"], data=where)
    log = io.StringIO()
    return data, train(config, Console(file=log, width=200)), log


def test_the_card_holds_what_was_fitted(result):
    _, done, log = result
    card = load_model(done.folder).card
    assert card.objects is not None and card.objects.fitted_on == "5 training images"
    assert card.objects == done.model.card.objects
    assert f"Objects: {card.objects}" in log.getvalue()
    last = load_model(done.folder / "last.keras").card
    assert last.objects is not None and last.objects.fitted_on == ""  # what the labels alone say


def test_the_report_scores_what_segment_answers(result):
    data, done, _ = result
    counts = 0
    for path in sorted((data / "val" / "images").iterdir()):
        truth = read_image(data / "val" / "labels" / path.name)[..., 0].astype(np.int32)
        found = segment(done.model, read_image(path))
        counts = counts + object_counts(truth, found)
    scored = done.evaluation.total["objects"]
    for name in ("f1", "merged", "split", "map_pooled"):
        assert scored[name] == pytest.approx(float(rates(counts)[name]), rel=1e-5, nan_ok=True)
    assert any("Predicted objects: threshold" in note for note in done.evaluation.notes)


def test_a_finished_run_keeps_it(result):
    _, done, _ = result
    before = (done.folder / "best.keras").read_bytes()
    again = train(resume=done.folder, verbose=0)
    assert again.model.card.objects == done.model.card.objects != Decoding()
    assert (done.folder / "best.keras").read_bytes() == before
