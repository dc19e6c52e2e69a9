"""Labelled images as evaluation reads them: what is worth a look in them is noted."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from keras_unet.data import LabelRule
from keras_unet.errors import DataError
from keras_unet.evaluation.scoring import LabelledImages


def test_palettes_and_orientations_are_noted_as_before_training(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    exif = Image.Exif()
    exif[0x112] = 3
    grey = np.random.default_rng(0).integers(0, 255, (20, 20)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "images" / "a.png", exif=exif)
    labels = Image.fromarray((grey > 128).astype(np.uint8))
    labels.putpalette([255, 255, 255, 0, 0, 0])
    labels.save(tmp_path / "labels" / "a.png")
    notes = LabelledImages(tmp_path, None, LabelRule(num_classes=2), channels=1).notes
    assert any("show 0 white, 1 black" in note for note in notes)
    assert any("1 of 1 images state another orientation" in note for note in notes)


def test_classes_that_nobody_stated_are_told_from_objects(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    grey = np.random.default_rng(0).integers(0, 255, (20, 20)).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "images" / "a.png")
    Image.fromarray(grey % 3).save(tmp_path / "labels" / "a.png")
    (sample,) = LabelledImages(tmp_path, None, LabelRule(), channels=1)
    np.testing.assert_array_equal(sample.classes, grey % 3)
    labels = np.zeros((20, 20), np.uint8)
    labels[2:5, 2:5], labels[8:11, 8:11] = 1, 2
    Image.fromarray(labels).save(tmp_path / "labels" / "a.png")
    with pytest.raises(DataError, match="one single region in every image"):
        LabelledImages(tmp_path, None, LabelRule(), channels=1)
