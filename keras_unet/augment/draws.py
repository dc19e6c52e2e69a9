"""Random draws: all that is drawn for each sample of a batch, once; nothing is applied here.

Each sample has a seed of its own, and its draws are the same on every device. TensorFlow's
stateless generators take one seed a call, so such a batch would need a loop; and their normal draws
differ between kernels.
"""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_unet import threefry as generator
from keras_unet.augment.options import INTENSITY
from keras_unet.augment.settings import AugmentSettings

Tensor = Any


def threefry(key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """`keras_unet.threefry.threefry` in TensorFlow."""
    return generator.threefry(key, counter, tf.bitwise)


def sample_bits(seeds: Tensor, stream: int, count: int | Tensor) -> tuple[Tensor, Tensor]:
    """`count` pairs of words for each sample.

    Args:
        seeds: int32 [batch, 2], one seed a sample.
        stream: names the quantity that is drawn, so that draws of different quantities are
            independent and adding one does not change the others.
        count: how many pairs.

    Returns:
        Two uint32 tensors [batch, count].
    """
    words = tf.bitcast(seeds, tf.uint32)
    index = tf.cast(tf.range(count), tf.uint32)[None, :]
    return threefry((words[:, :1], words[:, 1:]), (index, tf.constant(stream, tf.uint32)))


def uniform(bits: Tensor) -> Tensor:
    """float32 in [0, 1), a multiple of 2^-24, from uint32 bits of any shape."""
    high = tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32))
    return tf.cast(tf.cast(high, tf.int32), tf.float32) * 2.0**-24


def below(number: Tensor, count: Any) -> Tensor:
    """A `uniform` number as an int32 in 0 … count - 1."""
    count = tf.cast(count, tf.int32)
    scaled = tf.floor(number * tf.cast(count, tf.float32))
    return tf.minimum(tf.cast(scaled, tf.int32), count - 1)  # a product may be rounded up


def normal(numbers: tuple[Tensor, Tensor]) -> Tensor:
    """float32 standard normal values (Box-Muller) from two `uniform` tensors of any one shape."""
    radius = tf.sqrt(-2.0 * tf.math.log(numbers[0] + 2.0**-25))
    return radius * tf.cos((2.0 * math.pi) * numbers[1])


def _words(value: Any) -> tuple[Tensor, Tensor]:
    """The low and the high 32 bits of an integer or an integer tensor."""
    if isinstance(value, int):
        value &= 2**64 - 1
        value = value - 2**64 if value >= 2**63 else value
    value = tf.cast(value, tf.int64)
    # A cast to int32 keeps the low bits; shifting first brings the high bits down.
    low = tf.cast(tf.bitwise.bitwise_and(value, tf.constant(0xFFFFFFFF, tf.int64)), tf.uint32)
    high = tf.bitwise.bitwise_and(
        tf.bitwise.right_shift(value, tf.constant(32, tf.int64)), 0xFFFFFFFF
    )
    return low, tf.cast(high, tf.uint32)


def sample_seeds(seed: Any, epoch: Any, index: Any) -> Tensor:
    """One seed for each sample of a batch.

    It depends on nothing else: not on threads, batch size, worker or restarts, so sample 17 of
    epoch 3 is the same picture wherever and whenever it is made.

    Args:
        seed: the run's seed, an integer (64 bits count) or a scalar integer tensor.
        epoch: an integer, or an integer tensor that broadcasts against `index`.
        index: which sample of the epoch: integers [batch] (or a scalar, for a batch of one).

    Returns:
        int32 tensor [batch, 2].
    """
    index = tf.reshape(tf.convert_to_tensor(index), [-1])
    first = threefry(_words(seed), _words(epoch))
    second = threefry(first, _words(index))
    return tf.stack([tf.bitcast(word, tf.int32) for word in second], axis=1)


# One stream of random numbers for each quantity: switching one option on or changing its range
# leaves the draws of all others as they were. The numbers are part of a seed's meaning.
_STREAMS = {
    "position": 0,
    "flip": 1,
    "rotate": 2,
    "scale": 3,
    "shear": 4,
    "shift": 5,
    "elastic": 6,
    **{name: option.stream for name, option in INTENSITY.items()},
}
NOISE_STREAM = 1 << 16


class Numbers:
    """Two independent uniform numbers in [0, 1) for each draw: a coin and a value.

    All streams come from one evaluation of the generator, which keeps the compiled graph small.
    """

    def __init__(self, seeds: Tensor, counts: dict[str, int]) -> None:
        """Draw `counts[name]` pairs of each stream for each seed (int32 [batch, 2])."""
        index = np.concatenate([np.arange(count) for count in counts.values()])
        stream = np.repeat([_STREAMS[name] for name in counts], list(counts.values()))
        words = tf.bitcast(seeds, tf.uint32)
        counter = (tf.constant(index, tf.uint32)[None], tf.constant(stream, tf.uint32)[None])
        bits = threefry((words[:, :1], words[:, 1:]), counter)
        total = len(index)
        both = settle(tf.concat([uniform(bits[0]), uniform(bits[1])], axis=1))
        self._coins, self._values = both[:, :total], both[:, total:]
        ends = np.cumsum(list(counts.values()))
        self._range = {
            n: (int(e) - c, int(e)) for (n, c), e in zip(counts.items(), ends, strict=True)
        }

    def __call__(self, name: str) -> tuple[Tensor, Tensor]:
        """The stream's coins and values, float32 [batch, count]."""
        start, end = self._range[name]
        return self._coins[:, start:end], self._values[:, start:end]


