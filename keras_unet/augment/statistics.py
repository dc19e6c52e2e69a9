"""Mean, spread and range of source images, which the intensity options refer to."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_unet.augment.intensity import Statistics

Tensor = Any


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
