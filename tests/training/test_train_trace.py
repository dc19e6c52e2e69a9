"""A training command's way through the package: how many files it takes, what it opens."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from PIL.ImageFile import ImageFile
from rich.console import Console
from tracing import trace

from keras_unet.data.synthetic import write_dataset
from keras_unet.training import load_config
from keras_unet.training.cross_validation import cross_validate

SMALL = ["model.filters=2", "model.depth=1", "tile=44", "steps=2", "steps_per_epoch=2"]


@pytest.fixture
def data(tmp_path):
    return write_dataset(tmp_path / "cells", train=4, val=1, size=(48, 48), seed=0)


def test_train_runs_few_files_and_decodes_each_image_once(data, tmp_path):
    """From the command's function on: the plan, the training, the scores and their report."""
    for path in data.glob("*/labels/*.png"):
        objects = np.asarray(Image.open(path))
        Image.fromarray(np.uint8(255 * (objects > 0))).save(path)
    settings = [part for setting in SMALL for part in ("--set", setting)]
    settings += ["--validation", data / "val"]
    since = "cli/train.py:train"
    found = trace("train", data / "train", *settings, watch=data, since=since, cwd=tmp_path)
    inputs = sorted(map(str, data.rglob("*.png")))
    assert sorted(found.opened) == inputs and len(inputs) == 10
    assert set(found.opened.values()) <= {1, 2}, found.opened  # the header, and the pixels
    assert found.decoded == len(inputs)
    # 65 before class names, partial labels, scale, models by name and advice had files of their own
    assert len(found.files) <= 70, found.files


def test_a_cross_validation_decodes_each_image_once_for_all_folds(data, tmp_path, monkeypatch):
    real, decoded = ImageFile.load, []

    def load(image):
        if image.tile:  # what is left to decode
            decoded.append(image)
        return real(image)

    monkeypatch.setattr(ImageFile, "load", load)
    where = {"images": data / "train"}
    settings = [*SMALL, "data.label_kind=instances", f"output={tmp_path}", "name=folds"]
    config = load_config(None, settings, data=where)
    assert cross_validate(config, 2, Console(file=io.StringIO())).report is not None
    assert len(decoded) == 8
