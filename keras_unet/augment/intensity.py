"""Intensity: drawn grey values applied to resampled images; labels never come here."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_unet.augment.draws import NOISE_STREAM, Intensity, sample_bits
from keras_unet.augment.options import INTENSITY
from keras_unet.augment.resample import cubic_weights
from keras_unet.augment.settings import AugmentSettings

if TYPE_CHECKING:
    from keras_unet.augment.image_bank import ImageBank

Tensor = Any


class Statistics(NamedTuple):
    """Of each sample's source image, in the units of the values: float32 [batch, channels]."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor


def batch_statistics(image: Tensor) -> Statistics:
    """Statistics of each image and channel of a batch, in the units of its values.

    Args:
        image: [batch, height, width, channels] of any real dtype.
    """
    image = tf.cast(image, tf.float32)
    # Row by row first: sums over an axis that is not the last run in vector registers.
    mean = tf.reduce_mean(tf.reduce_mean(image, axis=1), axis=1)
    square = tf.reduce_mean(tf.reduce_mean(tf.square(image - mean[:, None, None]), axis=1), axis=1)
    low = tf.reduce_min(tf.reduce_min(image, axis=1), axis=1)
    high = tf.reduce_max(tf.reduce_max(image, axis=1), axis=1)
    return Statistics(mean, tf.sqrt(square), low, high)


def bank_statistics(bank: ImageBank, index: Tensor) -> Statistics:
    """Statistics of the images `index` of a bank, in normalised units."""
    mean, std, low, high = (tf.gather(values, index) for values in bank.statistics)
    shift, scale = tf.gather(bank.shift, index), tf.gather(bank.scale, index)
    # A negative scale would swap the ends of the range.
    ends = (low - shift) * scale, (high - shift) * scale
    return Statistics(
        (mean - shift) * scale, std * tf.abs(scale), tf.minimum(*ends), tf.maximum(*ends)
    )


def _wide(value: Tensor) -> Tensor:
    return value[:, None, None, :]


def _where_drawn(
    chosen: Tensor, change: Callable[..., Tensor], image: Tensor, *parameters: Tensor
) -> Tensor:
    """`change(image, *parameters)` where chosen [batch, 1 or channels], sample by sample.

    What is rarely drawn and costs much is not computed for the samples that do not get it.
    """

    def one(args: tuple[Tensor, ...]) -> Tensor:
        image, chosen, *rest = args

        def changed() -> Tensor:
            new = change(image[None], *(value[None] for value in rest))[0]
            return tf.where(chosen, tf.ensure_shape(new, image.shape), image)

        return tf.cond(tf.reduce_any(chosen), changed, lambda: image)

    new = tf.map_fn(one, (image, chosen, *parameters), fn_output_signature=tf.float32)
    return tf.ensure_shape(new, image.shape)


_LEVELS = 4096


def _quantiles() -> np.ndarray:
    from scipy.special import ndtri

    values = ndtri((np.arange(_LEVELS) + 0.5) / _LEVELS)
    return (values / values.std()).astype(np.float32)


def gaussian_noise(seeds: Tensor, shape: tuple[Any, Any, int]) -> Tensor:
    """Standard normal noise, float32 [batch, *shape], from each sample's seed.

    Each value is one of 4096 quantiles of the normal distribution: 12 random bits and a table,
    five times cheaper than transforming 32 bits with logarithms, and no one sees the difference
    below 3.7 standard deviations (what lies beyond has a probability of 2e-4).
    """
    height, width, channels = shape
    pixels = height * width * channels
    quarter = (pixels + 3) // 4
    first, second = sample_bits(seeds, NOISE_STREAM, quarter)
    codes = []
    for word in (first, second):
        word = tf.bitcast(word, tf.int32)
        for shift in (0, 12):
            part = tf.bitwise.right_shift(word, tf.constant(shift, tf.int32))
            codes.append(tf.bitwise.bitwise_and(part, tf.constant(_LEVELS - 1, tf.int32)))
    code = tf.concat(codes, axis=1)[:, :pixels]
    noise = tf.gather(tf.constant(_quantiles()), code)
    return tf.reshape(noise, [-1, height, width, channels])


def _mirror_index(index: Tensor, size: Tensor | int) -> Tensor:
    period = tf.maximum(2 * (size - 1), 1)
    wave = tf.math.floormod(index, period)
    return tf.minimum(wave, period - wave)


