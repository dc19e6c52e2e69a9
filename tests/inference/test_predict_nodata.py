"""Pixels that were never measured: what is predicted there, and that nothing else depends on it."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from conftest import make_trained
from PIL import Image

from keras_unet.data import write_dataset
from keras_unet.data.check import load_samples
from keras_unet.data.images import read_image
from keras_unet.errors import DataError
from keras_unet.evaluation import evaluate_samples
from keras_unet.inference import predict, predict_files
from keras_unet.models import save_model

RNG = np.random.default_rng(2)
HOLE = np.zeros((70, 90), bool)
HOLE[:9] = HOLE[30:40, 50:70] = True


@pytest.fixture(scope="module")
def model():
    return make_trained()


def _tif(path, pixels, tag=None):
    extra = [] if tag is None else [(42113, 2, 0, tag, True)]
    tifffile.imwrite(path, pixels, extratags=extra, metadata=None, tile=(32, 32), compression=8)
    return path


@pytest.mark.parametrize(
    "options", [{}, {"tile": 64}, {"symmetries": "flips"}, {"symmetries": "rotations7"}]
)
def test_the_rest_is_predicted_as_if_the_mean_stood_there(model, options):
    grey = RNG.integers(0, 250, HOLE.shape).astype(np.float32)
    holed = np.where(HOLE, np.nan, grey)
    inside = grey[~HOLE].astype(np.float64)
    rule = model.card.normalization
    assert rule.method == "image"
    whole = np.where(HOLE, 0, (grey - np.float32(inside.mean())) / np.float32(inside.std()))
    expected = predict(model.network, whole.astype(np.float32), **options)
    given = predict(model, holed, **options)
    np.testing.assert_allclose(given[~HOLE], expected[~HOLE], atol=2e-2)  # bfloat16
    assert (given[HOLE] == [1, 0]).all()


@pytest.mark.parametrize("blend", ["gaussian", "flat"])
def test_blended_tiles(blend):
    holed = np.where(HOLE, np.nan, RNG.normal(size=HOLE.shape)).astype(np.float32)
    given = predict(make_trained(padding="same"), holed, blend=blend, tile=48)
    assert (given[HOLE] == [1, 0]).all() and np.isfinite(given).all()


@pytest.mark.parametrize(
    ("dtype", "value", "tag"),
    [
        ("int16", -9999, "-9999"),
        ("uint8", 0, "0"),
        ("float32", -9999, "-9999"),
        ("float32", np.nan, None),
    ],
)
def test_files_agree_with_arrays(model, tmp_path, dtype, value, tag):
    grey = RNG.integers(1, 250, HOLE.shape).astype(dtype)
    holed = grey.copy()
    holed[HOLE] = value
    source, kept = tmp_path / "in", save_model(model, tmp_path / "m.keras")
    source.mkdir()
    _tif(source / "a.tif", holed, tag)
    said: list[str] = []
    out = tmp_path / "out"
    predict_files(kept, source, out, tile=60, probabilities=True, say=said.append)
    (note,) = (text for text in said if text.startswith("note"))
    assert f"a.tif: {HOLE.sum()} pixels were never measured" in note
    assert note.endswith("class background, 0 in the mask")
    expected = predict(kept, np.where(HOLE, np.nan, grey.astype(np.float32)), tile=60)
    shares = tifffile.imread(tmp_path / "out" / "a_probabilities.tif")
    np.testing.assert_array_equal(np.moveaxis(shares, 0, -1), expected)
    mask = np.asarray(Image.open(tmp_path / "out" / "a_mask.png"))
    np.testing.assert_array_equal(mask, 255 * expected.argmax(-1))
    if grey.dtype.kind == "f":
        np.testing.assert_array_equal(
            predict(kept, read_image(source / "a.tif"), tile=60), expected
        )


@pytest.mark.parametrize("method", ["image", "dataset"])
def test_an_image_without_a_measured_pixel_is_named(tmp_path, method):
    kept = save_model(make_trained(method), tmp_path / "m.keras")
    path = _tif(tmp_path / "empty.tif", np.zeros((64, 64), np.uint8), "0")
    with pytest.raises(DataError, match=r"empty\.tif: .*no measured pixel"):
        predict_files(kept, path, tmp_path / "out")


def test_evaluation_leaves_it_out(model, tmp_path):
    data = write_dataset(tmp_path / "cells", train=0, val=1, size=HOLE.shape, seed=0) / "val"
    (image,), (labels,) = (sorted((data / kind).iterdir()) for kind in ("images", "labels"))
    pixels, truth = read_image(image)[..., 0].astype(np.float32), np.asarray(Image.open(labels))
    image.unlink()
    labels.unlink()
    _tif(image.with_suffix(".tif"), np.where(HOLE, np.nan, pixels).astype(np.float32))
    found = []
    for fill in (0, 1):
        tifffile.imwrite(labels.with_suffix(".tif"), np.where(HOLE, fill, truth > 0).astype("u1"))
        samples, _ = load_samples(data, for_scoring=True)
        found.append(evaluate_samples(model, samples))
        matrix = np.array(next(iter(found[-1].counts.values()))["confusion"])
        assert matrix.sum() == (~HOLE).sum()
    assert found[0].total == found[1].total
