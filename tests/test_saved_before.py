"""What version 0.3.0 saved is read, gone on with and answers as then; see saved_0_3_0/README.md."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import keras_unet
from keras_unet import losses, metrics
from keras_unet.augment import Augment, preset_settings
from keras_unet.evaluation import read_evaluation
from keras_unet.inference import predict_files
from keras_unet.models import load_model
from keras_unet.training import train
from keras_unet.training.build import environment
from keras_unet.training.checkpoint import Checkpoints
from keras_unet.training.cross_validation import cross_validate
from keras_unet.training.step import FusedAdamW

SAVED = Path(__file__).parent / "saved_0_3_0" / "files.zip"


@pytest.fixture
def saved(tmp_path):
    """The saved files in a folder of their own; the runs are told that it is where they began."""
    folder = tmp_path / "saved"
    with zipfile.ZipFile(SAVED) as archive:
        archive.extractall(folder)
    for file in (
        *folder.glob("*/run.json"),
        *folder.glob("*/*/run.json"),
        folder / "folds/splits.json",
    ):
        tree = json.loads(file.read_text())
        file.write_text(json.dumps({**tree, "directory": str(folder)}))
    return folder


def quiet():
    return Console(file=io.StringIO())


def weights(path):
    return load_model(path).network.get_weights()


def test_a_compiled_network_with_everything_registered(saved):
    model = keras.saving.load_model(saved / "compiled.keras")
    x = np.random.default_rng(0).normal(size=(2, 44, 44, 1)).astype("float32")
    answer = model.predict(x[:1], verbose=0)
    np.testing.assert_allclose(answer, np.load(saved / "compiled_answer.npy"), atol=1e-4)
    assert isinstance(model.optimizer, FusedAdamW)
    optimizer = model.optimizer
    assert (optimizer.weight_decay, optimizer.global_clipnorm) == (1e-2, 1.0)
    assert int(optimizer.iterations.value) == 1
    assert isinstance(model.loss, losses.Sum)
    truth = np.zeros(answer.shape[:-1], "int32")
    assert np.isfinite(model.train_on_batch(x[:1], truth)[0])
    assert any(isinstance(one, metrics.Dice) for one in model.metrics[-1].metrics)


@pytest.fixture
def layers(tmp_path):
    with zipfile.ZipFile(SAVED.with_name("layers.zip")) as archive:
        archive.extractall(tmp_path)
    return tmp_path


def test_layers_that_stand_for_keras_own(layers):
    """Batch normalization, bilinear upsampling and cropping, by the names they had."""
    known = json.loads((layers / "objects.json").read_text())
    image, answer = np.array(known["image"], np.float32), np.array(known["answer"])
    model = keras.saving.load_model(layers / "layers.keras", safe_mode=True)
    np.testing.assert_allclose(model(image), answer, atol=1e-5)
    network = load_model(layers / "layers.keras").network
    np.testing.assert_allclose(network(image), answer, atol=1e-5)


def test_objects_as_keras_serialized_them(layers):
    known = json.loads((layers / "objects.json").read_text())["objects"]
    augment, loss, iou, *_ = map(keras.saving.deserialize_keras_object, known)
    assert isinstance(augment, Augment)
    assert (augment.tile_size, augment.output_size, augment.seed) == ((20, 20), (4, 4), 3)
    assert augment.settings == preset_settings("nnunet")
    kinds = [losses.WeightedCrossEntropy, losses.Focal, losses.Dice]
    assert [type(term) for term in loss.losses] == kinds
    assert isinstance(iou, metrics.IoU) and iou.class_id == 1


def test_a_finished_run_and_its_card(saved):
    result = train(console=quiet(), resume=saved / "finished")
    assert result.evaluation == read_evaluation(saved / "finished")
    card = result.model.card
    assert (card.name, card.labels.kind) == ("finished", "instances")
    assert card.versions["keras_unet"] == "0.3.0"
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 1)).astype(np.uint8)
    assert keras_unet.predict(saved / "finished", image).shape == (40, 50, 2)


def test_a_checkpoint_and_a_run_that_goes_on_from_it(saved):
    """To the same bits on the machine that made the files; elsewhere, to nearly the same."""
    checkpoint = Checkpoints(saved / "stopped").read()
    assert checkpoint.path.name.startswith("000006-step-5-")
    assert (checkpoint.state["epoch"], checkpoint.state["step"]) == (1, 2)
    begun = json.loads((saved / "stopped" / "run.json").read_text())["environment"]
    train(console=quiet(), resume=saved / "stopped")
    same = {**environment(), "keras_unet": begun["keras_unet"]} == begun
    for name in ("last.keras", "best.keras"):
        ours, theirs = (weights(saved / run / name) for run in ("stopped", "finished"))
        for a, b in zip(ours, theirs, strict=True):
            if same:
                assert a.tobytes() == b.tobytes()
            np.testing.assert_allclose(a, b, atol=1e-3)
    rows = [(saved / run / "history.csv").read_text() for run in ("stopped", "finished")]
    assert not same or rows[0] == rows[1]
    assert not (saved / "stopped" / "checkpoints").exists()


def test_a_cross_validation_that_was_stopped_between_its_folds(saved):
    first = (saved / "folds" / "fold_0" / "best.keras").read_bytes()
    found = cross_validate(resume=saved / "folds", console=quiet())
    assert (saved / "folds" / "fold_0" / "best.keras").read_bytes() == first
    assert found.report["images"] == 4


def test_a_diffusion_model(saved):
    from keras_unet import diffusion

    model, card = diffusion.load_diffusion(saved / "diffusion")
    image = model.sample(np.zeros((1, 16, 16), np.int32), steps=2, seed=0)
    assert card.classes == ("background", "inside", "outline")
    assert image.shape == (1, 16, 16, 1) and np.all(np.isfinite(image))


def test_masks_that_were_predicted_are_known(saved):
    """The record beside them is read: what it says is there is neither refused nor lost."""
    record = json.loads((saved / "masks" / ".predict" / "cells_000.json").read_text())
    image = saved / "data" / "val" / "images" / "cells_000.png"
    changed = record["identity"]["input"]["changed_ns"]
    os.utime(image, ns=(changed, changed))
    mask = saved / "masks" / "cells_000_mask.png"
    before = np.asarray(Image.open(mask))
    said: list[str] = []
    predict_files(saved / "finished", image.parent, saved / "masks", masks=True, say=said.append)
    assert np.mean(np.asarray(Image.open(mask)) != before) < 0.01
    assert not any("results were changed since" in text for text in said), said
