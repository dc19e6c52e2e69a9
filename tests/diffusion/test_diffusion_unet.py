"""The U-Net: its inputs, sizes, names, precision and files; networks by name."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_unet.diffusion import (
    PRESETS,
    Autoencoder,
    DiffusionUNet,
    TextEncoder,
    build_diffusion_unet,
    count_parameters,
)
from keras_unet.errors import ConfigError

SMALL = {"filters": (8, 16), "norm_groups": 4, "layers_per_block": 1}
EVERYTHING = {
    **SMALL,
    "attention": (None, "cross"),
    "num_heads": 2,
    "context_dim": 6,
    "num_classes": 3,
    "added_features": 5 + 2 * 4,
    "time_id_dim": 4,
}


def inputs(unet, batch=2, size=(8, 8), seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "sample": (*size, unet.options["input_shape"][2]),
        "context": (7, unet.options["context_dim"]),
        "text_embeds": (5,),
        "time_ids": (2,),
    }
    values = {
        name: rng.standard_normal((batch, *shapes[name])) for name in shapes if name in unet.input
    }
    values["timestep"] = np.linspace(1, 981.5, batch)
    if "class_labels" in unet.input:
        values["class_labels"] = np.arange(batch) % 3
    return values


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ({}, set()),
        ({"context_dim": 6}, {"context"}),
        ({"num_classes": 3}, {"class_labels"}),
        ({"class_embedding": "projection", "class_features": 4}, {"class_labels"}),
        (EVERYTHING, {"context", "class_labels", "text_embeds", "time_ids"}),
    ],
)
def test_inputs_by_name(options, extra):
    unet = build_diffusion_unet((None, None, 3), 2, **{**SMALL, **options})
    assert set(unet.input) == {"sample", "timestep"} | extra
    assert unet.output_shape == (None, None, None, 2)


def test_other_inputs_are_refused():
    unet = build_diffusion_unet((8, 8, 1), **SMALL)
    with pytest.raises(ConfigError, match="takes a dictionary of sample, timestep; got .*context"):
        unet({**inputs(unet), "context": np.zeros((2, 3, 4))})
    with pytest.raises(ConfigError, match="sample, timestep; got ndarray"):
        unet(np.zeros((2, 8, 8, 1)))


@pytest.mark.parametrize(("size", "padding"), [((8, 8), 1), ((7, 10), 1), ((13, 6), 0)])
def test_any_size_compiled_once_or_not(size, padding):
    """Sizes that do not divide; the same numbers whether sizes are known in advance or not."""
    import tensorflow as tf

    unet = build_diffusion_unet(
        (None, None, 2),
        **{**SMALL, "filters": (8, 8, 16)},
        downsample_padding=padding,
        dtype="float64",
    )
    given = {k: tf.constant(v, "float64") for k, v in inputs(unet, size=size).items()}
    eager = unet(given)
    assert eager.shape == (2, *size, 2)
    anything = {k: tf.TensorSpec([None] * v.shape.rank, v.dtype) for k, v in given.items()}
    anything["sample"] = tf.TensorSpec([None, None, None, 2], "float64")
    compiled = tf.function(unet, input_signature=[anything])(given)
    np.testing.assert_allclose(compiled, eager, rtol=1e-10, atol=1e-12)


def test_layers_bear_the_names_of_their_blocks():
    unet = build_diffusion_unet((8, 8, 1), **EVERYTHING)
    names = {layer.name for layer in unet.layers}
    assert names >= {
        "time_embedding",
        "class_embedding",
        "add_embedding",
        "conv_in",
        "down_blocks_0_resnets_0",
        "down_blocks_0_downsamplers_0",
        "down_blocks_1_attentions_0",
        "mid_block_resnets_1",
        "mid_block_attentions_0",
        "up_blocks_0_attentions_1",
        "up_blocks_0_upsamplers_0",
        "conv_norm_out",
        "conv_out",
    }
    assert type(unet.get_layer("down_blocks_1_attentions_0")).__name__ == "SpatialTransformer"


def test_the_condition_matters_and_the_seed_does():
    unet = build_diffusion_unet((8, 8, 1), **EVERYTHING)
    given = inputs(unet)
    out = np.asarray(unet(given))
    for name in given:
        changed = {**given, name: given[name][::-1]}
        assert not np.allclose(unet(changed), out, atol=1e-6), name


@pytest.mark.parametrize("options", [SMALL, EVERYTHING])
def test_saved_and_loaded(tmp_path, options):
    unet = build_diffusion_unet((None, None, 2), 1, **options, dropout=0.1, name="noise")
    unet.save(tmp_path / "unet.keras")
    again = keras.models.load_model(tmp_path / "unet.keras")
    assert isinstance(again, DiffusionUNet)
    assert again.options == unet.options and again.name == "noise"
    given = inputs(unet)
    np.testing.assert_array_equal(again(given), unet(given))


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "bfloat16", "float64"])
def test_precision(dtype):
    reference = build_diffusion_unet((8, 8, 1), **EVERYTHING, dtype="float64")
    unet = build_diffusion_unet((8, 8, 1), **EVERYTHING, dtype=dtype)
    unet.set_weights(reference.get_weights())
    given = inputs(unet)
    out = unet(given)
    assert keras.backend.standardize_dtype(out.dtype) == (
        "float64" if dtype == "float64" else "float32"
    )
    expected = np.asarray(reference(given))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(out), expected, atol=0.1 * scale, rtol=0)
    if dtype != "float64":  # 981.5 must have got there: bfloat16 has 980 and 984
        later = {**given, "timestep": given["timestep"] + 1.0}
        assert not np.array_equal(unet(later), out)


def test_channels_are_last_whatever_the_configuration_says():
    expected = build_diffusion_unet((8, 8, 1), **EVERYTHING)
    keras.config.set_image_data_format("channels_first")
    try:
        unet = build_diffusion_unet((8, 8, 1), **EVERYTHING)
        unet.set_weights(expected.get_weights())
        np.testing.assert_array_equal(unet(inputs(unet)), expected(inputs(unet)))
    finally:
        keras.config.set_image_data_format("channels_last")


def test_a_step_down_the_gradient_lowers_the_loss():
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    unet = build_diffusion_unet((8, 8, 1), **EVERYTHING, scale_shift=True)
    target = np.random.default_rng(1).standard_normal((2, 8, 8, 1)).astype("float32")

    def loss():
        return tf.reduce_mean((unet(inputs(unet), training=True) - target) ** 2)

    with tf.GradientTape() as tape:
        before = loss()
    weights = [weight.value for weight in unet.trainable_weights]
    for weight, gradient in zip(weights, tape.gradient(before, weights), strict=True):
        assert gradient is not None, weight.name
        weight.assign_sub(1e-3 * tf.convert_to_tensor(gradient))
    assert loss() < 0.999 * before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": (10, 16)}, "filters must divide by norm_groups .4., got 10"),
        ({"attention": ("cross", None)}, "needs context_dim"),
        ({"attention": (None,)}, "for each of the 2 levels"),
        ({"attention": ("own", None)}, "for each of the 2 levels"),
        ({"num_heads": 2, "head_dim": 4}, "not both"),
        ({"num_heads": (1, 2, 3)}, "num_heads must be a number or one for each of the 2 levels"),
        ({"layers_per_block": 0}, "layers_per_block must be an integer >= 1, got 0"),
        ({"class_embedding": "table"}, "needs num_classes"),
        ({"class_embedding": "projection"}, "needs class_features"),
        ({"class_embedding": "hash"}, "'hash' is unknown"),
        ({"added_features": 12}, "go together"),
        ({"conv_in_kernel": 2}, "must be odd"),
        ({"downsample_padding": 2}, "must be 0 or 1"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"mid_block": "big"}, "mid_block 'big' is unknown"),
        ({"upsampling": "bilinear"}, 'must be "conv" or "resnet"'),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        build_diffusion_unet((8, 8, 1), **{**SMALL, **options})


def test_bad_shape_and_unknown_option():
    with pytest.raises(ConfigError, match="input_shape must be"):
        build_diffusion_unet((8, 8), **SMALL)
    with pytest.raises(ConfigError, match="has no option colour"):
        DiffusionUNet(input_shape=(8, 8, 1), colour=1)


@pytest.mark.parametrize(
    ("preset", "part", "count"),
    [
        ("ddpm-cifar10", DiffusionUNet, 35_746_307),
        ("ldm-4-ffhq", DiffusionUNet, 274_056_163),
        ("cin256", DiffusionUNet, 400_920_579),
        ("sd-1", DiffusionUNet, 859_520_964),
        ("sd-1", Autoencoder, 83_653_863),
        ("sd-1", TextEncoder, 123_060_480),
        ("sd-2.1", DiffusionUNet, 865_910_724),
        ("sd-2.1", TextEncoder, 340_387_840),
        ("sdxl", DiffusionUNet, 2_567_463_684),
    ],
)
def test_parameters_of_the_papers_networks(preset, part, count):
    assert count_parameters(part.from_preset, preset) == count


def test_inpainting_is_five_channels_more():
    options = {"input_shape": (None, None, 9), "out_channels": 4}
    count = count_parameters(DiffusionUNet.from_preset, "sd-1", **options)
    assert count == 859_535_364


@pytest.mark.parametrize("preset", ["microscopy-pixel-64", "microscopy-latent-128"])
def test_microscopy_presets(preset):
    unet = PRESETS[preset]["unet"]
    assert unet["input_shape"][2] == unet["out_channels"] + 1  # the mask
    count_parameters(DiffusionUNet.from_preset, preset)
    if "autoencoder" in PRESETS[preset]:
        size, latent = PRESETS[preset]["autoencoder"]["sample_size"], unet["sample_size"]
        filters = PRESETS[preset]["autoencoder"]["filters"]
        assert size == latent * 2 ** (len(filters) - 1)
        count_parameters(Autoencoder.from_preset, preset)


def test_counting_leaves_no_variables_behind():
    """Keras would give them values, 10 GB of them, at the next chance."""
    count_parameters(DiffusionUNet.from_preset, "sdxl")
    layer = keras.layers.Dense(2)
    with keras.StatelessScope():
        layer.build((1, 3))
    assert layer.kernel.shape == (3, 2)


def test_unknown_preset():
    with pytest.raises(ConfigError, match="no preset 'sd-9'; there are ddpm-cifar10"):
        DiffusionUNet.from_preset("sd-9")
    with pytest.raises(ConfigError, match="'sdxl' has no text_encoder"):
        TextEncoder.from_preset("sdxl")
