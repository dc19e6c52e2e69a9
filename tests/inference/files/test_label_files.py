"""`predict_files` by a model of instance labels: numbered objects, and what comes beside them."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import tifffile
from PIL import Image

from keras_unet import segment
from keras_unet.data import LabelRule, Normalization, make_cells
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference import predict, predict_files, to_instances
from keras_unet.inference.files import mask_formats
from keras_unet.inference.objects.mask_objects import objects_from_masks
from keras_unet.models import Decoding, ModelCard, TrainedModel, build_unet, save_model
from keras_unet.pictures import object_overlay, without_legend


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network of random weights whose foreground is what is brighter than most."""
    import keras

    keras.utils.set_random_seed(1)
    network = build_unet((None, None, 1), 2, filters=2, depth=1)
    image = make_cells((80, 120), seed=0)[0]
    level = float(np.quantile(predict(network, image, normalization="image")[..., 1], 0.8))
    card = ModelCard(
        name="test",
        classes=("background", "cell"),
        normalization=Normalization(),
        labels=LabelRule(kind="instances").resolve(range(9)),
        image_dtype="uint8",
        created="2026-01-01T00:00:00+00:00",
        versions={},
        config={},
        data={},
        metrics={},
        objects=Decoding(threshold=level, min_size=3),
    )
    path = tmp_path_factory.mktemp("model") / "m.keras"
    return save_model(TrainedModel(network, card), path)


@pytest.fixture
def cells(tmp_path):
    image = make_cells((80, 120), seed=0)[0]
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(image).save(folder / "cells.png")
    return image, folder


def test_labels_and_overlay_are_the_answer(model, cells, tmp_path):
    image, folder = cells
    said = []
    done = predict_files(model, folder, tmp_path / "out", say=said.append)
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if path.name[0] != ".")
    assert names == ["cells_labels.png", "cells_overlay.png"]
    assert [path.name for path in done.written] == ["cells_labels.png"]
    found = np.asarray(Image.open(tmp_path / "out" / "cells_labels.png"))
    assert found.dtype == np.uint16 and found.max() > 5
    assert np.array_equal(found, segment(model, image))
    with Image.open(tmp_path / "out" / "cells_labels.png") as file:
        assert "Classes" not in file.info  # numbers of objects are no classes
    with Image.open(tmp_path / "out" / "cells_overlay.png") as file:
        drawn = np.asarray(without_legend(file))
    assert np.array_equal(drawn, object_overlay(image, found))
    assert any(line.startswith("Objects: threshold") for line in said)
    assert predict_files(model, folder, tmp_path / "out").skipped


def test_what_is_asked_for_beside(model, cells, tmp_path):
    image, folder = cells
    predict_files(
        model,
        folder,
        tmp_path / "out",
        masks=True,
        probabilities=True,
        format="tiff",
        objects=("labels", "csv"),
        min_size=0,
        split="none",
    )
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if path.name[0] != ".")
    assert names == [
        "cells_labels.tif",
        "cells_mask.tif",
        "cells_objects.csv",
        "cells_overlay.png",
        "cells_probabilities.tif",
    ]
    labels = tifffile.imread(tmp_path / "out" / "cells_labels.tif")
    expected = segment(model, image, min_size=0, split="none")
    assert np.array_equal(labels, expected)
    mask = tifffile.imread(tmp_path / "out" / "cells_mask.tif")
    assert set(np.unique(mask)) == {0, 1} or set(np.unique(mask)) == {0, 255}
    assert not (labels > 0)[mask == 0].all()
    table = (tmp_path / "out" / "cells_objects.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(table.splitlines()))
    areas = np.bincount(labels.ravel())[1:]
    assert [int(float(row["area_px"])) for row in rows] == areas.tolist()
    assert {row["class"] for row in rows} == {"cell"}


def test_a_stack_is_found_page_by_page(model, tmp_path):
    pages = np.stack([make_cells((60, 80), seed=seed)[0] for seed in range(3)])
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    predict_files(model, tmp_path / "stack.tif", tmp_path / "out")
    found = tifffile.imread(tmp_path / "out" / "stack_labels.tif")
    assert found.shape == pages.shape and found.dtype == np.uint16
    for page, labels in zip(pages, found, strict=True):
        assert np.array_equal(labels, segment(model, page))


def test_objects_takes_the_labels_as_they_are(model, cells, tmp_path):
    image, folder = cells
    predict_files(model, folder, tmp_path / "out")
    result = objects_from_masks(tmp_path / "out", tmp_path / "measured", images=folder)
    assert result.objects == segment(model, image).max()
    # the same name without `predict` behind it may mean anything: values are classes
    mask = np.zeros((20, 20), np.uint8)
    mask[2:6, 2:6] = mask[10:14, 2:6] = 1
    (tmp_path / "mine").mkdir()
    Image.fromarray(mask).save(tmp_path / "mine" / "a_labels.png")
    assert objects_from_masks(tmp_path / "mine", tmp_path / "m2").objects == 2


def test_more_objects_than_png_holds_are_refused(model, cells, tmp_path, monkeypatch):
    _, folder = cells
    png = mask_formats.MASK_FORMATS["png"]
    full = png._replace(refuses=lambda shapes, dtype: "so many" if dtype == np.uint16 else None)
    monkeypatch.setitem(mask_formats.MASK_FORMATS, "png", full)
    with pytest.raises(DataError, match=r"cells.png: \d+ objects; PNG can't hold so many"):
        predict_files(model, folder, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.png"))


def test_options_of_objects_need_objects(model, cells, tmp_path):
    _, folder = cells
    network = build_unet((None, None, 1), 2, filters=2, depth=1)
    with pytest.raises(ConfigError, match="min_size: this model answers classes"):
        predict_files(network, folder, tmp_path / "out", min_size=5)
    with pytest.raises(ConfigError, match="neck"):
        predict_files(model, folder, tmp_path / "out", neck=1.5)


def test_resumed_labels_are_the_same_to_the_byte(model, tmp_path):
    """Killed while the second image is computed, the call ends as it would have at once."""
    folder = tmp_path / "in"
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(make_cells((150, 130), seed=seed)[0]).save(folder / f"{seed}.png")
    options = {"tile": 60, "batch_size": 1}
    predict_files(model, folder, tmp_path / "whole", **options)

    class Killed(Exception):
        pass

    def stop(done, total):
        if done > 0.7 * total:
            raise Killed

    with pytest.raises(Killed):
        predict_files(model, folder, tmp_path / "out", progress=stop, **options)
    predict_files(model, folder, tmp_path / "out", **options)
    for name in ("0_labels.png", "1_labels.png", "1_overlay.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    truth = to_instances(np.asarray(Image.open(tmp_path / "out" / "1_labels.png")) > 0)
    assert truth.max() > 0
