"""Headers of PNG and JPEG files in a TensorFlow graph: from one chunk or segment to the next.

Sources: PNG third edition, section 5.3; ITU-T T.81, annex B.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_unet.data.jpeg_markers import FRAMES

PNG, JPEG = 8, 2  # where the first chunk and the first segment are
PAD = 16  # zeros beyond the end, so that a header may be read anywhere in the file
MARK = 0xFF
_SCAN, _END = 0xDA, 0xD9  # markers after which nothing is told


def codes_of(data: Any) -> tuple[Any, Any]:
    """The bytes of a file (string scalar) as numbers, `PAD` more than there are, and their count.

    Call it on the CPU: a GPU would get the file, and many small steps.
    """
    codes = tf.pad(tf.io.decode_raw(data, tf.uint8), [[0, PAD]])
    return codes, tf.size(codes, tf.int64) - PAD


def walk(step: Any, more: Any, first: int) -> tuple[Any, Any]:
    """(start, end) that `step` finds, from place to place as long as there are `more`."""
    at, start, end = (tf.constant(n, tf.int64) for n in (first, 0, -1))
    _, start, end = tf.while_loop(
        lambda at, start, end: (end < start) & more(at), step, (at, start, end)
    )
    return start, end


def in_jpeg(codes: Any, size: Any, wanted: Callable[[Any], Any], skipped: int) -> tuple[Any, Any]:
    """Where the first wanted segment of a JPEG file starts and ends; ends before it starts if none.

    Args:
        codes, size: see `codes_of`.
        wanted: where a marker is -> bool scalar.
        skipped: how many bytes after the marker's first one `start` is.
    """

    def told(at: Any) -> Any:
        at = tf.minimum(at, size)  # a length may point beyond the file
        marker = codes[at + 1]
        return (at + 4 <= size) & (codes[at] == MARK) & (marker != _SCAN) & (marker != _END)

    def step(at: Any, start: Any, end: Any) -> Any:
        fills = codes[at + 1] == MARK  # a marker may have any number of these before it
        length = tf.maximum(number(codes, at + 2, 2), 2)
        here = ~fills & wanted(at) & (at + 2 + length <= size)
        beyond = tf.where(fills, at + 1, at + 2 + length)
        return beyond, *choose(here, (at + skipped, at + 2 + length), (start, end))

    return walk(step, told, JPEG)


def frame(data: Any) -> Any:
    """Marker, bits a component, and components of a JPEG file: int64 [3], zeros if not told."""
    with tf.device("CPU:0"):
        codes, size = codes_of(data)
        start, end = in_jpeg(codes, size, lambda at: tf.reduce_any(codes[at + 1] == FRAMES), 1)
        found = tf.gather(codes, start + tf.constant([0, 3, 8], tf.int64))
        return tf.where(end - start >= 9, tf.cast(found, tf.int64), 0)


def choose(condition: Any, yes: tuple[Any, Any], no: tuple[Any, Any]) -> tuple[Any, Any]:
    first, second = (tf.where(condition, a, b) for a, b in zip(yes, no, strict=True))
    return first, second


def number(codes: Any, at: Any, count: int, little: Any = False) -> Any:
    """The unsigned number of `count` bytes at each place: int64, as `at`."""
    places = tf.expand_dims(at, -1) + tf.range(count, dtype=tf.int64)
    digits = tf.cast(tf.gather(codes, places), tf.int64)
    powers = tf.constant([256**n for n in range(count)], tf.int64)
    return tf.reduce_sum(digits * tf.where(little, powers, powers[::-1]), -1)
