"""`build_unet`: the U-Net of Ronneberger, Fischer, Brox 2015 as a Keras functional model."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, get_args

import keras
import numpy as np
from keras import layers

from keras_unet import geometry
from keras_unet.errors import ConfigError
from keras_unet.models import blocks
from keras_unet.models.blocks import CropLike, LegalSize, SlicedCropping2D


def build_unet(
    input_shape: tuple[int | None, int | None, int] = (None, None, 1),
    num_classes: int = 2,
    *,
    filters: int = 64,
    depth: int = 4,
    padding: geometry.Padding = "valid",
    upsampling: geometry.Upsampling = "transpose",
    normalization: geometry.Normalization | None = None,
    dropout: float = 0.0,
    activation: str = "relu",
    output_activation: str | None = None,
    dtype: Any = None,
    name: str = "unet",
) -> keras.Model:
    """Builds a U-Net; the defaults are the paper's network (figure 1): 23 convolutions.

    Args:
        input_shape: (height, width, channels). Height and width may be None: any legal size at
            run time, see `keras_unet.geometry`. Another one is an error that names the nearest.
        num_classes: channels of the output K; 1 makes a binary (sigmoid) head.
        filters: feature channels of the first level; each level below has twice as many.
        depth: number of poolings and of up-convolutions.
        padding: "valid" as in the paper: the output is 2 * 92 pixels smaller at depth 4, and a
            cropping cuts each skip; or "same": any size, the output as large as the input.
        upsampling: "transpose", the paper's 2x2 up-convolution, or "bilinear" or "nearest"
            upsampling followed by a 2x2 convolution.
        normalization: None (the paper), "batch", "group" or "layer" (over the channels of each
            pixel) between convolution and activation. A group's statistics depend on the tile,
            so that tiles then no longer give exactly what the whole image gives.
        dropout: rate of the drop-out "at the end of the contracting path" (section 3.1): after
            the deepest level's convolutions and after the bridge, as in the authors' release.
        activation: of every 3x3 convolution.
        output_activation: None returns logits, for losses that take them: those of this package, or
            Keras's with `from_logits=True` ("sparse_categorical_crossentropy" by its name takes
            probabilities, and learns badly from logits). "softmax" or "sigmoid" adds a last layer
            `probabilities`; then give this package's losses `from_logits=False`.
        dtype: a dtype or Keras dtype policy for all layers, such as "mixed_bfloat16"; None is
            Keras's global policy. The output stays float32.
        name: of the model: letters, digits and _ . - of ASCII, with no _ or - at the start.

    Returns:
        A functional model from [B, H, W, C] to [B, H', W', K] float32. Layers are named
        `down1_conv1` … `bridge_conv2`, `up4_upconv`, `up4_crop`, `up4_concat` … `logits`, where
        a number is the level, 1 at full resolution.

    Raises:
        ConfigError (a ValueError): an argument is out of range, or a given height or width is
            no legal size (the message names the two nearest legal ones).
    """
    _check(input_shape, num_classes, filters, padding, upsampling, normalization, dropout)
    if not re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.-]*", name):  # else TensorFlow fails in `fit`
        raise ConfigError(f"name must be of letters, digits and _ . -, got {name!r}")
    geometry.crops(depth, padding)
    for size in input_shape[:2]:
        if size is not None:
            geometry.output_size(size, depth, padding)

    deepest = f"down{depth}_conv2", "bridge_conv2"
    skips, crops = [], iter(geometry.crops(depth, padding))
    inputs = x = keras.Input(input_shape, name="image")
    if padding == "valid" and None in input_shape[:2]:
        x = LegalSize(depth, dtype=dtype, name="legal_size")(x)
    for step in geometry.walk(depth, filters, input_shape[2], num_classes):
        here: dict[str, Any] = {"name": step.name, "dtype": dtype}
        if step.kind == "convolution":
            x = blocks.convolution(
                x,
                step.outgoing,
                kernel=step.kernel,
                padding=padding,
                normalization=normalization,
                activation=activation,
                **here,
            )
            if dropout and step.name in deepest:
                name_here = step.name.replace("conv2", "dropout")
                x = layers.Dropout(dropout, dtype=dtype, name=name_here)(x)
        elif step.kind == "pool":
            skips.append(x)
            x = layers.MaxPooling2D(2, padding=padding, data_format=blocks.CHANNELS, **here)(x)
        elif step.kind == "up":
            x = blocks.up_convolution(x, step.outgoing, upsampling=upsampling, **here)
        elif step.kind == "join":
            x = blocks.join(skips.pop(), x, crop=next(crops), padding=padding, **here)
        else:
            x = blocks.logits(x, step.outgoing, name=step.name)
    if output_activation is not None:
        x = layers.Activation(output_activation, dtype="float32", name="probabilities")(x)
    return keras.Model(inputs, x, name=name)


class Structure(NamedTuple):
    """What tiling and export must know of a network, read from its layers."""

    depth: int
    padding: geometry.Padding
    channels: int
    num_classes: int
    output: str | None  # the output activation; None for logits
    upsampling: geometry.Upsampling
    filters: int  # of the first level
    normalization: geometry.Normalization | None


# what each kind of normalization is in a network
_NORMALIZATIONS: dict[geometry.Normalization, type[layers.Layer]] = {
    "batch": layers.BatchNormalization,
    "group": layers.GroupNormalization,
    "layer": layers.LayerNormalization,
}


def structure(model: keras.Model) -> Structure:
    """Reads depth, padding, channels, classes and the rest of it from a model made by `build_unet`.

    Raises:
        ConfigError: the model is no U-Net of this package, or it does more than that.
    """
    names = {layer.name: layer for layer in model.layers}
    if "down1_conv1" not in names or "logits" not in names:
        raise ConfigError(
            f"model {model.name!r} was not made by keras_unet.build_unet: "
            'it has no layers "down1_conv1" and "logits"'
        )
    last = names.get("probabilities")
    if (last or names["logits"]).output is not model.output:
        raise ConfigError(
            f"model {model.name!r} goes on after the layer {(last or names['logits']).name!r} that "
            "build_unet ends in; for probabilities use build_unet(output_activation=…)"
        )
    resize, norm = names.get("up1_upconv_resize"), names.get("down1_conv1_norm")
    return Structure(
        depth=sum(f"down{i}_pool" in names for i in range(1, len(names))),
        padding=names["down1_conv1"].padding,
        channels=model.input_shape[-1],
        num_classes=model.output_shape[-1],
        output=None if last is None else keras.activations.serialize(last.activation),
        upsampling="transpose" if resize is None else resize.interpolation,
        filters=names["down1_conv1"].filters,
        normalization=next((n for n, k in _NORMALIZATIONS.items() if isinstance(norm, k)), None),
    )


def whole_image_statistics(network: keras.Model) -> bool:
    """Whether each pixel depends on all of an input, so that tiles give other values than it."""
    return any(isinstance(one, keras.layers.GroupNormalization) for one in network.layers)


def _check(
    input_shape: Any,
    num_classes: int,
    filters: int,
    padding: str,
    upsampling: str,
    normalization: str | None,
    dropout: float,
) -> None:
    if len(tuple(input_shape)) != 3 or not input_shape[2]:
        raise ConfigError(f"input_shape must be (height, width, channels), got {input_shape!r}")
    for label, number in (("num_classes", num_classes), ("filters", filters)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ConfigError(f"{label} must be an integer >= 1, got {number!r}")
    choices: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
        ("padding", padding, get_args(geometry.Padding)),
        ("upsampling", upsampling, get_args(geometry.Upsampling)),
        ("normalization", normalization, (None, *get_args(geometry.Normalization))),
    )
    for label, value, allowed in choices:
        if value not in allowed:
            raise ConfigError(f"{label} must be one of {allowed}, got {value!r}")
    if not 0.0 <= dropout < 1.0:
        raise ConfigError(f"dropout must be in [0, 1), got {dropout!r}")


_SAME = 5e-3  # a softmax may be computed in bfloat16; what else a layer does differs by more


def unet_in(model: keras.Model) -> keras.Model:
    """The model itself where it is a U-Net of this package, else the one that it contains.

    Raises:
        ConfigError: it contains none, or several; or it answers otherwise than that network (or its
            softmax or sigmoid) does, so that it cannot be left out.
    """
    try:
        structure(model)
        return model
    except ConfigError as error:
        found = _inside(model)
        if len(found) != 1:
            raise (
                error
                if not found
                else ConfigError(
                    f"model {model.name!r} contains {len(found)} U-Nets; give one of them"
                )
            ) from error
    inner = found[0]
    if not _same_answers(model, inner):
        raise ConfigError(
            f"model {model.name!r} does more than the U-Net {inner.name!r} in it: give that "
            f"network, and state what is done before it (normalization=…)"
        )
    return inner


def _inside(model: keras.Model) -> list[keras.Model]:
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            try:
                structure(layer)
                found.append(layer)
            except ConfigError:
                found += _inside(layer)
    names = {layer.name: layer for layer in model.layers}
    if not found and {"down1_conv1", "logits"} <= set(names):  # layers after its last
        found.append(keras.Model(model.input, names["logits"].output, name=model.name))
    return found


def _same_answers(model: keras.Model, inner: keras.Model) -> bool:
    """Whether the two give the same, or probabilities of the same logits, for a small image."""
    form = structure(inner)
    usual = geometry.input_size(2**form.depth, form.depth, form.padding)
    size = [known or usual for known in inner.input_shape[1:3]]
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(1, *size, form.channels)).astype(np.float32)
    answer = model(x, training=False)
    if not keras.ops.is_tensor(answer):
        return False
    expected: Any = inner(x, training=False)
    activated = keras.ops.sigmoid if form.num_classes == 1 else keras.ops.softmax
    either = [expected] + [activated(expected)] * (form.output is None)
    answer = keras.ops.convert_to_numpy(keras.ops.cast(answer, "float32"))
    return any(
        answer.shape == one.shape and np.abs(answer - one).max() <= _SAME
        for one in map(keras.ops.convert_to_numpy, either)
    )


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
        x = blocks.logits(features, found.num_classes, name=f"head{level}_logits")
        x = layers.UpSampling2D(
            2 ** (level - 1),
            data_format=blocks.CHANNELS,
            dtype="float32",
            name=f"head{level}_resize",
        )(x)
        answers.append(_cut_to_output(x, network.output, level, found.padding))
    return keras.Model(network.input, answers, name=network.name)


def head_weights(count: int) -> list[float]:
    """The weight of each answer in the loss: 1, 1/2, 1/4 … (nnU-Net's, before its division)."""
    return [0.5**i for i in range(count)]


def _cut_to_output(x: Any, like: Any, level: int, padding: str) -> Any:
    """Cuts a level's answer to the network's: each unpadded convolution above it takes a border.

    In pixels of level 1, a 3x3 convolution at level l takes 2^(l-1) on each side.
    """
    name = f"head{level}_crop"
    if padding == "valid":
        crop = sum(
            step.kernel // 2 * 2 ** (step.level - 1)
            for step in geometry.walk(level - 1)
            if step.kind == "convolution" and step.name.startswith("up")
        )
        return SlicedCropping2D(crop, data_format=blocks.CHANNELS, dtype="float32", name=name)(x)
    return CropLike(dtype="float32", name=name)([x, like])
