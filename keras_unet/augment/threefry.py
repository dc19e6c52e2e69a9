"""Random draws of a batch in which each sample has a seed of its own, the same on every device.

TensorFlow's stateless generators take one seed a call, so such a batch would need a loop; and
their normal draws differ between kernels.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from keras_unet import threefry as generator

Tensor = Any


def _constant(value: int) -> Tensor:
    return tf.constant(value, tf.uint32)


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
    return threefry((words[:, :1], words[:, 1:]), (index, _constant(stream)))


def uniform(bits: Tensor) -> Tensor:
    """float32 in [0, 1), a multiple of 2^-24, from uint32 bits of any shape."""
    return (
        tf.cast(tf.cast(tf.bitwise.right_shift(bits, _constant(8)), tf.int32), tf.float32)
        * 2.0**-24
    )


def normal(numbers: tuple[Tensor, Tensor]) -> Tensor:
    """float32 standard normal values (Box-Muller) from two `uniform` tensors of any one shape."""
    radius = tf.sqrt(-2.0 * tf.math.log(numbers[0] + 2.0**-25))
    return radius * tf.cos((2.0 * math.pi) * numbers[1])
