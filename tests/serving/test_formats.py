"""Other runtimes give what `predict` gives: ONNX, LiteRT, SavedModels in half precision."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import tensorflow as tf
from conftest import make_trained
from typer.testing import CliRunner

from keras_unet import pictures
from keras_unet.cli.app import app
from keras_unet.data import read_image
from keras_unet.errors import ConfigError, DataError, ExportError
from keras_unet.inference import predict
from keras_unet.models import in_float32, save_model
from keras_unet.serving import formats
from keras_unet.serving.card import CardFields

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("tf2onnx") is None or importlib.util.find_spec("onnxruntime") is None,
    reason="pip install 'unet-keras[export]'",
)


def model(*options, **named):
    trained = make_trained(*options, **named)
    return trained._replace(network=in_float32(trained.network))


def images(count, size=(44, 52), channels=1):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, channels), dtype=np.uint8) for _ in range(count)]


@needs_onnx
@pytest.mark.parametrize(
    ("method", "padding", "channels"), [("image", "valid", 1), ("dataset", "same", 3)]
)
def test_onnx_takes_images_of_any_size(tmp_path, method, padding, channels):
    trained = model(method, padding, channels, classes=3)
    run = formats.onnx_runner(formats.write_onnx(trained, tmp_path / "model.onnx"))
    for size in ((61, 83), (1, 1), (2, 40), (3, 5)):
        image = images(1, size, channels)[0]
        np.testing.assert_allclose(run(image), predict(trained, image), atol=2e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


@needs_onnx
def test_onnx_of_normalised_images(tmp_path):
    trained, image = model("dataset"), images(1)[0]
    run = formats.onnx_runner(formats.write_onnx(trained, tmp_path / "a.onnx", normalise=False))
    normalised = trained.card.normalization(image)
    np.testing.assert_allclose(run(normalised), predict(trained, image), atol=2e-5)


@pytest.mark.parametrize(("kind", "most"), [("float32", 2e-5), ("float16", 2e-3)])
def test_tflite_in_floating_point(tmp_path, kind, most):
    trained, image = model("image", "same"), images(1)[0]
    path = formats.write_tflite(trained, tmp_path / "a.tflite", (44, 52), kind)
    error = np.abs(formats.tflite_runner(path)(image) - predict(trained, image)).max()
    assert error < most
    assert kind == "float32" or error > 0


def test_int8_is_near_and_smaller(tmp_path):
    trained = model("range")
    found = formats.convert(trained, images(6), tmp_path, ["tflite-float32", "tflite-int8"])
    keras, whole, int8 = found
    assert keras.name == "keras"
    assert keras.bytes == 4 * trained.network.count_params()
    assert whole.largest < 2e-5 < int8.largest < 0.2
    assert 0 < int8.mean < int8.largest
    assert int8.bytes < whole.bytes
    assert int8.path.stat().st_size == int8.bytes


@pytest.mark.parametrize(
    ("kind", "padding", "channels"),
    [("float32", "valid", 1), ("float16", "same", 3), ("int8", "same", 1)],
)
def test_a_tflite_file_takes_no_other_size(tmp_path, kind, padding, channels):
    """A client that resizes the input gets an error, never the answer for a part of the image."""
    trained = model("range", padding, channels)
    size, given = (32, 40), images(3, (32, 40), channels)
    path = formats.write_tflite(trained, tmp_path / "a.tflite", size, kind, given)
    delegated, plain = (
        tf.lite.experimental.OpResolverType.AUTO,
        tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    shapes = [(1, 40, 32), (1, 64, 80), (1, 33, 40), (1, 32, 39), (1, 64, 20), (1, 1, 1)]
    shapes = [(*shape, channels) for shape in [*shapes, (2, 32, 40), (4, 16, 20)]]
    for kernels in (delegated, plain):
        interpreter = tf.lite.Interpreter(str(path), experimental_op_resolver_type=kernels)
        index = interpreter.get_input_details()[0]["index"]

        def ask(shape, interpreter=interpreter, index=index):
            interpreter.resize_tensor_input(index, shape)
            interpreter.allocate_tensors()
            interpreter.set_tensor(index, np.ones(shape, np.float32))
            interpreter.invoke()

        for shape in [*shapes, (1, 32, 40, channels + 1)]:
            with pytest.raises(RuntimeError, match="failed to"):
                ask(shape)
        with pytest.raises(RuntimeError, match="failed to"):
            interpreter.get_signature_runner()(images=np.ones((1, 64, 80, channels), np.float32))
        ask((1, 32, 40, channels))  # its own


def test_saved_models_are_compared_on_the_middle_of_the_images(tmp_path):
    trained = model()
    given = [*images(1, (60, 52)), *images(2, (44, 90))]
    found = formats.convert(trained, given, tmp_path, ["saved-model-float32"])[1]
    assert found.largest < 1e-5
    assert found.classes == 0
    assert found.path == tmp_path / "saved-model-float32"
    assert found.seconds > 0


def test_a_wrong_file_shows_as_a_difference(tmp_path, monkeypatch):
    trained, other = model(), model()
    other.network.set_weights([w + 0.1 for w in other.network.get_weights()])
    write = formats.write_saved_model
    monkeypatch.setattr(
        formats, "write_saved_model", lambda _, path, **named: write(other, path, **named)
    )
    found = formats.convert(trained, images(2), tmp_path, ["saved-model-float32"])[1]
    assert found.largest > 0.01
    assert found.classes > 0


def test_what_cannot_be_converted_is_named(tmp_path, monkeypatch):
    trained = model()
    with pytest.raises(ConfigError, match="format 'coreml'; expected saved-model-float32"):
        formats.convert(trained, images(2), tmp_path, ["coreml"])
    with pytest.raises(ConfigError, match="1 images; expected one or more, for int8 two"):
        formats.convert(trained, images(1), tmp_path, ["tflite-int8"])
    with pytest.raises(ConfigError, match="int8 needs calibration images"):
        formats.write_tflite(trained, tmp_path / "a.tflite", (44, 52), "int8")
    with pytest.raises(ConfigError, match="kind is 'int4'"):
        formats.write_tflite(trained, tmp_path / "a.tflite", (44, 52), "int4")
    with pytest.raises(DataError, match="44 x 52 pixels; expected at least 50 x 50"):
        formats.convert(trained, images(2), tmp_path, ["onnx"], size=(50, 50))
    monkeypatch.setitem(__import__("sys").modules, "tf2onnx", None)
    with pytest.raises(ExportError, match=r"pip install 'unet-keras\[export\]'"):
        formats.convert(trained, images(2), tmp_path, ["onnx"])


def test_the_command_prints_a_table(tmp_path):
    for i, image in enumerate(images(4)):
        pictures.save_png(tmp_path / "images" / f"{i}.png", image[..., 0])
    save_model(model(), tmp_path / "run" / "best.keras")
    command = ["convert", str(tmp_path / "run"), str(tmp_path / "images")]
    command += ["--to", "tflite-float16", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "model-float16.tflite" in result.output
    assert "largest difference" in result.output
    assert (tmp_path / "out" / "model-float16.tflite").is_file()


def test_a_zoo_package_says_what_it_needs():
    with pytest.raises(ConfigError, match="needs description, authors, licence"):
        formats.write_bioimage(model(), "a.zip", images(1)[0], CardFields())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["image", "range"])
def test_the_model_zoo_accepts_and_runs_the_package(tmp_path, shared, method):
    core = pytest.importorskip("bioimageio.core", reason="pip install 'unet-keras[bioimage]'")
    trained = model(method)
    picture = sorted((shared / "data/dsb2018_fluo/val/images").iterdir())[0]
    image = read_image(picture)
    fields = CardFields(description="Cells", authors=("A. Person",), licence="CC0-1.0")
    path = formats.write_bioimage(trained, tmp_path / "a.zip", image, fields)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]
    description = core.load_model_description(path)
    given = core.Tensor(image[None].astype(np.float32), dims=("batch", "y", "x", "channel"))
    pipeline = core.create_prediction_pipeline(description)
    sample = core.digest_spec.create_sample_for_model(description, inputs={"image": given})
    pipeline.apply_preprocessing(sample)
    normalised = trained.card.normalization(image)
    got = sample.members["image"].data.to_numpy()[0]
    np.testing.assert_allclose(got, normalised, atol=1e-4)
    small = image[:20, :20]
    with pytest.raises(ConfigError, match="the test image has 20 x 20 pixels"):
        formats.write_bioimage(trained, tmp_path / "b.zip", small, fields)
