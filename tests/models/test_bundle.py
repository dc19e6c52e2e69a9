"""A trained model and its card travel in one .keras file."""

from __future__ import annotations

import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_unet.errors import DataError
from keras_unet.inference import predict
from keras_unet.models import build_unet, in_float32, load_model, save_model
from keras_unet.models.bundle import clear_unfinished


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


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_process_that_imports_nothing_else_loads_it(padding, trained, tmp_path):
    network = build_unet((None, None, 1), filters=2, depth=1, padding=padding)
    path = save_model(trained._replace(network=network), tmp_path / "a.keras")
    script = "import sys; from keras_unet import load_model; print(load_model(sys.argv[1]).card)"
    script += "; import keras; keras.models.load_model(sys.argv[1])"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)


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
    """Cut off, or with pages lost anywhere in it; Keras' zip archive has errors of its own."""
    path = save_model(trained, tmp_path / "a.keras")
    whole, damaged = path.read_bytes(), tmp_path / "damaged.keras"
    refused = 0
    for start in range(100, len(whole), len(whole) // 8):
        damaged.write_bytes(whole[:start] + bytes(64) + whole[start + 64 :])
        try:
            load_model(damaged)
        except DataError as error:
            assert str(damaged) in str(error)
            refused += 1
    assert refused > 4
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
    bare = tmp_path / "bare.keras"
    build_unet(filters=2, depth=1).save(bare)
    with pytest.raises(DataError, match=r"bare.keras.*normalisation is unknown"):
        load_model(bare)


def test_code_in_a_model_file_is_refused(trained, tmp_path):
    network = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Lambda(lambda x: x + 1)])
    path = save_model(trained._replace(network=network), tmp_path / "code.keras")
    with pytest.raises(DataError, match=r"code.keras: Keras cannot load it safely"):
        load_model(path)
