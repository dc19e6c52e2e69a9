"""What version 0.3.0 wrote is read, and a run that it began goes on.

saved_with_0.3.0.zip holds, written on 30 November 2026: compiled.keras, a network with batch
normalization and bilinear upsampling, its loss, metrics and AdamW; objects.json, an augmentation,
losses and metrics as Keras serializes them, and what the network gave for an image; run, a folder
of a run that was killed after step 4 of 8, with a checkpoint and a model with its card; cells, the
images of the run.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from rich.console import Console

import keras_unet
from keras_unet import losses, metrics
from keras_unet.augment import Augment, preset_settings
from keras_unet.models.keras_file import read_card
from keras_unet.training import train

SAVED = Path(__file__).with_name("saved_with_0.3.0.zip")


@pytest.fixture
def saved(tmp_path):
    with zipfile.ZipFile(SAVED) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def test_a_compiled_network(saved):
    known = json.loads((saved / "objects.json").read_text())
    image, answer = np.array(known["image"], np.float32), np.array(known["answer"])
    model = keras.models.load_model(saved / "compiled.keras", safe_mode=True)
    np.testing.assert_allclose(model(image), answer, atol=1e-5)
    assert isinstance(model.loss, losses.Sum)
    assert model.optimizer.iterations == 1
    np.testing.assert_allclose(
        keras_unet.load_model(saved / "compiled.keras").network(image), answer, atol=1e-5
    )


def test_objects_as_keras_serialized_them(saved):
    known = json.loads((saved / "objects.json").read_text())["objects"]
    augment, loss, iou, *_ = map(keras.saving.deserialize_keras_object, known)
    assert isinstance(augment, Augment)
    assert (augment.tile_size, augment.output_size, augment.seed) == ((20, 20), (4, 4), 3)
    assert augment.settings == preset_settings("nnunet")
    kinds = [losses.WeightedCrossEntropy, losses.Focal, losses.Dice]
    assert [type(term) for term in loss.losses] == kinds
    assert isinstance(iou, metrics.IoU) and iou.class_id == 1


def test_a_run_goes_on(saved):
    record = saved / "run" / "run.json"
    record.write_text(record.read_text().replace("PLACE", str(saved)))
    card = read_card(saved / "run" / "best.keras")
    assert (card.source, card.versions["keras_unet"]) == ("train", "0.3.0")
    said = io.StringIO()
    result = train(console=Console(file=said, width=500), resume=saved / "run")
    assert "Going on at step 4" in said.getvalue()
    assert np.isfinite(result.evaluation.total["mean_dice"])
    assert json.loads(record.read_text())["finished"]
    assert len((saved / "run" / "history.csv").read_text().splitlines()) == 4
