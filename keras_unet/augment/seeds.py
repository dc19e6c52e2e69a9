"""Which seed a sample gets: a function of (seed, epoch, index) and of nothing else."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_unet.augment.threefry import threefry

Tensor = Any


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
