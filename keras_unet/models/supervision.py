"""Deep supervision: in training, every level of the expansive path answers for the labels."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from keras_unet.models import blocks
from keras_unet.models.cropping import CropLike, Cropping2D
from keras_unet.models.unet import structure


def with_heads(network: keras.Model) -> keras.Model:
    """The network with one more answer at each level of its expansive path above the first.

    A head is a 1x1 convolution to the classes; each of its pixels answers for the block of pixels
    that it covers (2^(level - 1) squared), so that all answers have the size of the first and go
    with the same labels and weights (after Lee et al. 2015, "Deeply-supervised nets"; nnU-Net has
    coarser labels instead). Layers and weights are shared: what is trained here is `network`, which
    stays as it is and is what to save.

    Args:
        network: made by `build_unet` with logits as its output.

    Returns:
        A model from the same input to (logits, logits of level 2, …), all float32
        [B, H', W', K]. A network of depth 1 has no such level: its list has one output.
    """
    found = structure(network)
    answers = [network.output]
    for level in range(2, found.depth + 1):
        name = f"up{level}_conv2"
        names = {layer.name for layer in network.layers}
        features = network.get_layer(f"{name}_act" if f"{name}_act" in names else name).output
        x = layers.Conv2D(
            found.num_classes,
            1,
            data_format=blocks.CHANNELS,
            kernel_initializer=blocks.he_normal(features.shape[-1]),
            dtype="float32",
            name=f"head{level}_logits",
        )(features)
        x = layers.UpSampling2D(
            2 ** (level - 1),
            data_format=blocks.CHANNELS,
            dtype="float32",
            name=f"head{level}_resize",
        )(x)
        answers.append(_fit(x, network.output, level, found.padding))
    return keras.Model(network.input, answers, name=network.name)


def head_weights(count: int) -> list[float]:
    """The weight of each answer in the loss: 1, 1/2, 1/4 … (nnU-Net's, before its division)."""
    return [0.5**i for i in range(count)]


def _fit(x: Any, like: Any, level: int, padding: str) -> Any:
    """Cuts a level's answer to the network's: each unpadded convolution below it takes a border.

    From level l to l - 1 the size s becomes 2s - 4, so with borders in pixels of level 1 the map of
    level l stands out by 2 + 4 + … + 2^(l-1) = 2^l - 2 on each side.
    """
    name = f"head{level}_crop"
    if padding == "valid":
        crop = 2**level - 2
        return Cropping2D(crop, data_format=blocks.CHANNELS, dtype="float32", name=name)(x)
    return CropLike(dtype="float32", name=name)([x, like])
