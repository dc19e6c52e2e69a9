"""Labelled images as evaluation reads them: what is worth a look in them is noted."""

from __future__ import annotations

import numpy as np
from PIL import Image

from keras_unet.data import LabelRule
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
