"""Ranking of unlabelled images: doubt counts, size and emptiness do not, likenesses come late."""

from __future__ import annotations

import csv
import re

import numpy as np
import pytest
import tifffile
from PIL import Image

import keras_unet
from keras_unet.data import LabelRule
from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation.ranking import RankedImage, _order, doubt
from keras_unet.models.decoding import Decoding


def answer(*objects, size=(80, 80), haze=0.0):
    """Probabilities [H, W, 2] with squares of 20 px: (top, left, p)."""
    p = np.full(size, haze, np.float32)
    for top, left, chance in objects:
        p[top : top + 20, left : left + 20] = chance
    return np.stack([1 - p, p], axis=-1)


def test_doubt_grows_with_what_is_expected_to_be_wrong():
    sure, unsure, undecided = (doubt(answer((5, 5, p))).uncertainty for p in (0.99, 0.8, 0.55))
    assert sure == 0  # below 0.05 it is no doubt
    assert unsure == pytest.approx(400 * 0.2 / (400 * 0.2 + 400 + 100))
    assert 0 < unsure < undecided < 1
    missed = doubt(answer((5, 5, 0.45))).uncertainty  # nothing is found, and much doubted
    assert missed > undecided


def test_neither_size_nor_empty_background_counts():
    seen = doubt(answer((5, 5, 0.8)))
    wide = doubt(answer((5, 5, 0.8), size=(800, 700), haze=0.04))
    assert wide.uncertainty == pytest.approx(seen.uncertainty)
    assert wide.foreground == pytest.approx(400 / 560000)
    assert doubt(answer()).uncertainty == doubt(answer(haze=0.04)).uncertainty == 0


def test_each_object_counts_once():
    decoding = Decoding(min_size=0)
    given = answer((5, 5, 0.99), (40, 40, 0.99), (55, 10, 0.99))
    given[5:9, 60:64] = (0.4, 0.6)  # a doubtful one, of 16 pixels among 1,216
    seen = doubt(given, decoding)
    assert seen.objects == 4
    assert seen.uncertainty == pytest.approx((doubt(given).uncertainty + (0.03 + 0.4) / 4) / 2)
    assert doubt(answer(), decoding)[1:] == (0.0, 0.0, 0)


def test_one_channel_and_several_classes():
    one = answer((5, 5, 0.8))
    assert doubt(one[..., 1:]).uncertainty == doubt(one).uncertainty
    third = np.concatenate([one, np.zeros_like(one[..., :1])], axis=-1)
    assert doubt(third).uncertainty == doubt(one).uncertainty
    with pytest.raises(DataError, match="not finite"):
        doubt(np.full((4, 4, 2), np.nan, np.float32))


def test_likenesses_come_late():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 256))
    near = a + 0.1 * rng.normal(size=256)
    features = np.stack([each / np.linalg.norm(each) for each in (a, near, b, c)])
    order, novelty = _order(np.array([0.9, 0.8, 0.3, 0.2]), features)
    assert order == [0, 2, 3, 1]
    assert novelty[0] == 1 and novelty[1] < 0.05 and novelty[2] > 0.8


def test_far_down_the_list_places_are_given_at_once(monkeypatch):
    monkeypatch.setattr("keras_unet.evaluation.ranking.GREEDY", 2)
    features = np.eye(5)
    order, _ = _order(np.array([0.1, 0.5, 0.3, 0.2, 0.4]), features)
    assert order == [1, 4, 2, 3, 0]


def as_instances(trained):
    labels = LabelRule(kind="instances").resolve([0, 1, 2])
    card = trained.card.model_copy(update={"labels": labels, "objects": Decoding(min_size=0)})
    return trained._replace(card=card)


@pytest.fixture
def folder(tmp_path):
    """Two pictures, one a copy of the other, and a stack of two pages."""
    rng = np.random.default_rng(0)
    images = tmp_path / "unlabelled"
    images.mkdir()
    grey = rng.integers(0, 255, (40, 50), np.uint8)
    for name in ("<b>.png", "copy.png"):
        Image.fromarray(grey).save(images / name)
    pages = rng.integers(0, 255, (2, 36, 44), np.uint8)
    tifffile.imwrite(images / "stack.tif", pages, photometric="minisblack")
    return images


def test_a_folder_is_ranked_into_a_table_and_a_page(trained, folder, tmp_path):
    model, told = as_instances(trained), []
    ranked = keras_unet.rank(
        model, folder, output=tmp_path / "out", progress=lambda done, total: told.append(done)
    )
    assert told == [1, 2, 3, 4]
    assert [one.place for one in ranked] == [1, 2, 3, 4]
    assert {one.name for one in ranked} == {"<b>.png", "copy.png", "stack.tif:000", "stack.tif:001"}
    by_name = {one.name: one for one in ranked}
    pair = sorted((by_name["<b>.png"], by_name["copy.png"]), key=lambda one: one.place)
    assert pair[0].uncertainty == pair[1].uncertainty > 0
    assert pair[1].novelty == pytest.approx(0, abs=1e-6) and pair[1].place == 4
    image = np.asarray(Image.open(folder / "copy.png"))
    seen = doubt(keras_unet.predict(model, image), model.card.decoding)
    assert (pair[0].uncertainty, pair[0].objects) == (seen.uncertainty, seen.objects)

    rows = list(csv.DictReader((tmp_path / "out/ranking.csv").open()))
    assert list(rows[0]) == list(RankedImage._fields)
    assert [row["name"] for row in rows] == [one.name for one in ranked]
    assert float(rows[0]["uncertainty"]) == pytest.approx(ranked[0].uncertainty, abs=1e-4)
    page = (tmp_path / "out/ranking.html").read_text()
    assert "&lt;b&gt;.png" in page and "<b>.png" not in page
    assert page.count("data:image/jpeg") == page.count("data:image/png") == 4
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)  # nothing is asked for elsewhere


def test_arrays_by_name_and_a_model_of_classes(trained):
    rng = np.random.default_rng(0)
    images = {"a": rng.integers(0, 255, (40, 50), np.uint8), "b": np.zeros((30, 30, 1), np.uint8)}
    ranked = keras_unet.rank(trained, images, prediction={"symmetries": "flips"})
    assert {one.name for one in ranked} == {"a", "b"}
    assert all(one.objects is None for one in ranked)
    expected = doubt(keras_unet.predict(trained, images["a"], symmetries="flips"))
    (found,) = (one for one in ranked if one.name == "a")
    assert found.uncertainty == pytest.approx(expected.uncertainty)


def test_what_cannot_be_ranked_is_named(trained, folder):
    with pytest.raises(DataError, match="no image to rank"):
        keras_unet.rank(trained, {})
    with pytest.raises(ConfigError, match="symmetrys: unknown"):
        keras_unet.rank(trained, folder, prediction={"symmetrys": "flips"})
    with pytest.raises(DataError, match="b: .*expects"):
        keras_unet.rank(trained, {"b": np.zeros((30, 30, 3), np.uint8)})
    unmeasured = np.full((30, 30), np.nan, np.float32)
    with pytest.raises(DataError, match="a: .*no measured pixel"):
        keras_unet.rank(trained, {"a": unmeasured})
