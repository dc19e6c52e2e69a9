"""Published versions: complete, verified, consecutive; nothing half-written is ever visible."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_trained

from keras_unet.data import Normalization
from keras_unet.errors import ExportError
from keras_unet.inference import predict
from keras_unet.models import TrainedModel, in_float32
from keras_unet.serving import export, publish, versions, write_saved_model


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("method", ["image", "dataset", "range"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_saved_model_equals_the_keras_model(tmp_path, method, padding, channels):
    trained = make_trained(method, padding, channels, classes=3)
    trained = trained._replace(network=in_float32(trained.network))
    write_saved_model(trained, tmp_path / "model")
    served = tf.saved_model.load(tmp_path / "model").signatures["serving_default"]
    rng = np.random.default_rng(0)
    for size in [(61, 83), (1, 1), (2, 40), (128, 128)]:
        images = rng.integers(0, 255, (2, *size, channels), dtype=np.uint8)
        got = served(images=tf.constant(images, tf.float32))["probabilities"].numpy()
        assert got.shape == (2, *size, 3)
        for image, one in zip(images, got, strict=True):
            np.testing.assert_allclose(one, predict(trained, image), atol=1e-5)


def test_a_constant_image_is_served_as_it_is_predicted(tmp_path):
    trained = make_trained()
    trained = trained._replace(network=in_float32(trained.network))
    write_saved_model(trained, tmp_path / "model")
    served = tf.saved_model.load(tmp_path / "model").signatures["serving_default"]
    image = np.full((33, 21, 1), 201.7, np.float32)
    got = served(images=tf.constant(image[None]))["probabilities"].numpy()[0]
    np.testing.assert_allclose(got, predict(trained, image), atol=1e-5)


def test_versions_are_consecutive_and_complete(tmp_path):
    trained = make_trained()
    trained = trained._replace(network=in_float32(trained.network))
    (tmp_path / ".unfinished-123").mkdir()  # what a killed publish left
    (tmp_path / "7").mkdir()
    version = export(trained, tmp_path)
    assert version == tmp_path / "8"
    assert versions(tmp_path) == [7, 8]
    assert not list(tmp_path.glob(".unfinished*"))
    card = json.loads((version / "assets.extra" / "model_card.json").read_text())
    assert card["classes"] == ["background", "cell"]
    assert tf.saved_model.load(version).signatures["serving_default"]


def test_a_version_that_differs_is_not_published(tmp_path, monkeypatch):
    trained = make_trained()
    trained = trained._replace(network=in_float32(trained.network))

    def other_weights(model, folder):
        network = in_float32(make_trained().network)
        network.set_weights([w + 0.1 for w in network.get_weights()])
        write_saved_model(model._replace(network=network), folder)

    monkeypatch.setattr(publish, "write_saved_model", other_weights)
    with pytest.raises(ExportError, match="differs from the Keras model by"):
        export(trained, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_a_version_that_does_not_load_is_not_published(tmp_path, monkeypatch):
    trained = make_trained()

    def torn(model, folder):
        write_saved_model(model, folder)
        (folder / "saved_model.pb").write_bytes(b"torn")

    monkeypatch.setattr(publish, "write_saved_model", torn)
    with pytest.raises(ExportError, match="does not load"):
        export(trained, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_channels_of_unlike_brightness_are_normalised_as_in_training(tmp_path):
    trained = make_trained(channels=2)
    trained = trained._replace(network=in_float32(trained.network))
    image = np.zeros((40, 40, 2), np.uint16)
    image[..., 1] = np.random.default_rng(0).integers(0, 65535, (40, 40))
    image[3, 3, 0] = 1  # a channel that is all but empty
    write_saved_model(trained, tmp_path / "model")
    served = tf.saved_model.load(tmp_path / "model").signatures["serving_default"]
    got = served(images=tf.constant(image[None], tf.float32))["probabilities"].numpy()[0]
    np.testing.assert_allclose(got, predict(trained, image), atol=1e-5)


def test_a_model_of_float_images_is_published(tmp_path):
    trained = make_trained()
    card = trained.card.model_copy(
        update={"normalization": Normalization(method="range", scale=1.0), "image_dtype": "float32"}
    )
    trained = TrainedModel(in_float32(trained.network), card)
    assert export(trained, tmp_path).name == "1"
