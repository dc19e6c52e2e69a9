"""Overlays of large images: scaled down by a whole number, read by strips."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from keras_unet.inference.files import segmentation
from keras_unet.inference.files.state import Scratch
from keras_unet.inference.inputs import ArraySource
from keras_unet.pictures import overlay


@pytest.mark.parametrize("shape", [(61, 90, 1), (90, 61, 3), (5, 500, 1), (30, 30, 1)])
@pytest.mark.parametrize("strip", [1, 1 << 26])
def test_means_of_squares_under_every_so_many_th_class(tmp_path, monkeypatch, shape, strip):
    monkeypatch.setattr(segmentation, "_STRIP_BYTES", strip)
    rng = np.random.default_rng(0)
    image, classes = rng.integers(0, 255, shape, np.uint8), rng.integers(0, 3, shape[:2], np.uint8)
    step = min(-(-max(shape[:2]) // 30), *shape[:2])
    h, w = shape[0] // step, shape[1] // step
    small = image[: h * step, : w * step].reshape(h, step, w, step, -1).mean((1, 3))
    with Scratch(tmp_path / "classes", [(1, *shape[:2])], np.uint8) as scratch:
        scratch.write(0, 0, classes[..., None])
        planes = SimpleNamespace(classes=scratch, labels=None)
        given, legend = segmentation.preview(ArraySource(image), planes, 0, "abc", longest=30)
    shown = classes[: h * step : step, : w * step : step].astype(np.int32)
    expected = overlay(small.astype(np.uint8), shown)
    assert given.shape == (h, w, 3)
    assert np.abs(given.astype(int) - expected).max() <= 1  # float32 means
    assert [entry.text for entry in legend] == ["b", "c"]
