"""Networks for the tests of prediction, and what prediction is defined to give."""

from __future__ import annotations

import functools

import keras
import numpy as np
from keras import layers

from keras_unet import geometry
from keras_unet.inference import tiles
from keras_unet.models.unet import build_unet


def random_unet(filters=4, seed=1, **arguments):
    """A network whose outputs vary over the image: trained-looking statistics, no zero biases."""
    model = build_unet(filters=filters, **arguments)
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if layer.weights and "norm" not in layer.name:
            kernel, *bias = layer.get_weights()
            # logits of a trained network's size: rounding grows with them
            kernel = rng.permuted(kernel) * (0.3 if layer.name == "logits" else 1.0)
            layer.set_weights([kernel, *(rng.normal(0, 0.2, b.shape) for b in bias)])
    return model


@functools.cache
def identity_network(depth=1, padding="valid", channels=1, blocks_first=False):
    """Of a convolution that changes nothing: each channel as it is, and as poolings see it.

    The second half of the classes (the first, with `blocks_first`) is constant in blocks of
    `geometry.stride` pixels: wrong where a tile starts at another phase of the poolings than the
    whole image.
    """
    image = keras.Input((None, None, channels), name="image")
    first = layers.Conv2D(channels, 1, padding=padding, use_bias=False, name="down1_conv1")
    x = first(image)
    first.set_weights([np.eye(channels, dtype=np.float32)[None, None]])
    blocks = x
    if padding == "valid":  # legal tiles are 4 pixels short of a multiple of the stride
        blocks = layers.ZeroPadding2D(((4, 0), (4, 0)))(blocks)
    for level in range(1, depth + 1):
        blocks = layers.MaxPooling2D(2, padding=padding, name=f"down{level}_pool")(blocks)
    blocks = layers.UpSampling2D(2**depth)(blocks)
    if padding == "valid":
        margin = geometry.margin(depth)
        blocks = layers.Cropping2D(((4 + margin, margin), (4 + margin, margin)))(blocks)
        x = layers.Cropping2D(margin)(x)
    x = layers.Concatenate(name="logits")([blocks, x] if blocks_first else [x, blocks])
    x = layers.Activation("linear", name="probabilities")(x)
    return keras.Model(image, x)


def on_mirrored(model, image, depth, padding, upsampling="transpose"):
    """The network's raw output where it is run once over the mirrored image."""
    height, width, _ = image.shape
    stride = geometry.stride(depth)
    # Further than any output pixel sees, so that no padding of any kind is seen.
    further = -(-geometry.reach(depth, upsampling) // stride) * stride + 2 * stride
    lead = further
    before = lead + geometry.margin(depth, padding)
    if padding == "valid":
        shape = [geometry.input_size(n + 2 * further, depth) for n in (height, width)]
    else:
        shape = [-(-(n + 2 * further) // stride) * stride for n in (height, width)]
    rows, columns = (
        tiles.mirrored(-before, total - before, n)
        for total, n in zip(shape, (height, width), strict=True)
    )
    stack = image[np.ix_(rows, columns)][None].astype("float32")
    output = model(stack, training=False).numpy()[0]
    return output[lead : lead + height, lead : lead + width]


def whole(model, image, depth, padding, upsampling="transpose"):
    """What `predict` is defined to give: the network run once over the mirrored image."""
    logits = on_mirrored(model, image, depth, padding, upsampling)
    if logits.shape[-1] == 1:
        return 1 / (1 + np.exp(-logits))
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)
