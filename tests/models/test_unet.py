"""build_unet against the paper; Keras only, so that it runs on every Keras backend."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_unet import geometry
from keras_unet.errors import ConfigError
from keras_unet.losses import Dice, Focal, Sum, WeightedCrossEntropy
from keras_unet.metrics import IoU, PixelError
from keras_unet.models.unet import build_unet, structure

WEIGHTED = (keras.layers.Conv2D, keras.layers.Conv2DTranspose)


def run(model, size, channels=1, batch=1):
    shape = (batch, *size, channels)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    return keras.ops.convert_to_numpy(model(x, training=False))


def test_the_papers_network():
    model = build_unet()
    assert model.count_params() == 31_030_658
    assert sum(isinstance(layer, WEIGHTED) for layer in model.layers) == 23
    assert build_unet(num_classes=1).count_params() == 31_030_593
    assert build_unet((572, 572, 1)).output_shape == (None, 388, 388, 2)
    assert not any(isinstance(layer, keras.layers.Lambda) for layer in model.layers)
    crops = [layer.cropping for layer in model.layers if "crop" in layer.name]
    assert crops == [((c, c), (c, c)) for c in (4, 16, 40, 88)]


def test_layer_names_can_be_guessed():
    names = {layer.name for layer in build_unet(filters=2, dropout=0.5).layers}
    expected = {"down1_conv1", "down4_conv2", "down2_pool", "bridge_conv1", "bridge_conv2"}
    expected |= {"up4_upconv", "up4_crop", "up4_concat", "up1_conv2", "logits"}
    expected |= {"down4_dropout", "bridge_dropout"}
    assert expected <= names


def test_initial_weights_have_the_papers_deviation():
    model = build_unet(filters=32)
    incoming = {"down2_conv1": 9 * 32, "bridge_conv2": 9 * 512, "up3_conv1": 9 * 256}
    incoming |= {"up4_upconv": 512, "up2_upconv": 128}
    for name, count in incoming.items():
        kernel = keras.ops.convert_to_numpy(model.get_layer(name).kernel)
        expected = np.sqrt(2 / count)
        assert kernel.std() == pytest.approx(expected, rel=0.02), name
        # a Gaussian, not cut at two deviations: 4.55 percent lie beyond
        assert np.mean(np.abs(kernel) > 2 * expected) == pytest.approx(0.0455, rel=0.1), name


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_run_time_sizes_follow_the_geometry(depth):
    model = build_unet(filters=2, depth=depth)
    for out in (1, 7, 30):
        size = (geometry.input_size(out, depth), geometry.input_size(out + 5, depth))
        assert run(model, size).shape[1:3] == geometry.output_size(size, depth)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_receptive_field_is_what_geometry_says(depth):
    """With weights of one and a bright pixel, exactly the outputs that can see it change."""
    model = build_unet(filters=1, depth=depth, activation="linear")
    model.set_weights([np.ones_like(weight) / 9 for weight in model.get_weights()])
    size = geometry.input_size(16 * 2**depth, depth)  # outputs beyond the reach
    x = np.zeros((1, size, size, 1), "float32")
    base = keras.ops.convert_to_numpy(model(x))
    reach = 0
    for at in range(size // 2, size // 2 + 2**depth):
        moved = x.copy()
        moved[0, at, at] = 1e6
        changed = np.abs(keras.ops.convert_to_numpy(model(moved)) - base)[0].max(-1).max(0) > 0
        seen = np.flatnonzero(changed) + geometry.margin(depth)
        reach = max(reach, seen.max() - at, at - seen.min())
    assert reach == geometry.reach(depth)


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (64, 48), (7, 100)])
@pytest.mark.parametrize("static", [True, False])
def test_same_padding_takes_any_size(size, static):
    shape = (*size, 1) if static else (None, None, 1)
    model = build_unet(shape, padding="same", filters=2, num_classes=3)
    assert run(model, size).shape == (1, *size, 3)


def test_a_divisible_static_size_needs_no_layer_of_ours():
    model = build_unet((64, 64, 1), padding="same", filters=2)
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)


@pytest.mark.parametrize("upsampling", ["transpose", "bilinear", "nearest"])
@pytest.mark.parametrize("normalization", [None, "batch", "group", "layer"])
def test_options_build_train_and_reload(tmp_path, upsampling, normalization):
    model = build_unet(
        (None, None, 3),
        num_classes=4,
        filters=4,
        depth=2,
        upsampling=upsampling,
        normalization=normalization,
        dropout=0.5,
    )
    size = geometry.input_size(8, 2)
    model.compile("sgd", WeightedCrossEntropy())
    x = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype("float32")
    y = np.zeros((2, 8, 8), "int32")
    before = keras.ops.convert_to_numpy(model.get_layer("down1_conv1").kernel).copy()
    history = model.fit(x, y, sample_weight=np.ones(y.shape, "float32"), verbose=0)
    assert np.isfinite(history.history["loss"][0])
    assert np.abs(keras.ops.convert_to_numpy(model.get_layer("down1_conv1").kernel) - before).max()
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_allclose(run(again, (size, size), 3), run(model, (size, size), 3), atol=1e-6)


def test_mixed_precision_keeps_float32_logits():
    model = build_unet(filters=4, depth=1, dtype="mixed_bfloat16", output_activation="softmax")
    assert model.get_layer("down1_conv1").compute_dtype == "bfloat16"
    out = run(model, (18, 18))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.sum(-1), 1, atol=1e-6)


@pytest.fixture
def keras_settings():
    """Puts Keras's settings back."""
    config = keras.config
    before = config.image_data_format(), config.floatx(), config.dtype_policy()
    yield config
    for put_back, value in zip(
        (config.set_image_data_format, config.set_floatx, config.set_dtype_policy),
        before,
        strict=True,
    ):
        put_back(value)


