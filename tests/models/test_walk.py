"""One description of the network: what is built, planned and tiled follows from `geometry.walk`."""

from __future__ import annotations

import numpy as np
import pytest

from keras_unet import geometry
from keras_unet.inference import planning
from keras_unet.inference.predictor import predict
from keras_unet.models.unet import build_unet, structure
from keras_unet.training.planning.sizes import Network, network_weights, step_memory, tile_cost

DEPTH = 2
WALK = geometry.walk


def with_one_more(*arguments, **options):
    """The network with a third convolution in the bridge."""
    for step in WALK(*arguments, **options):
        yield step
        if step.name == "bridge_conv2":
            yield step._replace(name="bridge_conv3", incoming=step.outgoing)


def facts():
    """What is known of the network, from planning to tiling."""
    network = Network(8, DEPTH, "same", 1, 2)
    built = build_unet(filters=8, depth=DEPTH)
    tile = 76  # legal with and without: its bridge is 13 pixels wide
    return {
        "margin": geometry.margin(DEPTH),
        "reach": geometry.reach(DEPTH),
        "crops": geometry.crops(DEPTH),
        "weights": network_weights(network),
        "operations": tile_cost(tile, network).operations,
        "training": step_memory(tile, 1, network),
        "prediction": planning.network_bytes(built, structure(built), (tile, tile)),
        "built": sum(np.prod(w.shape) for w in built.weights if "kernel" in w.path),
        "layers": len(built.layers),
    }


def test_the_plan_counts_the_weights_of_what_is_built():
    found = facts()
    assert found["weights"] == found["built"]


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_one_more_convolution_is_known_everywhere(monkeypatch, padding):
    usual = facts()
    monkeypatch.setattr(geometry, "walk", with_one_more)
    found = facts()
    assert found["margin"] == usual["margin"] + 2**DEPTH
    assert found["reach"] == usual["reach"] + 2**DEPTH
    assert found["crops"] == tuple(n + 2 ** (i + 1) for i, n in enumerate(usual["crops"]))
    assert found["weights"] == found["built"] == usual["weights"] + 9 * 32**2
    assert found["operations"] > usual["operations"] and found["training"] > usual["training"]
    assert found["layers"] == usual["layers"] + 1

    model = build_unet(filters=4, depth=DEPTH, padding=padding)
    size = geometry.input_size(40, DEPTH, padding)
    assert model(np.zeros((1, size, size, 1))).shape[1] == geometry.output_size(
        size, DEPTH, padding
    )
    image = np.random.default_rng(0).normal(size=(150, 130)).astype(np.float32)
    whole = predict(model, image)
    tile = geometry.input_size(40, DEPTH, padding) + (80 if padding == "same" else 0)
    np.testing.assert_allclose(predict(model, image, tile=tile), whole, atol=1e-5)
