"""A command's way through the package: how many files it takes, and what it reads."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image
from tracing import trace


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from conftest import make_trained

    from keras_unet.models import TrainedModel, build_unet, save_model

    network = build_unet((None, None, 1), 2, filters=2, depth=1)
    folder = tmp_path_factory.mktemp("run")
    save_model(TrainedModel(network, make_trained().card), folder / "best.keras")
    return folder


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8)).save(path)
    return path


def test_predict_takes_few_files_and_decodes_an_image_once(model, image, tmp_path):
    found = trace("predict", model, image, "--output", tmp_path / "out", watch=image)
    assert "1 file segmented" in found.printed
    assert found.opened == {str(image): 2}  # its header, then its pixels
    assert found.decoded == 1
    assert len(found.files) <= 35, found.files


def test_a_stack_is_opened_as_often(model, tmp_path):
    stack = tmp_path / "a.tif"
    tifffile.imwrite(stack, np.zeros((3, 40, 50), np.uint8), photometric="minisblack")
    found = trace("predict", model, stack, "--output", tmp_path / "out", watch=stack)
    assert found.opened == {str(stack): 2}


def test_objects_decode_mask_and_image_once(image, tmp_path):
    mask = image.with_name("a_mask.png")
    Image.fromarray(np.eye(40, 50, dtype=np.uint8) * 255).save(mask)
    given = ("--images", image, "--output", tmp_path / "out")
    found = trace("objects", mask, *given, watch=image.parent)
    assert found.opened == {str(mask): 2, str(image): 2}
    assert found.decoded == 2