@pytest.mark.parametrize(
    ("padding", "upsampling"), [("valid", "bilinear"), ("same", "transpose"), ("same", "nearest")]
)
@pytest.mark.parametrize("static", [True, False])
def test_channels_are_last_whatever_keras_is_set_to(keras_settings, padding, upsampling, static):
    size = (44, 44) if padding == "valid" else (33, 40)
    shape = (*size, 3) if static else (None, None, 3)
    options = {"filters": 2, "depth": 2, "padding": padding, "upsampling": upsampling}
    made = []
    for form in ("channels_last", "channels_first"):
        keras_settings.set_image_data_format(form)
        made.append(build_unet(shape, normalization="batch", **options))
    made[1].set_weights(made[0].get_weights())
    assert made[1].output_shape == made[0].output_shape
    expected = run(made[0], size, 3)
    copy = keras.models.clone_model(made[1])
    copy.set_weights(made[0].get_weights())
    for model in (*made, copy):
        np.testing.assert_array_equal(run(model, size, 3), expected)
    formats = {getattr(layer, "data_format", "channels_last") for layer in made[1].layers}
    assert formats == {"channels_last"}


@pytest.mark.parametrize(
    ("dtype", "setting", "normalization", "upsampling"),
    [
        ("float16", "policy", "batch", "bilinear"),
        ("bfloat16", "policy", "batch", "nearest"),
        ("float64", "policy", "batch", "transpose"),
        ("float16", "floatx", "layer", "bilinear"),
        ("bfloat16", "floatx", "group", "bilinear"),
    ],
)
def test_every_layer_loss_and_metric_trains_in_one_type(
    keras_settings, dtype, setting, normalization, upsampling
):
    if keras.backend.backend() == "jax" and dtype == "float64":
        pytest.skip("JAX has none by default")
    if setting == "floatx":
        keras_settings.set_floatx(dtype)
    keras_settings.set_dtype_policy(dtype)
    image = np.random.default_rng(0).random((1, 9, 9, 1))
    labels = (image[..., 0] > 0.5).astype("uint8")
    options = {"normalization": normalization, "upsampling": upsampling, "dropout": 0.1}
    model = build_unet(filters=2, depth=1, padding="same", **options)
    before = [keras.ops.convert_to_numpy(w).astype("float64") for w in model.trainable_weights]
    loss = Sum([WeightedCrossEntropy(class_weights=(1, 2), ignore_class=9), Dice(), Focal()])
    metrics = [PixelError(), IoU(1, ignore_class=9)]
    model.compile(keras.optimizers.SGD(0.1), loss, metrics=metrics)
    history = model.fit(image, labels, verbose=0).history
    assert np.isfinite([float(values[0]) for values in history.values()]).all()
    assert model.get_layer("down1_conv1").compute_dtype == dtype
    after = [keras.ops.convert_to_numpy(w).astype("float64") for w in model.trainable_weights]
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


def test_structure_is_read_from_the_layers():
    model = build_unet((None, None, 3), 5, filters=2, depth=3, padding="same")
    assert structure(model) == (3, "same", 3, 5, None, "transpose", 2, None)
    for normalization in ("batch", "group", "layer"):
        network = build_unet(filters=2, depth=1, normalization=normalization)
        assert structure(network).normalization == normalization
    assert structure(build_unet(filters=2, upsampling="nearest")).upsampling == "nearest"
    assert structure(build_unet(filters=2, output_activation="softmax")).output == "softmax"
    with pytest.raises(ConfigError, match="not made by"):
        structure(keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(1, 1)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (570, 572, 1)}, "570.*556 and 572"),
        ({"input_shape": (572, 572)}, "height, width, channels"),
        ({"num_classes": 0}, "num_classes"),
        ({"filters": 2.5}, "filters"),
        ({"depth": 0}, "depth"),
        ({"padding": "full"}, "full"),
        ({"upsampling": "bicubic"}, "bicubic"),
        ({"normalization": "instance"}, "instance"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        build_unet(**arguments)