def blur(image: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur, mirrored at the border.

    Args:
        image: float32 [batch, height, width, channels].
        sigma: float32 [batch, 1 or channels], above 0, in pixels.
        radius: the kernel has 2 radius + 1 taps.
    """
    steps = np.arange(-radius, radius + 1)
    weights = [tf.exp(-0.5 * tf.square(float(step) / sigma)) for step in steps]
    total = tf.add_n(weights)
    for axis in (1, 2):
        size = tf.shape(image)[axis]
        index = _mirror_index(tf.range(-radius, size + radius), size)
        padded = tf.gather(image, index, axis=axis)
        parts = []
        for step, weight in zip(steps + radius, weights, strict=True):
            begin = [0, int(step), 0, 0] if axis == 1 else [0, 0, int(step), 0]
            parts.append(tf.slice(padded, begin, tf.shape(image)) * _wide(weight / total))
        image = tf.add_n(parts)
    return image


def low_resolution(image: Tensor, zoom: Tensor) -> Tensor:
    """Take every 1/zoom-th pixel (nearest) and interpolate back (cubic convolution).

    Args:
        image: float32 [batch, height, width, channels].
        zoom: float32 [batch, 1 or channels], in (0, 1].
    """
    channels = image.shape[-1]
    zoom = tf.broadcast_to(zoom, [tf.shape(image)[0], channels])
    for axis in (1, 2):
        image = (
            tf.transpose(image, [0, 3, 1, 2]) if axis == 1 else tf.transpose(image, [0, 1, 3, 2])
        )
        size = tf.shape(image)[2]
        coarse = tf.maximum(tf.round(zoom * tf.cast(size, tf.float32)), 1.0)[:, :, None]
        ratio = coarse / tf.cast(size, tf.float32)
        place = (tf.range(size, dtype=tf.float32)[None, None] + 0.5) * ratio - 0.5
        cell = tf.floor(place)
        t = place - cell
        parts = []
        for step, weight in zip((-1.0, 0.0, 1.0, 2.0), cubic_weights(t), strict=True):
            sample = tf.clip_by_value(cell + step, 0.0, coarse - 1.0)
            row = tf.minimum(tf.cast((sample + 0.5) / ratio, tf.int32), size - 1)
            parts.append(tf.gather(image, row, axis=2, batch_dims=2) * weight[..., None])
        image = tf.add_n(parts)
    return tf.transpose(image, [0, 3, 2, 1])


# What an option does: (images [batch, height, width, channels], drawn [batch, 1 or channels], their
# statistics, seeds [batch, 2], settings) -> changed images and statistics.
Change = Callable[[Tensor, Tensor, Statistics, Tensor, AugmentSettings], tuple[Tensor, Statistics]]


def _noise(
    image: Tensor, drawn: Tensor, of: Statistics, seeds: Tensor, _: AugmentSettings
) -> tuple[Tensor, Statistics]:
    shape = tuple(tf.unstack(tf.shape(image))[1:])

    def noisy(image: Tensor, seeds: Tensor, strength: Tensor) -> Tensor:
        return image + gaussian_noise(seeds, shape) * _wide(strength)

    return _where_drawn(drawn > 0, noisy, image, seeds, drawn * of.std), of


def _blur(
    image: Tensor, drawn: Tensor, of: Statistics, _: Tensor, settings: AugmentSettings
) -> tuple[Tensor, Statistics]:
    limits = settings.limits("blur")
    radius = math.ceil(4.0 * limits[1]) if limits else 0
    change = partial(blur, radius=radius)
    return _where_drawn(drawn > 0, change, image, tf.maximum(drawn, 0.1)), of


def _multiply(image: Tensor, drawn: Tensor, of: Statistics, *_: Any) -> tuple[Tensor, Statistics]:
    return image * _wide(drawn), Statistics(*(value * drawn for value in of))


def _brightness(image: Tensor, drawn: Tensor, of: Statistics, *_: Any) -> tuple[Tensor, Statistics]:
    more = drawn * of.std
    return image + _wide(more), Statistics(of.mean + more, of.std, of.low + more, of.high + more)


def _contrast(image: Tensor, drawn: Tensor, of: Statistics, *_: Any) -> tuple[Tensor, Statistics]:
    bent = (image - _wide(of.mean)) * _wide(drawn) + _wide(of.mean)
    bent = tf.clip_by_value(bent, _wide(of.low), _wide(of.high))
    return tf.where(_wide(drawn == 1.0), image, bent), of


def _low_resolution(
    image: Tensor, drawn: Tensor, of: Statistics, *_: Any
) -> tuple[Tensor, Statistics]:
    return _where_drawn(drawn < 1, low_resolution, image, drawn), of


def _gamma(
    image: Tensor, drawn: Tensor, of: Statistics, *_: Any, inverted: bool = False
) -> tuple[Tensor, Statistics]:
    exponent, low, high = _wide(drawn), _wide(of.low), _wide(of.high)
    span = tf.maximum(high - low, 1e-7)
    part = (high - image if inverted else image - low) / span
    part = tf.exp(exponent * tf.math.log(tf.maximum(part, 1e-7))) * span
    curved = high - part if inverted else part + low
    return tf.where(exponent != 1.0, curved, image), of


# By the names of the table `keras_unet.augment.options.INTENSITY`.
CHANGES: dict[str, Change] = {
    "noise": _noise,
    "blur": _blur,
    "multiply": _multiply,
    "brightness": _brightness,
    "contrast": _contrast,
    "low_resolution": _low_resolution,
    "gamma_inverted": partial(_gamma, inverted=True),
    "gamma": _gamma,
}


def apply_intensity(
    image: Tensor,
    drawn: Intensity,
    of: Statistics,
    seeds: Tensor,
    settings: AugmentSettings | None = None,
) -> Tensor:
    """Everything that was drawn, in the order of the table.

    A sample whose draws are all neutral comes back bit for bit.

    Args:
        image: float32 [batch, height, width, channels].
        drawn: see `keras_unet.augment.draws.draw`.
        of: statistics of the source images in the same units.
        seeds: int32 [batch, 2], for the noise of each pixel.
        settings: of which it was drawn: a blur's greatest sigma is the reach of its kernel.

    Returns:
        float32, the image's shape.
    """
    for name in INTENSITY:
        value = getattr(drawn, name)
        if value is not None:
            image, of = CHANGES[name](image, value, of, seeds, settings or AugmentSettings())
    return image
