"""A trained model and its card travel in one .keras file."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_unet.data import Normalization
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference import predict
from keras_unet.losses import WeightedCrossEntropy
from keras_unet.metrics import MeanIoU
from keras_unet.models import build_unet, in_float32, load_model, save_model, trained_model
from keras_unet.models.keras_file import clear_unfinished


@pytest.fixture
def image():
    return np.random.default_rng(3).integers(0, 255, (50, 41), dtype=np.uint8)


def test_round_trip(trained, tmp_path, image):
    path = save_model(trained, tmp_path / "run" / "best.keras")
    again = load_model(tmp_path / "run")
    assert again.card == trained.card
    assert [p.name for p in path.parent.iterdir()] == ["best.keras"]
    expected = predict(trained._replace(network=in_float32(trained.network)), image)
    np.testing.assert_array_equal(predict(again, image), expected)
    np.testing.assert_array_equal(predict(path, image), expected)


def test_a_trained_model_computes_in_float32(trained, tmp_path):
    assert trained.network.get_layer("down1_conv1").compute_dtype == "bfloat16"
    network = load_model(save_model(trained, tmp_path / "a.keras")).network
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}


def test_plain_keras_opens_the_file_in_safe_mode(trained, tmp_path):
    path = save_model(trained, tmp_path / "a.keras")
    network = keras.saving.load_model(path, safe_mode=True)
    for a, b in zip(network.get_weights(), trained.network.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_existing_file_survives_a_failed_save(trained, tmp_path, monkeypatch):
    path = save_model(trained, tmp_path / "a.keras")
    before = path.read_bytes()

    def full(self, *_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("zipfile.ZipFile.writestr", full)
    with pytest.raises(OSError, match="No space"):
        save_model(trained, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.keras"]


def test_what_a_kill_leaves_is_cleared(trained, tmp_path, monkeypatch):
    path = save_model(trained, tmp_path / "best.keras")
    (tmp_path / ".lock").touch()

    class Killed(BaseException):
        pass

    def kill(*_, **__):
        raise Killed

    monkeypatch.setattr("zipfile.ZipFile.writestr", kill)
    monkeypatch.setattr("shutil.rmtree", kill)  # nothing is tidied after a kill
    with pytest.raises(Killed):
        save_model(trained, path)
    monkeypatch.undo()
    assert len([*tmp_path.iterdir()]) == 3
    clear_unfinished(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"best.keras", ".lock"}


def test_a_damaged_model_is_named(trained, tmp_path):
    """Cut off, or with other bytes anywhere in it; Keras' zip archive has errors of its own."""
    path = save_model(trained, tmp_path / "a.keras")
    whole, damaged = path.read_bytes(), tmp_path / "damaged.keras"
    for start in range(100, len(whole), len(whole) // 8):
        lost = bytes(255 - byte for byte in whole[start : start + 64])
        damaged.write_bytes(whole[:start] + lost + whole[start + 64 :])
        with pytest.raises(DataError, match=r"damaged\.keras"):
            load_model(damaged)
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"damaged\.keras"):
        load_model(damaged)


def test_what_is_no_trained_model_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent: no trained model here"):
        load_model(tmp_path / "absent")
    (tmp_path / "runs" / "cells").mkdir(parents=True)
    (tmp_path / "runs" / "cells" / "best.keras").touch()
    with pytest.raises(DataError, match=r"/runs: no trained .* did you mean .*/runs/cells\?"):
        load_model(tmp_path / "runs")
    torn = tmp_path / "torn.keras"
    torn.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(DataError, match=r"torn.keras: not a model file"):
        load_model(torn)
    other = tmp_path / "other.keras"
    keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)]).save(other)
    with pytest.raises(DataError, match=r"other.keras: .* was not made by keras_unet.build_unet"):
        load_model(other)
    with pytest.raises(DataError, match=r"no trained model .* found other.keras, torn"):
        load_model(tmp_path)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").touch()
    with pytest.raises(DataError, match="this is a SavedModel, for servers"):
        load_model(tmp_path / "1")


def test_a_file_that_a_script_saved_loads(tmp_path, image):
    """Compiled and fitted, by `model.save` or `ModelCheckpoint`; what it misses may be stated."""
    network = build_unet(num_classes=3, filters=2, depth=1, normalization="batch")
    network.compile("adam", WeightedCrossEntropy(), metrics=[MeanIoU(num_classes=3)])
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "best.keras")
    network.fit(np.ones((1, 20, 20, 1)), np.ones((1, 4, 4)), verbose=0, callbacks=[checkpoint])
    network.save(tmp_path / "a.keras")
    expected = predict(network, image)
    for path in (tmp_path / "a.keras", tmp_path):  # a folder: its best.keras
        loaded = load_model(path)
        assert loaded.card.source == "script"
        assert loaded.card.classes == ("background", "class1", "class2")
        np.testing.assert_array_equal(predict(loaded, image), expected)
        np.testing.assert_array_equal(predict(path, image), expected)
    stated = load_model(tmp_path, normalization=255, class_names="none, cell, edge")
    assert stated.card.classes == ("none", "cell", "edge")
    np.testing.assert_allclose(predict(stated, image), predict(network, image / 255), atol=1e-6)
    kept = load_model(save_model(stated, tmp_path / "b.keras"))
    assert kept.card == stated.card
    keras.saving.load_model(tmp_path / "b.keras")
    for wrong in ({"normalization": "image"}, {"class_names": "a,b,c"}):
        with pytest.raises(ConfigError, match="a trained model brings its"):
            load_model(tmp_path / "b.keras", **wrong)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"normalization": "dataset"}, 'expected "none", "image", a number above 0'),
        ({"normalization": 0}, "a number above 0"),
        ({"normalization": Normalization(method="dataset", mean=(1,), std=(1,))}, "3 channels"),
        ({"class_names": ("a",)}, "expected 2 different names"),
        ({"class_names": "a,a"}, "expected 2 different names"),
    ],
)
def test_what_is_stated_must_fit_the_network(stated, message):
    with pytest.raises(ConfigError, match=message):
        trained_model(build_unet((None, None, 3), filters=2, depth=1), **stated)


def test_one_channel_is_the_foreground(image):
    network = build_unet(num_classes=1, filters=2, depth=1, output_activation="sigmoid")
    assert trained_model(network).card.classes == ("background", "foreground")
    assert trained_model(network, class_names=["cell"]).card.classes == ("background", "cell")
    with pytest.raises(ConfigError, match="found int, expected a model of build_unet"):
        trained_model(3)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16", "float16", "float64"])
def test_a_twin_in_float32(dtype):
    network = build_unet(filters=2, depth=1, normalization="batch", dtype=dtype)
    twin = trained_model(network, float32=True).network
    assert {layer.compute_dtype for layer in twin.layers} == {"float32"}
    for a, b in zip(network.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(np.float32(a), b)
    assert trained_model(network).network is network


def test_a_name_that_keras_cannot_write_is_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match=r'a.h5: expected a name that ends in ".keras"'):
        save_model(trained, tmp_path / "a.h5")


def test_code_in_a_model_file_is_refused(trained, tmp_path):
    network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Lambda(lambda x: x + 1)])
    path = save_model(trained._replace(network=network), tmp_path / "code.keras")
    with pytest.raises(DataError, match=r"code.keras: Keras cannot load it safely"):
        load_model(path)
