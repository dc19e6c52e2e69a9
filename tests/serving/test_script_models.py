"""A network of a script, as it stands there, is published, converted and described."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from typer.testing import CliRunner

import keras_unet
from keras_unet.cli.app import app
from keras_unet.data import write_dataset
from keras_unet.errors import ConfigError
from keras_unet.inference import predict
from keras_unet.models import build_unet, trained_model
from keras_unet.serving import bundle, formats, write_saved_model
from keras_unet.serving.card import read_served_card

FORMS = [
    {"num_classes": 1, "output_activation": "sigmoid", "padding": "same", "depth": 3},
    {"num_classes": 4, "output_activation": "softmax", "normalization": "layer", "channels": 5},
    {"upsampling": "nearest", "dtype": "mixed_bfloat16", "channels": 3, "depth": 1},
    {
        "num_classes": 3,
        "output_activation": "sigmoid",
        "upsampling": "bilinear",
        "normalization": "batch",
        "dtype": "float16",
        "channels": 2,
        "name": "my-U.net",
    },
    {
        "num_classes": 1,
        "padding": "same",
        "normalization": "group",
        "dtype": "float64",
        "size": (48, 60),
    },
]


def network(size=(None, None), channels=1, **options):
    keras.utils.set_random_seed(0)
    return build_unet((*size, channels), **{"filters": 4, "depth": 2, **options})


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_of_network(tmp_path, form):
    """What `export` compares in a process of its own, here in this one."""
    trained = trained_model(network(**form), float32=True)
    write_saved_model(trained, tmp_path)
    served = tf.saved_model.load(str(tmp_path)).signatures
    for request in bundle.golden_requests(trained):
        (given,) = ({request.name: tf.constant(request.value)},)
        outputs = {k: v.numpy() for k, v in served[request.signature](**given).items()}
        found = bundle.golden_differences(trained, [request], [outputs])
        assert found[request.signature] <= bundle.GOLDEN_TOLERANCE


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A compiled network with half policies and an activation, exported as it is."""
    model = network(num_classes=3, dtype="mixed_bfloat16", padding="same")
    model.compile("adam", "sparse_categorical_crossentropy")
    folder = tmp_path_factory.mktemp("saved_models") / "unet"
    return model, keras_unet.export(model, folder, class_names=("none", "cell", "edge"))


def test_a_network_in_memory_is_published_as_it_is(published):
    model, version = published
    card = read_served_card(version)
    assert card.model.normalization.method == "none"
    assert [one.name for one in card.classes] == ["none", "cell", "edge"]
    assert card.model.source == "script"
    image = np.random.default_rng(0).uniform(size=(37, 50)).astype(np.float32)
    layer = keras.layers.TFSMLayer(version, call_endpoint="serving_default")
    given = np.asarray(layer(image[None, ..., None])["probabilities"][0])
    expected = predict(trained_model(model, float32=True), image)
    np.testing.assert_allclose(given, expected, atol=1e-5)
    shown = CliRunner().invoke(app, ["info", str(version)]).output
    assert "grey values   as they are" in shown
    assert "from a script unet" in shown


def test_stated_grey_values_are_part_of_the_graph(tmp_path):
    model = network()
    write_saved_model(trained_model(model, normalization=255), tmp_path)
    served = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 1)).astype(np.float32)
    given = served(images=tf.constant(image[None]))["probabilities"].numpy()[0]
    np.testing.assert_allclose(given, predict(model, image / 255), atol=1e-5)


def test_convert_takes_it(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 44), dtype=np.uint8)
    kinds = ["saved-model-float32", "tflite-float32"]
    found = formats.convert(network(), [image], tmp_path, kinds, normalization="image")
    assert all(one.largest < 1e-4 for one in found)
    with pytest.raises(ConfigError, match="a number above 0"):
        formats.convert(network(), [image], tmp_path, kinds, normalization="zscore")


def test_the_commands_take_a_scripts_file(tmp_path):
    """With `model.save` alone: each command is told what the file does not say."""
    model = network()
    model.save(tmp_path / "my.keras")
    data = write_dataset(tmp_path / "cells", train=0, val=1, size=(40, 52)) / "val"
    image = data / "images" / "cells_000.png"

    def run(*arguments, ok=True):
        given = [*map(str, arguments)]
        result = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
        assert (result.exit_code == 0) == ok, result.output
        return result

    file, stated = tmp_path / "my.keras", ("--normalization", "image", "--class-names", "no,cell")
    out = tmp_path / "out"
    run("predict", file, image, "--output", out, *stated)
    expected = predict(model, np.asarray(Image.open(image)), normalization="image").argmax(-1)
    mask = np.asarray(Image.open(out / "cells_000_mask.png"))
    np.testing.assert_array_equal(mask, 255 * expected)
    assert "1 done already" in run("predict", file, image, "--output", out, *stated).output
    assert "normalization" in run("predict", file, image, "--output", out).output  # begins anew
    run("evaluate", file, data, "--instances", "--output", tmp_path / "scores", *stated)
    total = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["total"]
    assert set(total["iou"]) == {"no", "cell"}
    assert "grey values   as they are" in run("info", file).output
    found = json.loads(run("info", file, "--json").output)
    assert found["parameters"] == model.count_params()
    assert found["sizes"][0] == [44, 4]
    to = ("--to", "tflite-float16", "--output", tmp_path / "converted")
    run("convert", file, data, *to, *stated)
    assert (tmp_path / "converted" / "model-float16.tflite").is_file()
