"""A training command's way through the package: how many files it takes, what it opens."""

from __future__ import annotations

import io

import pytest
from PIL.ImageFile import ImageFile
from rich.console import Console
from traced import trace

from keras_unet.data.synthetic import write_dataset
from keras_unet.training import load_config
from keras_unet.training.cross_validation import cross_validate

SMALL = ["model.filters=2", "model.depth=1", "tile=44", "steps=2", "steps_per_epoch=2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("cells"), train=4, val=1, size=(48, 48), seed=0)


def test_train_runs_few_files_and_decodes_each_image_once(data, tmp_path):
    """From the command's function on: the plan, the training, the scores and their report."""
    settings = [part for setting in SMALL for part in ("--set", setting)]
    settings += ["--instances", "--validation", data / "val"]
    found = trace("train", data / "train", *settings, cwd=tmp_path)
    inputs = {str(path): 0 for path in data.rglob("*.png")}
    assert len(inputs) == 10
    for path, count in found.opened.items():
        if path in inputs:
            inputs[path] = count
    assert set(inputs.values()) <= {1, 2}, inputs  # the header, and the pixels
    assert found.decoded == len(inputs)
    assert len(found.files) <= 65, found.files


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
