"""Random bits that are the same on every device: Threefry-2x32 with 20 rounds of integers.

TensorFlow's stateless generators take one seed a call, so a batch in which each sample has its own
seed would need a loop; and their normal draws differ between kernels. This generator is a pure
function of (key, counter), works on any shape at once and uses nothing but 32-bit integers.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, and the
known-answer vectors of its reference implementation (Random123), which the tests repeat.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

Tensor = Any

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def _constant(value: int) -> Tensor:
    return tf.constant(value, tf.uint32)


def _rotate_left(x: Tensor, by: int) -> Tensor:
    left = tf.bitwise.left_shift(x, _constant(by))
    return tf.bitwise.bitwise_or(left, tf.bitwise.right_shift(x, _constant(32 - by)))


def threefry(key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two words of random bits for each (key, counter).

    Args:
        key: two uint32 tensors.
        counter: two uint32 tensors; all four broadcast against each other.

    Returns:
        Two uint32 tensors of the broadcast shape.
    """
    keys = (
        key[0],
        key[1],
        tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(key[0], key[1]), _constant(_PARITY)),
    )
    x0, x1 = counter[0] + keys[0], counter[1] + keys[1]
    for block in range(5):
        for by in _ROTATIONS[block % 2]:
            x0 = x0 + x1
            x1 = tf.bitwise.bitwise_xor(_rotate_left(x1, by), x0)
        x0 = x0 + keys[(block + 1) % 3]
        x1 = x1 + keys[(block + 2) % 3] + _constant(block + 1)
    return x0, x1


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
