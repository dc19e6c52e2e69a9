"""Building blocks of the U-Net: each takes and returns a Keras tensor [B, H, W, C].

Only Keras is used, so that the blocks build on its TensorFlow, JAX and torch backends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import initializers, layers

from keras_unet import geometry

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
    normalization: geometry.Normalization | None = None,
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
    norm = NORMALIZATIONS[normalization](filters, dtype=dtype, name=f"{name}_norm")
    return layers.Activation(activation, dtype=dtype, name=f"{name}_act")(norm(x))


def up_convolution(
    x: Any,
    filters: int,
    *,
    name: str,
    upsampling: geometry.Upsampling = "transpose",
    dtype: Any = None,
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


def join(skip: Any, x: Any, *, name: str, crop: int, padding: str, dtype: Any = None) -> Any:
    """The skip connection, cut by `crop` on each side, and what comes from below, side by side."""
    if padding == "valid":
        skip = SlicedCropping2D(crop, data_format=CHANNELS, dtype=dtype, name=f"{name}_crop")(skip)
    elif any(size is None or size % 2 for size in skip.shape[1:3]):
        x = CropLike(dtype=dtype, name=f"{name}_crop")([x, skip])
    return layers.Concatenate(dtype=dtype, name=f"{name}_concat")([skip, x])


def logits(x: Any, classes: int, *, name: str) -> Any:
    """1x1 convolution to the classes, in full precision under a mixed policy too."""
    return layers.Conv2D(
        classes,
        1,
        data_format=CHANNELS,
        kernel_initializer=he_normal(x.shape[-1]),
        dtype="float32",
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


@keras.saving.register_keras_serializable(package="keras_unet", name="BatchNormalization")
class FusedBatchNormalization(layers.BatchNormalization):
    """Keras's layer, same weights and numbers; in training by TensorFlow's FusedBatchNormV3.

    Keras 3 spells it out as a dozen operations, each a pass over the tensor in float32, which on a
    CPU makes a training step a quarter longer (benchmarks/train_step_options.py). Another backend,
    another axis than the channels of [B, H, W, C], float64, weights that aren't float32, a mask,
    renormalization or moments over several devices: as Keras has it.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        fits = len(inputs.shape) == 4 and self.axis in (-1, 3)
        fits = fits and inputs.dtype != "float64" and self.variable_dtype == "float32"
        renorm = getattr(self, "renorm", False)  # Keras 3.12 has none
        plain = self.center and self.scale and not (self.synchronized or renorm)
        updated = training and self.trainable and mask is None
        if not (fits and plain and updated and keras.backend.backend() == "tensorflow"):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        count = tf.cast(tf.size(inputs) / tf.shape(inputs)[-1], variance.dtype)
        variance *= (count - 1) / count  # the operation divides by one less; Keras does not
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + now * (1.0 - self.momentum))
        return outputs


# Keras's files name a layer's weights after its class: what was saved before is found by this name.
FusedBatchNormalization.__name__ = "BatchNormalization"


# Between convolution and activation, by the names of `geometry.Normalization`.
NORMALIZATIONS: dict[str, Callable[..., layers.Layer]] = {
    "batch": lambda channels, **given: FusedBatchNormalization(momentum=BATCH_MOMENTUM, **given),
    "group": lambda channels, **given: layers.GroupNormalization(math.gcd(32, channels), **given),
    # over the channels of each pixel: the same for a tile as for a whole image
    "layer": lambda channels, **given: layers.LayerNormalization(axis=-1, **given),
}


def cut(x: Any, top: int, left: int, height: Any, width: Any) -> Any:
    """The part of [B, H, W, C] that begins at (top, left) and has the given height and width.

    The gradient of TensorFlow's `x[:, a:b, c:d]` (StridedSliceGrad) runs on one core of a CPU and
    takes several times as long as that of `tf.slice`, a padding (docs/training.md).
    """
    if keras.backend.backend() != "tensorflow":
        return x[:, top : top + height, left : left + width, :]
    import tensorflow as tf

    part = tf.slice(x, [0, top, left, 0], tf.stack([-1, height, width, -1]))
    known = [size if isinstance(size, int) else None for size in (height, width)]
    part.set_shape([x.shape[0], *known, x.shape[3]])  # else what is not known hides what is
    return part


@keras.saving.register_keras_serializable(package="keras_unet", name="Cropping2D")
class SlicedCropping2D(layers.Cropping2D):
    """Keras's layer with a fast gradient, for channels last."""

    def call(self, inputs: Any) -> Any:
        if self.data_format != "channels_last":
            return super().call(inputs)
        (top, bottom), (left, right) = self.cropping
        sizes = keras.ops.shape(inputs)[1:3]
        height, width = sizes[0] - top - bottom, sizes[1] - left - right
        if any(isinstance(size, int) and size <= 0 for size in (height, width)):
            return super().call(inputs)  # says so
        # of unknown sizes nothing may be left, as in Keras; -1 would be all the rest
        return cut(inputs, top, left, _at_least_0(height), _at_least_0(width))


def _at_least_0(size: Any) -> Any:
    return size if isinstance(size, int) else keras.ops.maximum(size, 0)


@keras.saving.register_keras_serializable(package="keras_unet")
class CropLike(layers.Layer):
    """Cuts the first tensor [B, H, W, C] at the bottom and right to the second's height, width.

    A pooling of an odd size rounds up, so the up-convolution gives one row or column too many.
    Keras has no layer that cuts by a size known only at run time.
    """

    def call(self, inputs: list[Any]) -> Any:
        x, like = inputs
        return cut(x, 0, 0, *keras.ops.shape(like)[1:3])

    def compute_output_shape(self, input_shape: list[Any]) -> tuple[Any, ...]:
        x, like = input_shape
        return (x[0], like[1], like[2], x[3])


@keras.saving.register_keras_serializable(package="keras_unet")
class LegalSize(layers.Layer):
    """Hands [B, H, W, C] on as it is where its height and width pass every pooling evenly.

    Raises:
        ConfigError: they don't, and are known; names the nearest sizes that do. Sizes that only the
            graph knows raise TensorFlow's InvalidArgumentError with the same words.
    """

    def __init__(self, depth: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.depth = depth

    def call(self, inputs: Any) -> Any:
        open_sizes = self._check(keras.ops.shape(inputs)[1:3])
        if open_sizes and keras.backend.backend() == "tensorflow":
            return _checked_in_graph(inputs, self.depth)
        return inputs

    def compute_output_spec(self, inputs: Any) -> Any:
        self._check(inputs.shape[1:3])  # JAX's default makes up sizes where they are open
        return keras.KerasTensor(inputs.shape, self.compute_dtype)

    def _check(self, sizes: Any) -> bool:
        """Looks at the sizes that are known; returns whether there are others."""
        known = [size for size in sizes if isinstance(size, int)]
        for size in known:
            geometry.output_size(size, self.depth)
        return len(known) < 2

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "depth": self.depth}


def _checked_in_graph(inputs: Any, depth: int) -> Any:
    import tensorflow as tf

    sizes = tf.shape(inputs)[1:3]
    smallest, stride = geometry.input_size(1, depth), geometry.stride(depth)
    below = tf.maximum(sizes - (sizes - smallest) % stride, smallest)
    message = tf.strings.format(
        f"input size {{}} does not fit a U-Net of depth {depth} with valid padding: nearest legal "
        f"sizes are {{}} and {{}}; {geometry.ANY_SIZE}",
        [sizes, below, below + stride],
    )
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(below == sizes), [message])]):
        return tf.identity(inputs)
