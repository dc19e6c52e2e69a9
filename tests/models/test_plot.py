"""The plot of a U-Net shows the model's own sizes, channels and crops."""

from __future__ import annotations

import keras
import pytest
from PIL import Image

from keras_unet import build_unet, geometry, plot_unet
from keras_unet.errors import ConfigError
from keras_unet.models import feature_maps


def outputs(model, size):
    """Height, width and channels of every layer's output, from Keras."""
    fixed = keras.models.clone_model(
        model, input_tensors=keras.Input((*size, model.input_shape[-1]), name="image")
    )
    return {layer.name: layer.output.shape[1:] for layer in fixed.layers}


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((60, 60), {"depth": 2}),
        ((60, 76), {"depth": 2}),
        ((37, 50), {"depth": 3, "padding": "same"}),
        ((33, 33), {"depth": 1, "padding": "same", "normalization": "batch", "dropout": 0.1}),
        ((44, 44), {"depth": 2, "upsampling": "bilinear"}),
    ],
)
def test_the_maps_are_what_keras_computes(size, options):
    model = build_unet((None, None, 3), num_classes=5, filters=3, **options)
    known = outputs(model, size)
    for m in feature_maps(model, size):
        assert known[m.layer] == (*m.size, sum(m.channels)), m.layer
        assert m.crop == (
            geometry.crops(options["depth"], options.get("padding", "valid"))[::-1][m.level - 1]
            if m.kind == "concatenation"
            else 0
        )


def test_where_the_model_takes_any_size_the_papers_is_drawn():
    maps = {m.layer: m for m in feature_maps(build_unet(filters=2))}
    assert maps["image"].size == (572, 572)
    assert maps["up4_concat"][3:] == ((56, 56), (16, 16), 4)
    assert maps["logits"].size == (388, 388)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_the_picture_names_sizes_channels_and_crops(padding, tmp_path):
    model = build_unet((60, 60, 3), num_classes=5, filters=3, depth=2, padding=padding)
    shown = {text.get_text() for text in plot_unet(model).axes[0].texts}
    assert {"60²", "3 + 3", "bridge"} <= shown
    crops = {"crop 16 each side", "crop 4 each side"}
    assert crops <= shown if padding == "valid" else not crops & shown
    for name in ("u.svg", "deep/u.png"):
        plot_unet(model, to_file=tmp_path / name)
    assert "60²" in (tmp_path / "u.svg").read_text(encoding="utf-8")  # text, no outlines of it
    with Image.open(tmp_path / "deep" / "u.png") as picture:
        assert picture.size == (1200, 580)


def test_depths_from_one_to_six():
    for depth in (1, 6):
        figure = plot_unet(build_unet(filters=1, depth=depth))
        assert figure.axes[0].texts


def test_what_cannot_be_drawn_is_named(tmp_path):
    model = build_unet((60, 60, 1), filters=2, depth=2)
    with pytest.raises(ConfigError, match="ends in .png, .svg or .pdf"):
        plot_unet(model, to_file=tmp_path / "u.txt")
    with pytest.raises(ConfigError, match="only"):
        plot_unet(model, size=76)
    with pytest.raises(ConfigError, match="nearest legal"):
        plot_unet(build_unet(filters=2, depth=2), size=61)
    other = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(1, 3)])
    with pytest.raises(ConfigError, match="build_unet"):
        plot_unet(other)
