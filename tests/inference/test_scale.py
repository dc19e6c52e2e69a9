"""Scale: an image is predicted at the scale that the model knows, and the answer is of its size."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import tifffile
from conftest import make_trained
from prediction_networks import identity_network, random_unet
from scipy import ndimage
from skimage.segmentation import find_boundaries

from keras_unet import predict, segment
from keras_unet.data import LabelRule, Normalization, Sample, make_cells
from keras_unet.data.check import load_samples
from keras_unet.data.samples import diameters, object_areas
from keras_unet.errors import ConfigError, DataError
from keras_unet.evaluation import evaluate_samples, object_scores
from keras_unet.inference import predict_files
from keras_unet.inference import scale as scale_module
from keras_unet.inference.files import segmentation
from keras_unet.inference.inputs import ArraySource
from keras_unet.inference.options import PredictOptions
from keras_unet.inference.predictor import Predictor
from keras_unet.inference.rescaling import BICUBIC, resized
from keras_unet.inference.scale import Estimate, Ratio, ScaleWarning, estimate, objects_at, parts
from keras_unet.models import Decoding, TrainedModel, save_model
from keras_unet.training.build import common_pixel_size

KNOWN = {"diameter": 20.0, "pixel_size": 0.5}


def with_card(trained, network, **known):
    """A model of instance labels whose card states a scale."""
    labels = LabelRule(kind="instances").resolve(range(3))
    changes = {"labels": labels, "objects": Decoding(), **known}
    return TrainedModel(network, trained.card.model_copy(update=changes))


@pytest.fixture(scope="module")
def model():
    return with_card(make_trained(), random_unet(2, depth=2), **KNOWN)


@pytest.fixture(scope="module")
def bright():
    """A model whose foreground is what is bright."""
    network = identity_network(1, blocks_first=True)
    card = with_card(make_trained(), network, **KNOWN).card
    rule = Normalization(method="range", scale=255)
    return TrainedModel(network, card.model_copy(update={"normalization": rule}))


def cells(diameter, cells_a_side=6, seed=2):
    """Bright cells that do not touch, and their labels."""
    side = int(cells_a_side * diameter) + 20
    labels = make_cells((side, side + 7), seed=seed, diameter=diameter)[1]
    edges = find_boundaries(labels, mode="inner")
    inside = ndimage.distance_transform_edt(~edges) > max(0.5, 0.05 * diameter)
    labels = np.where(inside, labels, 0)
    return np.where(labels > 0, 230, 20).astype(np.uint8), labels


def median_diameter(labels):
    return float(np.median(diameters(object_areas(labels))))


def test_at_scale_1_nothing_changes(model):
    image = make_cells((90, 110), seed=3)[0]
    expected = predict(model, image)
    for options in ({"diameter": 20}, {"pixel_size": 0.5}, {"diameter": 20.01}):
        np.testing.assert_array_equal(predict(model, image, **options), expected)
        np.testing.assert_array_equal(segment(model, image, **options), segment(model, image))


@pytest.mark.parametrize("size", [(97, 61), (1, 50), (33, 2), (5, 5)])
@pytest.mark.parametrize(
    ("options", "times"),
    [({"diameter": 47.3}, 0.4228), ({"diameter": 8.1}, 2.4691), ({"pixel_size": 0.83}, 1.66)],
)
def test_it_is_the_prediction_of_the_rescaled_image(model, size, options, times):
    image = np.random.default_rng(0).integers(0, 255, size, np.uint8)
    ratio = Predictor(model, PredictOptions(**options)).ratio
    assert ratio == pytest.approx((times, times), abs=1e-4)
    seen = resized(image[..., None].astype(np.float32), ratio.seen(size), BICUBIC)
    expected = resized(predict(model, seen), size)
    given = predict(model, image, **options)
    assert given.shape == (*size, 2)
    np.testing.assert_allclose(given, expected, atol=1e-5)
    np.testing.assert_allclose(given.sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize("diameter", [61.0, 9.0])
@pytest.mark.parametrize(
    ("padding", "options"),
    [("valid", {"tile": 60}), ("same", {"tile": 48, "blend": "gaussian", "overlap": 0.5})],
)
def test_bands_equal_the_whole_from_any_row(padding, options, diameter):
    network = random_unet(2, depth=1, padding=padding)
    predictor = Predictor(network, PredictOptions(batch_size=1, **options), Normalization())
    predictor = predictor.at(Ratio(20 / diameter, 23 / diameter))
    image = np.random.default_rng(1).integers(0, 255, (301, 83), np.uint8)
    whole = predictor(image)
    assert predictor.plan((301, 83)).rows.repeats > 2
    for first in (0, 1, 97, 200, 300):
        done = []
        counted = partial(lambda to, *a: to.append(a), done)
        source = ArraySource(image)
        bands = list(predictor.bands(source, first_row=first, progress=counted))
        assert (bands[0].rows.start, bands[-1].rows.stop) == (first, 301)
        assert [b.rows.start for b in bands[1:]] == [b.rows.stop for b in bands[:-1]]
        np.testing.assert_array_equal(
            np.concatenate([b.probabilities for b in bands]), whole[first:]
        )
        assert done[-1][0] == done[-1][1]
    with pytest.raises(ConfigError, match="first_row is 301; expected 0 to 300"):
        predictor.bands(ArraySource(image), first_row=301)


@pytest.mark.parametrize("diameter", [50, 9])
def test_pixels_that_were_never_measured_stay_so(bright, diameter):
    image = cells(diameter, 8)[0].astype(np.float32)
    hole = np.zeros(image.shape, bool)
    hole[:31, 40:90] = hole[70, 70] = True
    card = bright.card.model_copy(
        update={"normalization": Normalization(), "image_dtype": "float32"}
    )
    predictor = Predictor(bright._replace(card=card), PredictOptions(diameter=diameter, tile=90))
    source = ArraySource(np.where(hole, np.nan, image))
    bands = list(predictor.bands(source))
    assert sum(band.missing for band in bands) == hole.sum() and len(bands) > 1
    given = np.concatenate([band.probabilities for band in bands])
    assert (given[hole][:, 0] == 1).all() and (given[hole][:, 1:] == 0).all()
    assert np.isfinite(given).all()
    with pytest.raises(DataError, match="no measured pixel"):
        predictor(np.full((40, 40), np.nan, np.float32))


@pytest.mark.parametrize("true", [9.0, 14.0, 45.0, 90.0])
def test_auto_finds_the_diameter(bright, true):
    image, labels = cells(true)
    said = []
    fitted = Predictor(bright, PredictOptions(diameter="auto")).fitted(
        [ArraySource(image)], say=said.append
    )
    assert fitted.ratio.height == pytest.approx(20 / median_diameter(labels), rel=0.25)
    (line,) = said
    assert "objects are" in line and "the model's were 20 px: rescaled by" in line
    found = line.split("diameter=")[1].split()[0]
    np.testing.assert_array_equal(
        predict(bright, image, diameter="auto"), predict(bright, image, diameter=float(found))
    )
    assert object_scores(labels, segment(bright, image, diameter="auto"))["f1"] > 0.9


def test_auto_leaves_an_image_whose_objects_the_model_knows(bright):
    image, labels = cells(16.0)
    said = []
    wide = bright._replace(card=bright.card.model_copy(update={"diameter_range": (8.0, 60.0)}))
    given = predict(wide, image, diameter="auto", say=said.append)
    np.testing.assert_array_equal(given, predict(wide, image))
    assert 8 < median_diameter(labels) < 20 / scale_module.ALIKE
    assert "which suits the model (8 to 25 px): scale 1" in said[0]
    assert Predictor(bright, PredictOptions(diameter="auto")).fitted(
        [ArraySource(image)]
    ).ratio != (1, 1)


def test_auto_says_where_it_finds_too_little(bright):
    image = np.full((80, 80), 20, np.uint8)
    image[10:30, 10:30] = 230
    said = []
    with pytest.warns(ScaleWarning, match="1 object found, too few"):
        given = predict(bright, image, diameter="auto")
    np.testing.assert_array_equal(given, predict(bright, image, diameter="auto", say=said.append))
    np.testing.assert_array_equal(given, predict(bright, image))
    assert "you may state a diameter" in said[0]


def test_an_estimate_looks_again_until_it_stays(trained):
    card = with_card(trained, None, **KNOWN).card
    looked = []

    def look(ratio):
        looked.append(ratio.height)
        return np.full(9, {1.0: 100.0, 0.2: 60.0}.get(ratio.height, 55.0))

    found = estimate(look, card)
    assert looked == [1, 0.2, pytest.approx(1 / 3)]
    assert found == Estimate(55.0, 9, Ratio(20 / 55, 20 / 55))
    looked.clear()
    assert estimate(lambda ratio: np.full(5, 23.0), card).ratio == (1, 1)
    far = estimate(lambda ratio: np.full(5, 0.5), card)  # never further than ten times
    assert far.ratio == (10, 10)
    lost = estimate(lambda ratio: np.full(6 if ratio.height == 1 else 4, 60.0), card)
    assert lost == Estimate(60.0, 6, Ratio(1 / 3, 1 / 3))


def test_large_images_and_stacks_are_looked_at_in_part(bright, monkeypatch):
    assert parts((100, 200), 20_000) == [(slice(0, 100), slice(0, 200))]
    windows = parts((1000, 40), 9_000)
    assert len(windows) == 9 and windows[-1] == (slice(969, 1000), slice(9, 40))
    image, labels = cells(45.0, 12)
    pages = [np.full_like(image, 20), image[:300], image, image[::-1], np.full_like(image, 20)]
    seen = []
    original = Predictor._rows

    def rows(self, source, *others):
        seen.append(source.shape[0] * source.shape[1])
        return original(self, source, *others)

    monkeypatch.setattr(Predictor, "_rows", rows)
    monkeypatch.setattr(scale_module, "PIXELS", 450_000)
    fitted = Predictor(bright, PredictOptions(diameter="auto")).fitted(
        list(map(ArraySource, pages))
    )
    assert fitted.ratio.height == pytest.approx(20 / median_diameter(labels), rel=0.25)
    assert sum(seen) <= scale_module.PASSES * 450_000


def test_objects_of_an_enlarged_image_are_found_at_the_networks_scale():
    probability = np.zeros((40, 40), np.float32)
    probability[10:16, 10:16] = 0.9  # two cells of 6 pixels, with less between them
    probability[10:16, 17:23] = 0.9
    probability[10:16, 16] = 0.35
    decoding = Decoding(min_size=60, split="none")
    assert objects_at(probability, decoding).max() == 0  # of 36 pixels each
    found = objects_at(probability, decoding, Ratio(2.0, 2.0))
    assert found.max() == 2 and found.dtype == np.int32
    assert np.array_equal(found > 0, probability > 0.5)
    assert objects_at(probability, decoding.enlarged(0.5), Ratio(0.5, 0.5)).max() == 0
    assert objects_at(probability, Decoding(min_size=8, split="none"), Ratio(0.5, 0.5)).max() == 2


@pytest.mark.parametrize(
    ("card", "options", "message"),
    [
        (KNOWN, {"diameter": 3, "pixel_size": 1}, "diameter and pixel_size both state the scale"),
        (KNOWN, {"diameter": 0}, 'diameter: expected a number above 0, or "auto", got 0'),
        (KNOWN, {"diameter": "large"}, "diameter: expected .* \"auto\", got 'large'"),
        (KNOWN, {"pixel_size": "auto"}, "pixel_size: expected .* \"file\", got 'auto'"),
        (
            KNOWN,
            {"diameter": 201},
            "diameter is 201 px; expected 2 to 200 px, a tenth to ten times",
        ),
        (KNOWN, {"pixel_size": 0.04}, "pixel_size is 0.04 µm; expected 0.05 to 5 µm"),
        ({"pixel_size": 0.5}, {"diameter": 9}, "card of test does not state how large.*train it"),
        ({"diameter": 9.0}, {"pixel_size": 1}, "does not state the pixel size.*give diameter"),
    ],
)
def test_what_cannot_be_is_refused(trained, card, options, message):
    model = with_card(trained, random_unet(2, depth=1), **card)
    with pytest.raises(ConfigError, match=message):
        predict(model, np.zeros((40, 40), np.uint8), **options)


def test_an_array_states_no_pixel_size(model):
    with pytest.raises(DataError, match="states no pixel size; expected an OME-TIFF"):
        predict(model, np.zeros((40, 40), np.uint8), pixel_size="file")


OPTIONS = {"tile": 60, "batch_size": 1, "preview": 64, "masks": True}


def _ome(path, image, micrometres=None):
    told = (
        {} if micrometres is None else {"PhysicalSizeX": micrometres, "PhysicalSizeY": micrometres}
    )
    tifffile.imwrite(path, image, ome=True, metadata={"axes": "YX", **told})
    return path


def test_files_answer_as_arrays_do(bright, tmp_path):
    image, _ = cells(46.0)
    path = _ome(tmp_path / "a.ome.tif", image, 0.25)
    said = []
    for name, options in {"auto": {"diameter": "auto"}, "file": {"pixel_size": "file"}}.items():
        out = tmp_path / name
        predict_files(bright, path, out, **OPTIONS, **options, say=said.append)
        same = {"pixel_size": 0.25} if name == "file" else options
        expected = segment(bright, image, tile=60, batch_size=1, **same)
        assert expected.max() > 10
        np.testing.assert_array_equal(tifffile.imread(out / "a_labels.tif"), expected)
        mask = tifffile.imread(out / "a_mask.tif") > 0
        assert np.array_equal(mask[expected > 0], np.ones((expected > 0).sum(), bool))
    assert sum("a.ome.tif: objects are" in text for text in said) == 1
    assert sum("Scale: the model's images had 0.5 µm a pixel; files" in text for text in said) == 1
    predict_files(bright, path, tmp_path / "stated", diameter=40, say=said.append)
    assert sum("objects are 40 px across, the model's were 20 px" in text for text in said) == 1
    plain = _ome(tmp_path / "b.ome.tif", image)
    with pytest.raises(DataError, match=r"b\.ome\.tif: states no pixel size"):
        predict_files(bright, plain, tmp_path / "none", pixel_size="file")
    far = _ome(tmp_path / "c.ome.tif", image, 6)
    with pytest.raises(
        DataError, match=r"c\.ome\.tif: states a pixel size of 6 × 6 µm; expected 0\.05"
    ):
        predict_files(bright, far, tmp_path / "none", pixel_size="file")


def test_a_stopped_prediction_keeps_the_scale_it_found(bright, tmp_path, monkeypatch):
    image, _ = cells(9.0)
    kept = save_model(bright, tmp_path / "m.keras")
    path = _ome(tmp_path / "a.ome.tif", image)
    said, counted = [], []
    predict_files(
        kept,
        path,
        tmp_path / "whole",
        diameter="auto",
        **OPTIONS,
        progress=lambda *a: counted.append(a),
    )
    assert counted[-1][0] == counted[-1][1]

    class Stopped(BaseException):
        pass

    original, calls = segmentation.write_record, []

    def stop(*arguments):
        original(*arguments)
        calls.append(arguments)
        if len(calls) == 3:
            raise Stopped

    monkeypatch.setattr(segmentation, "write_record", stop)
    with pytest.raises(Stopped):
        predict_files(kept, path, tmp_path / "out", diameter="auto", **OPTIONS)
    monkeypatch.undo()
    record = json.loads((tmp_path / "out" / ".predict" / "a.json").read_text())
    assert record["ratio"][0] > 1.5 and record["row"] > 0
    monkeypatch.setattr(scale_module, "estimate", None)  # is not asked again
    predict_files(kept, path, tmp_path / "out", diameter="auto", **OPTIONS, say=said.append)
    assert any("goes on at row" in text for text in said)
    for name in ("a_labels.png", "a_mask.png", "a_overlay.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_evaluation_scores_what_segment_answers(bright):
    image, labels = cells(9.0)
    sample = Sample("a", image[..., None], (labels > 0).astype(np.int32), labels)
    found = evaluate_samples(bright, [sample], prediction={"diameter": "auto"})
    expected = object_scores(labels, segment(bright, image, diameter="auto"))
    assert found.total["objects"]["f1"] == pytest.approx(expected["f1"], abs=1e-6)
    as_it_is = evaluate_samples(bright, [sample]).total["objects"]["f1"]
    assert expected["f1"] > as_it_is
    assert any("rescaled for the network (diameter auto) by 2." in note for note in found.notes)
    with pytest.raises(DataError, match="a: states no pixel size"):
        evaluate_samples(bright, [sample], prediction={"pixel_size": "file"})


def test_samples_know_their_pixel_size_and_the_card_what_is_common(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    image, labels = make_cells((64, 64), seed=0)
    sizes = {"a": 0.25, "b": 0.2501}
    for name, size in sizes.items():
        _ome(tmp_path / "images" / f"{name}.ome.tif", image, size)
        tifffile.imwrite(tmp_path / "labels" / f"{name}.tif", labels.astype(np.uint16))
    samples, _ = load_samples(tmp_path, rule=LabelRule(kind="instances"))
    assert [s.pixel_size.width for s in samples] == list(sizes.values())
    assert common_pixel_size(samples) == 0.25
    _ome(tmp_path / "images" / "b.ome.tif", image, 0.3)
    assert common_pixel_size(load_samples(tmp_path, rule=LabelRule(kind="instances"))[0]) is None
    tifffile.imwrite(tmp_path / "images" / "b.ome.tif", image)
    samples, _ = load_samples(tmp_path, rule=LabelRule(kind="instances"))
    assert samples[1].pixel_size is None and common_pixel_size(samples) is None
