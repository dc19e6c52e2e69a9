"""Batches and banks as the flat run of pixels that `resample` reads, with their statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_unet.augment.intensity import Statistics
from keras_unet.augment.resample import Source

if TYPE_CHECKING:
    from keras_unet.data.bank import BankTensors

Tensor = Any


def batch_source(
    image: Tensor, label: Tensor | None, weight: Tensor | None
) -> tuple[Source, tuple[int | Tensor, int | Tensor]]:
    """A batch as a flat run, and its images' (height, width).

    Args:
        image: [batch, height, width, channels].
        label, weight: [batch, height, width] or None.
    """
    static, shape = image.shape, tf.shape(image)
    batch = shape[0]
    height, width = (static[axis] or shape[axis] for axis in (1, 2))
    ones = tf.ones([batch], tf.int32)
    source = Source(
        image=tf.reshape(image, [-1, static[3] or shape[3]]),
        label=None if label is None else tf.reshape(label, [-1]),
        weight=None if weight is None else tf.reshape(tf.cast(weight, tf.float32), [-1]),
        offset=tf.range(batch) * (height * width),
        height=ones * height,
        width=ones * width,
        down=width * tf.cast(height > 1, tf.int32),
        right=tf.cast(width > 1, tf.int32),
        small=bool(static[1] and static[2]) and static[1] * static[2] < 2**23,
    )
    return source, (height, width)


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


def bank_source(bank: BankTensors, index: Tensor) -> tuple[Source, tuple[Tensor, Tensor]]:
    """The images `index` (int32 [batch]) of a bank, and their shift and scale [batch, channels]."""
    offset, height, width, shift, scale = (
        tf.gather(values, index)
        for values in (bank.offset, bank.height, bank.width, bank.shift, bank.scale)
    )
    source = Source(
        image=bank.image,
        label=bank.label,
        weight=bank.weight,
        offset=offset,
        height=height,
        width=width,
        down=bank.pitch,
        right=1,
        small=bank.small,
    )
    return source, (shift, scale)


def bank_statistics(bank: BankTensors, index: Tensor) -> Statistics:
    """Statistics of the images `index` of a bank, in normalised units."""
    mean, std, low, high = (tf.gather(values, index) for values in bank.statistics)
    shift, scale = tf.gather(bank.shift, index), tf.gather(bank.scale, index)
    # A negative scale would swap the ends of the range.
    ends = (low - shift) * scale, (high - shift) * scale
    return Statistics(
        (mean - shift) * scale, std * tf.abs(scale), tf.minimum(*ends), tf.maximum(*ends)
    )
