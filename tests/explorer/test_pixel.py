"""A pixel followed back: the frames hold what it sees, the numbers are the network's own."""

from __future__ import annotations

import numpy as np
import pytest

from keras_unet import build_unet, geometry
from keras_unet.errors import ConfigError
from keras_unet.explorer.network import Network
from keras_unet.explorer.pixel import middle, receptive_fields, work_out
from keras_unet.models import feature_maps, trained_model

OPTIONS = [
    {"padding": "valid"},
    {"padding": "same"},
    {"padding": "valid", "upsampling": "nearest"},
    {"padding": "same", "upsampling": "bilinear"},
]


def positive(model):
    """Weights above 0: with images above 0, more of any pixel is more of all that see it."""
    for one in model.weights:
        one.assign(np.full(one.shape, 0.05 if len(one.shape) == 4 else 0.0))
    return model


@pytest.mark.parametrize("options", OPTIONS)
def test_the_frame_is_what_the_pixel_sees(options):
    model = positive(build_unet((None, None, 1), filters=2, depth=2, **options))
    size = (76, 76)
    network = Network(trained_model(model))
    maps = feature_maps(model, size)
    rows, columns = maps[-1].size
    for y, x in ((rows // 2, columns // 2), (rows // 2 + 1, columns // 2 - 1), (0, columns - 1)):
        (found,) = receptive_fields(network.form, maps, y, x)["image"]
        top, left, height, width = found
        bottom, right = top + height - 1, left + width - 1
        inside = [(top, left), (top, right), (bottom, left), (bottom, right)]
        outside = [(top - 1, left), (bottom + 1, left), (top, left - 1), (top, right + 1)]
        places = inside + [p for p in outside if 0 <= p[0] < size[0] and 0 <= p[1] < size[1]]
        images = np.ones((len(places) + 1, *size, 1), np.float32)
        for number, place in enumerate(places):
            images[number][place] = 1e6
        answers = np.asarray(network.logits(images))[:, y, x, 0]
        changed = answers[:-1] != answers[-1]
        np.testing.assert_array_equal(changed, [place in inside for place in places])


@pytest.mark.parametrize("upsampling", ["transpose", "nearest", "bilinear"])
def test_the_widest_frame_is_the_receptive_field(upsampling):
    model = build_unet(filters=1, depth=3, upsampling=upsampling)
    network = Network(trained_model(model))
    maps = feature_maps(model, geometry.input_size(40, 3) + 160)
    middle_ = maps[-1].size[0] // 2
    fields = [receptive_fields(network.form, maps, middle_ + i, 60)["image"][0] for i in range(8)]
    assert max(f.height for f in fields) == geometry.receptive_field(3, upsampling)


def test_a_skip_shows_two_frames_of_which_one_holds_the_other():
    model = build_unet(filters=1, depth=2)
    maps = feature_maps(model, 76)
    fields = receptive_fields(Network(trained_model(model)).form, maps, 10, 12)
    for level in (1, 2):
        deep, skip = fields[f"down{level}_conv2"]
        assert deep.top <= skip.top and skip.top + skip.height <= deep.top + deep.height
    assert fields["logits"] == [(10, 12, 1, 1)]
    with pytest.raises(ConfigError, match="outside of the answer"):
        receptive_fields(Network(trained_model(model)).form, maps, 99, 0)


@pytest.mark.parametrize(
    "options", [*OPTIONS, {"normalization": "batch"}, {"padding": "same", "normalization": "group"}]
)
def test_the_numbers_add_up_to_what_the_network_computed(options):
    rng = np.random.default_rng(1)
    model = build_unet((None, None, 2), num_classes=3, filters=4, depth=2, **options)
    for one in model.weights:
        if len(one.shape) == 1:
            one.assign(rng.uniform(0.1, 0.5, one.shape))
    network = Network(trained_model(model))
    size = (61, 47) if options.get("padding") == "same" else (60, 76)
    activations = network.run(rng.normal(size=(*size, 2)).astype(np.float32))
    for name, m in activations.maps.items():
        for channel in {0, sum(m.channels) - 1}:
            for y, x in ((0, 0), (m.size[0] - 1, m.size[1] - 1), middle((0, 0, *m.size))):
                found = work_out(network, activations, name, channel, y, x)
                value = activations.array(name)[y, x, channel]
                assert found["value"] == pytest.approx(value)
                if m.kind == "convolution":
                    result = max(found.get("normalised", found["sum"]), 0)
                elif m.kind == "pooling":
                    result = np.max(found["window"])
                elif m.kind == "logits":
                    result = found["classes"][channel]["sum"]
                    assert sum(found["probabilities"]) == pytest.approx(1)
                elif m.kind == "concatenation" and found["part"] == "skip":
                    source = activations.array(found["input"])
                    result = source[found["top"], found["left"], channel]
                elif m.kind == "concatenation":
                    result = found["sum"]
                else:
                    continue
                assert result == pytest.approx(value, rel=1e-4, abs=1e-4), (name, y, x)


def test_the_terms_the_rest_and_the_bias_are_the_sum():
    network = Network(trained_model(build_unet(filters=4, depth=1)))
    activations = network.run(np.random.default_rng(0).normal(size=(44, 44, 1)).astype("float32"))
    found = work_out(network, activations, "bridge_conv2", 3, 5, 5)
    assert len(found["terms"]) == 3 and found["rest"]["count"] == 5
    parts = [term["sum"] for term in found["terms"]]
    for term in found["terms"]:
        assert np.sum(np.multiply(term["patch"], term["kernel"])) == pytest.approx(term["sum"])
    assert sum(parts) + found["rest"]["sum"] + found["bias"] == pytest.approx(found["sum"])
    assert np.abs(parts[0]) >= np.abs(parts[1]) >= np.abs(parts[2])
    with pytest.raises(ConfigError, match="outside"):
        work_out(network, activations, "logits", 0, 99, 0)
    with pytest.raises(ConfigError, match="expected one of"):
        work_out(network, activations, "nothing", 0, 0, 0)
