"""What is drawn at random for each sample, all of it, once; `field` and `intensity` apply it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf

from keras_unet.augment.settings import AugmentSettings
from keras_unet.augment.threefry import normal, sample_bits, uniform

Tensor = Any

# One stream of random numbers for each quantity: switching one option on or changing its range
# leaves the draws of all others as they were.
_STREAMS = ("position", "flip", "rotate", "scale", "shear", "shift", "elastic", "multiply")
_STREAMS += ("brightness", "contrast", "gamma", "gamma_inverted", "noise", "blur", "low_resolution")
_STREAM = {name: number for number, name in enumerate(_STREAMS)}
NOISE_STREAM = 1 << 16


class Geometry(NamedTuple):
    """The drawn geometry of a batch.

    position: float32 [batch, 2], uniform in [0, 1): where the tile lies, (vertical, horizontal).
    matrix: float32 [batch, 2, 2]: from an offset (dy, dx) to the tile's centre in the result to the
        offset in the source.
    turned: float32 [batch]: 1 where the turn is by 90 or 270 degrees and is to be exact, else 0.
    shift: float32 [batch, 2], pixels (dy, dx).
    grid: float32 [batch, 2, rows, columns] displacements (dy, dx) in pixels, or None.
    """

    position: Tensor
    matrix: Tensor
    turned: Tensor
    shift: Tensor
    grid: Tensor | None


def _numbers(seeds: Tensor, name: str, count: int) -> tuple[Tensor, Tensor]:
    """Two independent uniform numbers [batch, count] in [0, 1) for each draw: a coin and a value."""
    first, second = sample_bits(seeds, _STREAM[name], count)
    return uniform(first), uniform(second)


def _between(value: Tensor, low: float, high: float) -> Tensor:
    return low + value * (high - low)


def _factor(value: Tensor, low: float, high: float) -> Tensor:
    """A factor below 1 and one above 1 equally often, where the range holds both."""
    if not low < 1.0 < high:
        return _between(value, low, high)
    below = _between(2.0 * value, low, 1.0)
    return tf.where(value < 0.5, below, _between(2.0 * value - 1.0, 1.0, high))


def draw_geometry(settings: AugmentSettings, seeds: Tensor) -> Geometry:
    """Draw position, affine map and elastic grid for each seed (int32 [batch, 2])."""
    batch = tf.shape(seeds)[0]
    one, zero = tf.ones([batch]), tf.zeros([batch])
    cosine, sine, turned, matrix_scale, slant = one, zero, zero, one, zero

    if settings.rotate == "right_angles" and settings.rotate_p > 0:
        coin, value = _numbers(seeds, "rotate", 1)
        quarter = tf.cast(tf.floor(4.0 * value[:, 0]), tf.int32)
        quarter = tf.where(coin[:, 0] < settings.rotate_p, quarter, 0)
        cosine = tf.cast(tf.equal(quarter, 0), tf.float32) - tf.cast(
            tf.equal(quarter, 2), tf.float32
        )
        sine = tf.cast(tf.equal(quarter, 1), tf.float32) - tf.cast(tf.equal(quarter, 3), tf.float32)
        turned = tf.abs(sine)
    elif isinstance(settings.rotate, tuple) and settings.rotate_p > 0:
        coin, value = _numbers(seeds, "rotate", 1)
        low, high = (math.radians(angle) for angle in settings.rotate)
        angle = tf.where(coin < settings.rotate_p, _between(value, low, high), 0.0)[:, 0]
        cosine, sine = tf.cos(angle), tf.sin(angle)
    if settings.scale is not None and settings.scale_p > 0:
        coin, value = _numbers(seeds, "scale", 1)
        zoom = tf.where(coin < settings.scale_p, _factor(value, *settings.scale), 1.0)[:, 0]
        matrix_scale = 1.0 / zoom
    if settings.shear is not None and settings.shear_p > 0:
        coin, value = _numbers(seeds, "shear", 1)
        low, high = (math.radians(angle) for angle in settings.shear)
        slant = tf.where(coin < settings.shear_p, tf.tan(_between(value, low, high)), 0.0)[:, 0]
    signs = [one, one]
    if max(settings.flip_vertical, settings.flip_horizontal) > 0:
        coins, _ = _numbers(seeds, "flip", 2)
        chances = (settings.flip_vertical, settings.flip_horizontal)
        signs = [tf.where(coins[:, axis] < chances[axis], -1.0, 1.0) for axis in (0, 1)]

    # source offset = scale * rotation * shear * flip * offset in the result. A zero times a finite
    # number is exact, so flips and right angles keep whole-pixel offsets whole.
    rows = ((cosine, cosine * slant + sine), (-sine, cosine - sine * slant))
    matrix = tf.stack(
        [
            tf.stack([row[axis] * matrix_scale * signs[axis] for axis in (0, 1)], axis=1)
            for row in rows
        ],
        axis=1,
    )
    position, _ = _numbers(seeds, "position", 2)
    shift = tf.zeros([batch, 2])
    if settings.shift > 0:
        shift = _between(_numbers(seeds, "shift", 2)[1], -settings.shift, settings.shift)
    return Geometry(position, matrix, turned, shift, _draw_grid(settings, seeds, batch))


def _draw_grid(settings: AugmentSettings, seeds: Tensor, batch: Tensor) -> Tensor | None:
    if settings.elastic_sigma == 0 or settings.elastic_p == 0:
        return None
    rows, columns = settings.elastic_grid
    count = 2 * rows * columns
    bits = sample_bits(seeds, _STREAM["elastic"], count + 1)
    on = uniform(bits[0][:, count:]) < settings.elastic_p
    values = normal((bits[0][:, :count], bits[1][:, :count])) * settings.elastic_sigma
    return tf.reshape(tf.where(on, values, 0.0), [batch, 2, rows, columns])


class Intensity(NamedTuple):
    """The drawn intensity of a batch: float32 [batch, 1 or channels], the neutral value where the
    coin said no; None where the option is off."""

    multiply: Tensor | None
    brightness: Tensor | None
    contrast: Tensor | None
    gamma: Tensor | None
    gamma_inverted: Tensor | None
    noise: Tensor | None
    blur: Tensor | None
    low_resolution: Tensor | None


def draw_intensity(settings: AugmentSettings, seeds: Tensor, channels: int) -> Intensity:
    """Draw every intensity option for each seed (int32 [batch, 2])."""
    count = channels if settings.per_channel else 1

    def draw(name: str, spread: Any, neutral: float, field: str = "") -> Tensor | None:
        limits = getattr(settings, field or name)
        chance = getattr(settings, f"{name}_p")
        if limits is None or chance == 0:
            return None
        coin, value = _numbers(seeds, name, count)
        # One coin a sample, one value a channel.
        return tf.where(coin[:, :1] < chance, spread(value, *limits), neutral)

    return Intensity(
        multiply=draw("multiply", _factor, 1.0),
        brightness=draw("brightness", _between, 0.0),
        contrast=draw("contrast", _factor, 1.0),
        gamma=draw("gamma", _factor, 1.0),
        gamma_inverted=draw("gamma_inverted", _factor, 1.0, "gamma"),
        noise=draw("noise", _between, 0.0),
        blur=draw("blur", _between, 0.0),
        low_resolution=draw("low_resolution", _between, 1.0),
    )
