"""Blocks of the diffusion networks: Keras layers over [B, H, W, C].

Residual blocks, resampling, group normalization and the embedding of a time step, as in Ho et al.
2020 (2006.11239), Dhariwal and Nichol 2021 (2105.05233, scale-shift) and Rombach et al. 2022
(2112.10752). Sublayers bear the names that diffusers' files give their weights.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import keras
import numpy as np
from keras import layers, ops

register = keras.saving.register_keras_serializable(package="keras_unet")


def float_dtype(policy: Any) -> str:
    """float64 under a float64 policy, else float32: for times, statistics and outputs."""
    return "float64" if policy.compute_dtype == "float64" else "float32"


def gelu(x: Any) -> Any:
    """x · Φ(x), Φ the Gaussian's distribution (Keras's has a float32 constant on TensorFlow)."""
    return 0.5 * x * (1.0 + ops.erf(x * math.sqrt(0.5)))


def convolution(
    filters: int, kernel: int = 3, *, name: str, padding: str = "same", strides: int = 1, dtype: Any
) -> layers.Conv2D:
    """A convolution over [B, H, W, C], whatever `keras.json` says of the order of axes."""
    return layers.Conv2D(
        filters,
        kernel,
        strides=strides,
        padding=padding,
        data_format="channels_last",
        dtype=dtype,
        name=name,
    )


class Block(layers.Layer):
    """A layer whose configuration is its arguments, each kept as an attribute of its name."""

    def get_config(self) -> dict[str, Any]:
        own = {}
        kinds = type(self).__mro__
        for kind in kinds[: kinds.index(Block)]:
            _, *parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
            own.update(
                {p.name: getattr(self, p.name) for p in parameters if p.kind != p.VAR_KEYWORD}
            )
        return {**super().get_config(), **own}


@register
class GroupNorm(Block):
    """Group normalization (Wu and He 2018) over [..., C]: groups of neighbouring channels.

        y = (x − mean) / sqrt(variance + epsilon) · gamma + beta

    The statistics are float32 (float64 under a float64 policy). They are taken channel by channel
    and then joined, so that no copy of x in groups is made, and applied as one multiplication and
    one addition.

    Args:
        groups: how many; divides C.
        epsilon: no default: 1e-5 and 1e-6 both occur, and Keras's 1e-3 fits no published weights.
    """

    def __init__(self, groups: int, epsilon: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.groups = groups
        self.epsilon = epsilon

    def build(self, x_shape: Any) -> None:
        channels = x_shape[-1]
        self.gamma = self.add_weight(shape=(channels,), initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=(channels,), initializer="zeros", name="beta")

    def call(self, x: Any, scale: Any = None, shift: Any = None) -> Any:
        """`scale` and `shift`, [B, C]: y · (1 + scale) + shift (2105.05233, section 3)."""
        channels = x.shape[-1]
        per_group = (-1, self.groups, channels // self.groups)
        dtype = float_dtype(self.dtype_policy)
        values = ops.cast(x, dtype)
        means, variances = ops.moments(values, axes=list(range(1, len(x.shape) - 1)))  # [B, C]
        means = ops.reshape(means, per_group)
        mean = ops.mean(means, axis=-1, keepdims=True)
        variance = ops.mean(
            ops.reshape(variances, per_group) + ops.square(means - mean), axis=-1, keepdims=True
        )
        gamma = ops.reshape(ops.cast(self.gamma, dtype), per_group)
        factor = ops.rsqrt(variance + self.epsilon) * gamma
        offset = ops.reshape(ops.cast(self.beta, dtype), per_group) - mean * factor
        factor = ops.reshape(factor, (-1, channels))
        offset = ops.reshape(offset, (-1, channels))
        if scale is not None:
            scale = 1.0 + ops.cast(scale, dtype)
            factor = factor * scale
            offset = offset * scale + ops.cast(shift, dtype)
        spread = (-1, *(1,) * (len(x.shape) - 2), channels)
        y = values * ops.reshape(factor, spread) + ops.reshape(offset, spread)
        return ops.cast(y, self.compute_dtype)

    def compute_output_shape(self, x_shape: Any, *_: Any) -> Any:
        return x_shape


@register
class Sinusoid(Block):
    """Numbers as waves of geometric frequencies: [...] to [..., size] (Vaswani et al. 2017).

        frequency_i = 10000 ** (−i / (size/2 − freq_shift)),   i = 0 … size/2 − 1

    Computed in float32, in float64 under a float64 policy, and never in bfloat16, which has no 981.

    Args:
        size: of the embedding; an odd one ends with a zero.
        flip_sin_to_cos: cosines first.
        freq_shift: what the exponent's divisor is smaller by; 1 in DDPM, 0 in Stable Diffusion.
    """

    def __init__(self, size: int, flip_sin_to_cos: bool = True, freq_shift: float = 0, **kw: Any):
        super().__init__(autocast=False, **kw)
        self.size = size
        self.flip_sin_to_cos = flip_sin_to_cos
        self.freq_shift = freq_shift

    def call(self, x: Any) -> Any:
        dtype = float_dtype(self.dtype_policy)
        half = self.size // 2
        exponents = -math.log(10000.0) * np.arange(half) / (half - self.freq_shift)
        angles = ops.expand_dims(ops.cast(x, dtype), -1) * ops.cast(np.exp(exponents), dtype)
        waves = [ops.sin(angles), ops.cos(angles)]
        if self.flip_sin_to_cos:
            waves.reverse()
        if self.size % 2:
            waves.append(ops.zeros_like(angles[..., :1]))
        return ops.concatenate(waves, axis=-1)

    def compute_output_shape(self, x_shape: Any) -> tuple[Any, ...]:
        return (*x_shape, self.size)

    def compute_output_spec(self, x: Any) -> Any:
        shape = self.compute_output_shape(x.shape)
        return keras.KerasTensor(shape, dtype=float_dtype(self.dtype_policy))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("autocast", None)
        return config


@register
class EmbeddingMLP(Block):
    """Two dense layers with an activation between them: [B, F] to [B, units]."""

    def __init__(self, units: int, activation: str = "silu", **kwargs: Any):
        super().__init__(**kwargs)
        self.units = units
        self.activation = activation
        dtype = self.dtype_policy
        self.linear_1 = layers.Dense(units, activation=activation, dtype=dtype, name="linear_1")
        self.linear_2 = layers.Dense(units, dtype=dtype, name="linear_2")

    def build(self, x_shape: Any) -> None:
        self.linear_1.build(x_shape)
        self.linear_2.build((*x_shape[:-1], self.units))

    def call(self, x: Any) -> Any:
        return self.linear_2(self.linear_1(x))

    def compute_output_shape(self, x_shape: Any) -> tuple[Any, ...]:
        return (*x_shape[:-1], self.units)


def double(x: Any) -> Any:
    """Nearest-neighbour upsampling to [B, 2H, 2W, C]; by concatenation, which is a plain copy."""
    _, height, width, channels = ops.shape(x)
    x = ops.reshape(ops.concatenate([x, x], axis=-1), (-1, height, 2 * width * channels))
    return ops.reshape(ops.concatenate([x, x], axis=-1), (-1, 2 * height, 2 * width, channels))


def nearest(x: Any, height: Any, width: Any) -> Any:
    """Nearest-neighbour upsampling to a given size: pixel i is pixel floor(i · in / out) of x."""
    sizes = ops.shape(x)[1:3]
    static = all(isinstance(n, int) for n in (*sizes, height, width))
    if static and height - 2 * sizes[0] in (-1, 0) and width - 2 * sizes[1] in (-1, 0):
        return double(x)[:, :height, :width]  # the same pixels, without a gather
    for axis, old, new in ((1, sizes[0], height), (2, sizes[1], width)):
        x = ops.take(x, ops.arange(new, dtype="int32") * old // new, axis=axis)
    return x


def halve(x: Any) -> Any:
    """Means of 2x2 pixels, [B, H//2, W//2, C]."""
    return ops.average_pool(x, 2, strides=2, padding="valid", data_format="channels_last")


@register
class Downsample(Block):
    """A 3x3 convolution of stride 2.

    Args:
        filters: channels of the output.
        padding: 1 pads each side by a pixel, as PyTorch does (Keras's "same" pads another way);
            0 pads the bottom and the right only, as DDPM and the autoencoder do.
    """

    def __init__(self, filters: int, padding: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.filters = filters
        self.padding = padding
        self.conv = convolution(
            filters, strides=2, padding="valid", dtype=self.dtype_policy, name="conv"
        )

    def build(self, x_shape: Any) -> None:
        self.conv.build((None, None, None, x_shape[-1]))  # the padded size

    def call(self, x: Any) -> Any:
        before = self.padding
        return self.conv(ops.pad(x, ((0, 0), (before, 1), (before, 1), (0, 0))))

    def compute_output_shape(self, x_shape: Any) -> tuple[Any, ...]:
        batch, *sizes, _ = x_shape
        height, width = (n and (n + self.padding - 2) // 2 + 1 for n in sizes)
        return (batch, height, width, self.filters)


@register
class Upsample(Block):
    """Nearest-neighbour upsampling and a 3x3 convolution.

    Doubles [B, H, W, C]; with a second input, upsamples to its height and width (2H or 2H − 1: the
    skip connection of a size that does not divide by two).
    """

    def __init__(self, filters: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.filters = filters
        self.conv = convolution(filters, dtype=self.dtype_policy, name="conv")

    def build(self, x_shape: Any, like_shape: Any = None) -> None:
        self.conv.build(x_shape)

    def call(self, x: Any, like: Any = None) -> Any:
        x = double(x) if like is None else nearest(x, *ops.shape(like)[1:3])
        return self.conv(x)

    def compute_output_shape(self, x_shape: Any, like_shape: Any = None) -> tuple[Any, ...]:
        batch, *sizes, _ = x_shape
        sizes = [n and 2 * n for n in sizes] if like_shape is None else like_shape[1:3]
        return (batch, *sizes, self.filters)


@register
class ResidualBlock(Block):
    """Norm, activation, convolution, twice, beside a shortcut; the time comes in between.

        h = conv1(act(norm1(x)));   h += time_emb_proj(emb)
        y = (shortcut(x) + conv2(dropout(act(norm2(h))))) / output_scale

    `emb` has been through the activation (all blocks share it). With `scale_shift` its projection
    is twice as wide, and norm2 takes it as scale and shift instead of the sum. With `resample`,
    both ways are doubled ("up", nearest) or halved ("down", means) before the first convolution.

    Args:
        filters: channels of the output; if the input has others, the shortcut is a 1x1 convolution.
        groups, epsilon: of both norms.
        dropout: rate in training.
        output_scale: what the sum is divided by.
    """

    def __init__(
        self,
        filters: int,
        groups: int,
        epsilon: float,
        *,
        scale_shift: bool = False,
        resample: str | None = None,
        activation: str = "silu",
        dropout: float = 0.0,
        output_scale: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.groups = groups
        self.epsilon = epsilon
        self.scale_shift = scale_shift
        self.resample = resample
        self.activation = activation
        self.dropout_rate = dropout
        self.output_scale = output_scale
        dtype = self.dtype_policy
        self.act = keras.activations.get(activation)
        self.norm1 = GroupNorm(groups, epsilon, dtype=dtype, name="norm1")
        self.conv1 = convolution(filters, dtype=dtype, name="conv1")
        self.norm2 = GroupNorm(groups, epsilon, dtype=dtype, name="norm2")
        self.dropout = layers.Dropout(dropout, dtype=dtype, name="dropout") if dropout else None
        self.conv2 = convolution(filters, dtype=dtype, name="conv2")
        self.time_emb_proj: layers.Dense | None = None
        self.conv_shortcut: layers.Conv2D | None = None

    def build(self, x_shape: Any, emb_shape: Any = None) -> None:
        inner = (*x_shape[:-1], self.filters)
        self.norm1.build(x_shape)
        self.conv1.build(x_shape)
        if emb_shape is not None:
            self.time_emb_proj = layers.Dense(
                self.filters * (2 if self.scale_shift else 1),
                dtype=self.dtype_policy,
                name="time_emb_proj",
            )
            self.time_emb_proj.build(emb_shape)
        self.norm2.build(inner)
        self.conv2.build(inner)
        if x_shape[-1] != self.filters:
            self.conv_shortcut = convolution(
                self.filters, 1, dtype=self.dtype_policy, name="conv_shortcut"
            )
            self.conv_shortcut.build(x_shape)

    def call(self, x: Any, emb: Any = None, training: bool | None = None) -> Any:
        h = self.act(self.norm1(x))
        if self.resample is not None:
            change = double if self.resample == "up" else halve
            x, h = change(x), change(h)
        h = self.conv1(h)
        scale = shift = None
        if self.time_emb_proj is not None:
            time = self.time_emb_proj(emb)
            if self.scale_shift:
                scale, shift = ops.split(time, 2, axis=-1)
            else:
                h = h + ops.expand_dims(time, (1, 2))
        h = self.act(self.norm2(h, scale, shift))
        if self.dropout is not None:
            h = self.dropout(h, training=training)
        h = self.conv2(h)
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        y = x + h
        return y if self.output_scale == 1 else y / self.output_scale

    def compute_output_shape(self, x_shape: Any, emb_shape: Any = None) -> tuple[Any, ...]:
        batch, *sizes, _ = x_shape
        if self.resample is not None:
            sizes = [n and (2 * n if self.resample == "up" else n // 2) for n in sizes]
        return (batch, *sizes, self.filters)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dropout": self.dropout_rate}
