"""The U-Net's building blocks: each takes and returns a Keras tensor [B, H, W, C].

Only Keras is used, so that the blocks build on its TensorFlow, JAX and torch backends.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import keras
from keras import initializers, layers

from keras_unet.models.normalization import BatchNormalization

Normalization = Literal["batch", "group", "layer"] | None
Upsampling = Literal["transpose", "bilinear", "nearest"]

# Of every layer that has a choice: Keras's default is what keras.json or another package last said.
CHANNELS = "channels_last"

# Keras's 0.99 lags hundreds of steps behind, which is much of a short run; one tile already
# averages over 10^5 pixels, so there is little noise to smooth.
BATCH_MOMENTUM = 0.9


def he_normal(fan_in: int) -> keras.Initializer:
    """Gaussian weights of standard deviation sqrt(2 / N), N the incoming nodes of one neuron.

    Ronneberger et al. 2015, section 3, after He et al. 2015. Keras's own `he_normal` is cut at
    two standard deviations and takes the outputs of an up-convolution for its inputs.
    """
    return initializers.RandomNormal(stddev=math.sqrt(2.0 / fan_in))


def convolution(
    x: Any,
    filters: int,
    *,
    name: str,
    kernel: int = 3,
    padding: str = "valid",
    normalization: Normalization = None,
    activation: str = "relu",
    dtype: Any = None,
) -> Any:
    """Convolution, normalization if asked for, activation; layers `name`, `name`_norm, _act."""
    x = layers.Conv2D(
        filters,
        kernel,
        padding=padding,
        data_format=CHANNELS,
        use_bias=normalization is None,  # a normalization brings its own offset
        activation=activation if normalization is None else None,
        kernel_initializer=he_normal(kernel * kernel * x.shape[-1]),
        dtype=dtype,
        name=name,
    )(x)
    if normalization is None:
        return x
    if normalization == "batch":
        norm = BatchNormalization(momentum=BATCH_MOMENTUM, dtype=dtype, name=f"{name}_norm")
    elif normalization == "group":
        norm = layers.GroupNormalization(math.gcd(32, filters), dtype=dtype, name=f"{name}_norm")
    else:  # over the channels of each pixel: the same for a tile as for a whole image
        norm = layers.LayerNormalization(axis=-1, dtype=dtype, name=f"{name}_norm")
    return layers.Activation(activation, dtype=dtype, name=f"{name}_act")(norm(x))


def up_convolution(
    x: Any, filters: int, *, name: str, upsampling: Upsampling = "transpose", dtype: Any = None
) -> Any:
    """Doubles height and width by the paper's 2x2 up-convolution, or upsampling + 2x2 conv."""
    channels = x.shape[-1]
    if upsampling == "transpose":
        return layers.Conv2DTranspose(
            filters,
            2,
            strides=2,
            data_format=CHANNELS,
            kernel_initializer=he_normal(channels),  # each output pixel is reached by one tap
            dtype=dtype,
            name=name,
        )(x)
    resize: dict[str, Any] = {"dtype": dtype, "name": f"{name}_resize"}
    if upsampling == "bilinear":
        x = BilinearUpSampling2D(**resize)(x)
    else:
        x = layers.UpSampling2D(data_format=CHANNELS, **resize)(x)
    return layers.Conv2D(
        filters,
        2,
        padding="same",
        data_format=CHANNELS,
        kernel_initializer=he_normal(4 * channels),
        dtype=dtype,
        name=name,
    )(x)


@keras.saving.register_keras_serializable(package="keras_unet")
class BilinearUpSampling2D(layers.Layer):
    """Doubles [B, H, W, C] to [B, 2H, 2W, C], as `UpSampling2D(2, interpolation="bilinear")` does.

    Keras's own (3.15) cannot be traced where height and width are open.
    """

    interpolation = "bilinear"

    def call(self, x: Any) -> Any:
        ops = keras.ops
        for axis in (1, 2):
            size = ops.shape(x)[axis]
            place = ops.arange(size, dtype="int32")  # else int16 where floatx is float16
            before = ops.take(x, ops.clip(place - 1, 0, size - 1), axis=axis)
            after = ops.take(x, ops.clip(place + 1, 0, size - 1), axis=axis)
            both = ops.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], axis=axis + 1)
            shape = list(ops.shape(x))
            shape[axis] = 2 * size
            x = ops.reshape(both, shape)
        return x

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        batch, height, width, channels = input_shape
        return (batch, height and 2 * height, width and 2 * width, channels)