def settle(values: Tensor) -> Tensor:
    """The same float32 values [batch, n], computed once.

    XLA merges what is cheap into every loop that reads it: the random numbers would be made again
    for every row of every picture. The result of a matrix product is never merged; in float64 the
    product with 1 is exact on every device (float32 products are rounded to TF32 on a GPU).
    """
    unit = tf.eye(values.shape[1], dtype=tf.float64)
    return tf.cast(tf.matmul(tf.cast(values, tf.float64), unit), tf.float32)


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


# The drawn intensity of a batch, by the names of the table: float32 [batch, 1 or channels], the
# neutral value where the coin said no; None where the option is off.
Intensity = namedtuple("Intensity", INTENSITY)  # type: ignore[misc]


def draw(settings: AugmentSettings, seeds: Tensor, channels: int) -> tuple[Geometry, Intensity]:
    """Draw everything that the settings ask for.

    Args:
        settings: see `AugmentSettings`.
        seeds: int32 [batch, 2], one seed a sample.
        channels: of the image.
    """
    per_channel = channels if settings.per_channel else 1
    counts = {"position": 2}
    if max(settings.flip_vertical, settings.flip_horizontal) > 0:
        counts["flip"] = 2
    for name in ("rotate", "scale", "shear"):
        if getattr(settings, name) is not None and getattr(settings, f"{name}_p") > 0:
            counts[name] = 1
    if settings.shift > 0:
        counts["shift"] = 2
    if settings.elastic_sigma > 0 and settings.elastic_p > 0:
        # One more than the displacements: the coin.
        counts["elastic"] = 2 * math.prod(settings.elastic_grid) + 1
    for name in INTENSITY:
        if settings.limits(name) is not None:
            counts[name] = per_channel
    numbers = Numbers(seeds, counts)
    geometry = _geometry(settings, numbers, counts, tf.shape(seeds)[0])
    return geometry, _intensity(settings, numbers)


def _between(value: Tensor, low: float, high: float) -> Tensor:
    return low + value * (high - low)


def _factor(value: Tensor, low: float, high: float) -> Tensor:
    """A factor below 1 and one above 1 equally often, where the range holds both."""
    if not low < 1.0 < high:
        return _between(value, low, high)
    below = _between(2.0 * value, low, 1.0)
    return tf.where(value < 0.5, below, _between(2.0 * value - 1.0, 1.0, high))


def _geometry(
    settings: AugmentSettings, numbers: Numbers, counts: dict[str, int], batch: Tensor
) -> Geometry:
    one, zero = tf.ones([batch]), tf.zeros([batch])
    cosine, sine, turned, shrink, slant, signs = one, zero, zero, one, zero, (one, one)
    if settings.rotate is not None and "rotate" in counts:
        coin, value = (number[:, 0] for number in numbers("rotate"))
        on = coin < settings.rotate_p
        if isinstance(settings.rotate, str):
            quarter = tf.where(on, tf.floor(4.0 * value), 0.0)
            # A table, not cos and sin: exactly 0, 1 and -1.
            cosine = tf.abs(quarter - 2.0) - 1.0
            sine = 1.0 - tf.abs(quarter - 1.0)
            turned = tf.abs(sine)
        else:
            low, high = (math.radians(angle) for angle in settings.rotate)
            angle = tf.where(on, _between(value, low, high), 0.0)
            cosine, sine = tf.cos(angle), tf.sin(angle)
    if settings.scale is not None and "scale" in counts:
        coin, value = (number[:, 0] for number in numbers("scale"))
        shrink = 1.0 / tf.where(coin < settings.scale_p, _factor(value, *settings.scale), 1.0)
    if settings.shear is not None and "shear" in counts:
        coin, value = (number[:, 0] for number in numbers("shear"))
        low, high = (math.radians(angle) for angle in settings.shear)
        slant = tf.where(coin < settings.shear_p, tf.tan(_between(value, low, high)), 0.0)
    if "flip" in counts:
        coins = numbers("flip")[0]
        chances = (settings.flip_vertical, settings.flip_horizontal)
        signs = tuple(tf.where(coins[:, axis] < chances[axis], -1.0, 1.0) for axis in (0, 1))
    # Source offset = shrink * rotation * shear * flip * offset in the result. Products with 0 and
    # ±1 are exact, so flips and right angles keep whole-pixel offsets whole.
    rows = ((cosine, cosine * slant + sine), (-sine, cosine - sine * slant))
    matrix = [tf.stack([row[k] * shrink * signs[k] for k in (0, 1)], axis=1) for row in rows]
    shift = tf.zeros([batch, 2])
    if "shift" in counts:
        shift = _between(numbers("shift")[1], -settings.shift, settings.shift)
    grid = None
    if "elastic" in counts:
        first, second = numbers("elastic")
        values = normal((first[:, :-1], second[:, :-1])) * settings.elastic_sigma
        values = tf.where(first[:, -1:] < settings.elastic_p, values, 0.0)
        grid = tf.reshape(values, [batch, 2, *settings.elastic_grid])
    return Geometry(numbers("position")[0], tf.stack(matrix, axis=1), turned, shift, grid)


def _intensity(settings: AugmentSettings, numbers: Numbers) -> Intensity:
    drawn: dict[str, Tensor | None] = dict.fromkeys(INTENSITY)
    for name, option in INTENSITY.items():
        limits = settings.limits(name)
        if limits is None:
            continue
        coin, value = numbers(name)
        # One coin a sample, one value a channel.
        on = coin[:, :1] < getattr(settings, f"{name}_p")
        spread = _factor if option.factor else _between
        drawn[name] = tf.where(on, spread(value, *limits), option.neutral)
    return Intensity(**drawn)
