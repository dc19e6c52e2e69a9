"""Bands: bounded reading, starting again, normalisation by streaming, memory that runs out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from prediction_networks import identity_network, random_unet

from keras_unet.data.normalization import Normalization
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference import predictor as predictor_module
from keras_unet.inference.ensemble import listed
from keras_unet.inference.inputs import ArraySource, Rows
from keras_unet.inference.options import PredictOptions
from keras_unet.inference.predictor import MemoryWarning, Predictor, predict, quantized
from keras_unet.models.keras_file import TrainedModel
from keras_unet.models.unet import build_unet


class Recorded(ArraySource):
    """An array that remembers what was read of it."""

    def __init__(self, image):
        super().__init__(image)
        self.reads = []

    def read(self, rows, columns):
        self.reads.append((rows, columns))
        return super().read(rows, columns)


def image_of(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("padding", "options"),
    [
        ("valid", {"tile": 100, "symmetries": "flips"}),
        ("same", {"tile": 64, "blend": "gaussian", "overlap": 0.5}),
        ("same", {"tile": 64, "blend": "flat"}),
        ("valid", {"tile": 140, "symmetries": "rotations7"}),
    ],
)
def test_starting_again_gives_the_same_bits(padding, options):
    model = random_unet(2, depth=2, padding=padding)
    predictor = Predictor(model, PredictOptions(batch_size=1, **options), Normalization())
    source = ArraySource(image_of(230, 90, 1))
    bands = list(predictor.bands(source))
    assert len(bands) == predictor.plan((230, 90)).rows.repeats > 3
    assert [b.rows.start for b in bands[1:]] == [b.rows.stop for b in bands[:-1]]
    assert (bands[0].rows.start, bands[-1].rows.stop) == (0, 230)
    joined = np.concatenate([band.probabilities for band in bands])
    np.testing.assert_array_equal(joined, predictor(image_of(230, 90, 1)))
    for number in range(1, len(bands)):
        calls = []
        again = predictor.bands(
            source, first_row=bands[number].rows.start, progress=lambda *a, to=calls: to.append(a)
        )
        for band, expected in zip(again, bands[number:], strict=True):
            assert band.rows == expected.rows
            np.testing.assert_array_equal(band.probabilities, expected.probabilities)
        columns = predictor.plan((230, 90)).columns.repeats
        assert calls[0] == (number * columns + 1, len(bands) * columns)
        assert calls[-1][0] == calls[-1][1]


def test_any_multiple_of_the_stride_can_be_the_first_row():
    model = random_unet(2, depth=2)
    predictor = Predictor(model, PredictOptions(tile=80))
    source = ArraySource(image_of(130, 50))
    expected = predictor(image_of(130, 50))
    bands = list(predictor.bands(source, first_row=44))
    assert bands[0].rows.start == 44
    np.testing.assert_allclose(
        np.concatenate([b.probabilities for b in bands]), expected[44:], atol=1e-5
    )
    with pytest.raises(ConfigError, match="first_row is 45.*multiple of"):
        predictor.bands(source, first_row=45)


def test_reading_is_bounded_by_a_row_of_tiles():
    predictor = Predictor(identity_network(2), PredictOptions(tile=300), Normalization())
    source = Recorded(image_of(2000, 1600, 1))
    for _ in predictor.bands(source):
        pass
    heights = [rows.stop - rows.start for rows, _ in source.reads]
    looked_through = [n for n in heights if n > 300]  # for the normalisation: once, by a megapixel
    assert sum(looked_through) <= 2000 and max(looked_through) <= 2**20 / 1600
    assert len(heights) - len(looked_through) >= 2000 // 300
    assert all(columns == slice(0, 1600) for _, columns in source.reads)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 1200), st.integers(1, 9), st.integers(1, 3)),
    st.sampled_from([np.uint8, np.uint16, np.float32]),
    st.integers(1, 600),
)
def test_rows_of_a_source_are_the_arrays_rows(shape, dtype, height):
    image = (255 * np.random.default_rng(0).random(shape)).astype(dtype)
    source = Recorded(image)
    rows = Rows(source)
    for top in range(0, shape[0], height):
        np.testing.assert_array_equal(
            rows[slice(top, min(top + height, shape[0]))], image[top : top + height]
        )
    assert sum(r.stop - r.start for r, _ in source.reads) == shape[0]
    for method in ("image", "dataset", "range"):
        rule = Normalization.fit(method, [image if dtype != np.float32 else image / 255])
        if method == "range" and dtype == np.float32:
            continue
        for one, two in zip(rule.parameters(image), rule.parameters(Rows(source)), strict=True):
            np.testing.assert_array_equal(one, two)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(20_000, 90_000), st.floats(-1e4, 1e4))
def test_streamed_statistics_equal_those_of_the_whole(height, width, offset):
    # Several bands of a million values each; numpy's two passes are the reference.
    image = np.random.default_rng(0).normal(offset, 3.0, (height, width, 1)).astype(np.float32)
    shift, scale = Normalization().parameters(image)
    np.testing.assert_allclose(shift, image.mean(dtype=np.float64), rtol=1e-6)
    std = max(image.std(dtype=np.float64), 1e-6 * abs(image).max())
    np.testing.assert_allclose(scale, 1 / std, rtol=1e-6)


def test_infinity_is_found_while_reading():
    image = np.zeros((300, 40), np.float32)
    image[250, 3] = np.inf
    bands = Predictor(identity_network(2), PredictOptions(tile=100)).bands(ArraySource(image))
    assert next(bands).rows.start == 0  # nothing was looked at beyond the first tiles
    with pytest.raises(DataError, match="infinite values in rows"):
        list(bands)


def test_probabilities_as_stored():
    model = random_unet(2, depth=1)
    image = image_of(40, 30)
    exact = predict(model, image)
    half = predict(model, image, dtype="float16")
    byte = predict(model, image, dtype="uint8")
    assert half.dtype == np.float16 and byte.dtype == np.uint8
    np.testing.assert_array_equal(half, exact.astype(np.float16))
    assert np.abs(byte / 255.0 - exact).max() <= 0.5 / 255 + 1e-6
    np.testing.assert_array_equal(
        quantized(np.float32([0, 0.0019, 0.002, 1, 1.0000001]), "uint8"), [0, 0, 1, 255, 255]
    )


@pytest.mark.parametrize("error", [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "")])
@pytest.mark.parametrize(("padding", "blend"), [("valid", "exact"), ("same", "gaussian")])
@pytest.mark.parametrize("failing", [1, 3])
def test_out_of_memory_goes_on_with_smaller_tiles(monkeypatch, error, padding, blend, failing):
    model = random_unet(2, depth=2, padding=padding)
    image = image_of(300, 90)
    rule = Normalization()
    expected = predict(model, image, normalization=rule, tile=120, blend=blend)
    calls, progress = [0], []
    real = predictor_module.over_symmetries

    def scarce(tiles, *arguments):
        calls[0] += 1
        if calls[0] >= failing and max(tiles.shape[1:3]) > 100:
            raise error
        return real(tiles, *arguments)

    monkeypatch.setattr(predictor_module, "over_symmetries", scarce)
    predictor = Predictor(model, PredictOptions(tile=120, blend=blend, batch_size=1), rule)
    with pytest.warns(MemoryWarning, match="out of memory.*1 × 1.. × .*going on with.*tiles of"):
        got = predictor(image, progress=lambda *a: progress.append(a))
    if blend == "exact":
        np.testing.assert_allclose(got, expected, atol=1e-5)
    else:  # seams lie elsewhere
        assert np.abs(got - expected).mean() < 0.02
    assert progress[-1][0] == progress[-1][1]
    assert max(predictor.plan((300, 90)).tile) <= 100  # remembered for the next image


def test_out_of_memory_first_gives_up_batches_and_in_the_end_raises(monkeypatch):
    model = random_unet(2, depth=1)
    sizes = []

    def never(tiles, *arguments):
        sizes.append(tiles.shape[:2])
        raise MemoryError("none left")

    monkeypatch.setattr(predictor_module, "over_symmetries", never)
    with pytest.warns(MemoryWarning), pytest.raises(MemoryError, match="none left"):
        predict(model, image_of(200, 200), tile=60, batch_size=4)
    assert [n for n, _ in sizes[:3]] == [4, 2, 1]
    assert sizes[2][1] == sizes[0][1]
    assert sizes[-1][1] == 18  # the smallest tile of depth 1


def test_several_models_average_and_must_fit(trained, tmp_path):
    image = image_of(50, 60)
    nets = [random_unet(2, depth=2, seed=seed) for seed in (1, 2, 3)]
    rules = [trained.card.model_copy(update={"normalization": n}) for n in _rules(image)]
    models = [TrainedModel(net, card) for net, card in zip(nets, rules, strict=True)]
    alone = [predict(model, image) for model in models]
    assert np.abs(alone[0] - alone[1]).max() > 0.05
    np.testing.assert_allclose(predict(models, image), np.mean(alone, 0), atol=1e-6)
    logits = np.mean([np.log(p) for p in alone], 0)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(predict(models, image, average="logits"), expected, atol=1e-5)

    other = trained.card.model_copy(update={"classes": ("background", "nucleus")})
    with pytest.raises(DataError, match="classes.*cell.*nucleus"):
        predict([models[0], TrainedModel(nets[1], other)], image)
    with pytest.raises(DataError, match="has depth 2, model 2 has 1"):
        predict([nets[0], random_unet(2, depth=1)], image)
    with pytest.raises(DataError, match="has upsampling transpose, model 2 has nearest"):
        predict([nets[0], random_unet(2, depth=2, upsampling="nearest")], image)
    with pytest.raises(DataError, match="has channels 1, model 2 has 3"):
        predict([nets[0], random_unet(2, depth=2, input_shape=(None, None, 3))], image)
    with pytest.raises(ConfigError, match="empty"):
        predict([], image)


def _rules(image):
    return [
        Normalization(),
        Normalization.fit("range", [image[..., None]]),
        Normalization.fit("dataset", [image[..., None] // 2]),
    ]


def test_a_folder_of_folds(trained, tmp_path):
    from keras_unet.models import save_model

    image = image_of(40, 40)
    nets = {f"fold_{n}": random_unet(2, depth=1, seed=n) for n in (0, 2, 10)}
    for name, net in nets.items():
        save_model(TrainedModel(net, trained.card), tmp_path / "run" / name / "best.keras")
    (tmp_path / "run" / "fold_notes").mkdir()
    predictor = Predictor(tmp_path / "run")
    assert len(predictor.cards) == 3
    expected = np.mean([predict(TrainedModel(n, trained.card), image) for n in nets.values()], 0)
    np.testing.assert_allclose(predictor(image), expected, atol=1e-6)
    one = Predictor(tmp_path / "run" / "fold_2")
    np.testing.assert_allclose(
        one(image), predict(TrainedModel(nets["fold_2"], trained.card), image), atol=1e-6
    )
    with pytest.raises(DataError, match="no trained model"):
        Predictor(tmp_path)


def test_an_unfinished_cross_validation_does_not_predict(tmp_path):
    """Three of five folds are no average of five; which are missing is said."""
    run = tmp_path / "the run"
    (run / "fold_0").mkdir(parents=True)
    (run / "splits.json").write_text(json.dumps({"folds": [["a"], ["b"], ["c"]]}))
    (run / "fold_0" / "run.json").write_text('{"finished": true}')
    (run / "fold_1").mkdir()
    (run / "fold_1" / "run.json").write_text('{"finished": false}')
    for name in ("fold_0", "fold_1"):
        (run / name / "best.keras").touch()
    with pytest.raises(
        DataError, match=r"1 of 3 folds are finished \(not fold_1, fold_2\)"
    ) as told:
        listed(run)
    assert f"keras-unet train --resume '{run}'" in str(told.value)
    assert listed([run / "fold_0"]) == [run / "fold_0"]  # whoever wants to may
    for name in ("fold_1", "fold_2"):
        (run / name).mkdir(exist_ok=True)
        (run / name / "run.json").write_text('{"finished": true}')
    assert listed(run) == [run / f"fold_{k}" for k in range(3)]
    (run / "splits.json").write_text("{")
    with pytest.raises(DataError, match=r"splits\.json: not written by this version"):
        listed(run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"symmetries": "some"}, "symmetries: .*got 'some'"),
        ({"tiles": 3}, "tiles: unknown; expected one of tile, batch_size"),
        ({"overlap": 0.7}, "overlap: .*0.5"),
        ({"memory": 0}, "memory"),
        ({"symmetries": "rotations7", "blend": "flat"}, 'needs blend "exact"'),
        ({"blend": "gaussian"}, "same padding"),
        ({"tile": 30}, "smallest tile that can be repeated is 44"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ConfigError, match=message):
        predict(random_unet(2, depth=2), image_of(100, 100), **options)


@pytest.mark.parametrize(("normalization", "told"), [("group", True), ("layer", False)])
def test_statistics_of_a_whole_input_make_tiles_differ_which_is_told(recwarn, normalization, told):
    network = build_unet(
        (None, None, 1), filters=2, depth=1, padding="same", normalization=normalization
    )
    image = image_of(60, 60)
    predict(network, image, tile=200)
    assert not any("groups of channels" in str(one.message) for one in recwarn)
    predict(network, image, tile=40)
    assert any("groups of channels" in str(one.message) for one in recwarn) is told
