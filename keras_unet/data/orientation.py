"""EXIF orientation in a TensorFlow graph: photographs come upright, as `read_image` has them.

TensorFlow's decoders ignore it. Source: CIPA DC-008 (Exif 2.32), sections 4.5.2 and 4.6.4 (tag
0x0112); PNG third edition, section 11.3.4.5 (the chunk eXIf). What cannot be read is
upright.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_unet.data.segments import PNG, choose, codes_of, in_jpeg, number, walk

_UPRIGHT = 1
_TAG = 0x0112
_SHORT, _LONG = (3, 8), (4, 9, 13)  # the types that a number may have, of two and four bytes
_APP1, _EXIF = 0xE1, b"Exif\0\0"
_TAIL = 1 << 16  # bytes at the end of a PNG file: EXIF is smaller


def orientation(data: Any) -> Any:
    """The orientation that a PNG or JPEG file states: int64 scalar, 1 (upright) to 8.

    Args:
        data: string scalar, the file.
    """
    with tf.device("CPU:0"):
        codes, size = codes_of(data)
        is_png = codes[0] == 0x89
        start, end = tf.cond(
            is_png, lambda: _in_png(data, codes, size), lambda: _in_jpeg(codes, size)
        )
        found = tf.cond(end - start >= 10, lambda: _in_tiff(codes, start, end), _upright)
        return tf.where((found >= 1) & (found <= 8), found, _UPRIGHT)


def upright(image: Any, turned: Any) -> Any:
    """Turns and mirrors an image [H, W, C] as its orientation asks; H and W may change places."""

    def turn() -> Any:
        across = tf.cond(turned >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        for axis, asking in ((1, [2, 3, 6, 7]), (0, [3, 4, 7, 8])):
            across = tf.cond(
                tf.reduce_any(turned == asking),
                lambda across=across, axis=axis: tf.reverse(across, [axis]),
                lambda across=across: across,
            )
        return across

    return tf.cond(turned > _UPRIGHT, turn, lambda: image)


def _upright() -> Any:
    return tf.constant(_UPRIGHT, tf.int64)


def _in_png(data: Any, codes: Any, size: Any) -> tuple[Any, Any]:
    """Where the chunk eXIf starts and ends; ends before it starts if there is none."""
    # the pixels come in thousands of chunks, which are gone through only if there is one after them
    tail = tf.strings.substr(data, -tf.minimum(tf.strings.length(data), _TAIL), _TAIL)
    after = tf.strings.regex_full_match(tail, r"\C*eXIf\C*")

    def told(at: Any) -> Any:
        at = tf.minimum(at, size)
        pixels = tf.reduce_all(codes[at + 4 : at + 8] == list(b"IDAT"))
        return (at + 12 <= size) & (after | ~pixels)

    def step(at: Any, start: Any, end: Any) -> Any:
        length = number(codes, at, 4)
        here = tf.reduce_all(codes[at + 4 : at + 8] == list(b"eXIf")) & (at + 8 + length <= size)
        # some writers begin as a JPEG's segment does
        named = tf.reduce_all(codes[at + 8 : at + 14] == list(_EXIF))
        first = at + tf.where(named, tf.constant(14, tf.int64), 8)
        return at + 12 + length, *choose(here, (first, at + 8 + length), (start, end))

    return walk(step, told, PNG)


def _in_jpeg(codes: Any, size: Any) -> tuple[Any, Any]:
    """Where the TIFF header in the segment APP1 starts, and where the segment ends."""

    def wanted(at: Any) -> Any:
        return (codes[at + 1] == _APP1) & tf.reduce_all(codes[at + 4 : at + 10] == list(_EXIF))

    return in_jpeg(codes, size, wanted, 10)


def _in_tiff(codes: Any, start: Any, end: Any) -> Any:
    """The orientation in the first directory of the TIFF structure at codes[start:end]."""
    little = tf.reduce_all(codes[start : start + 2] == list(b"II"))
    large = tf.reduce_all(codes[start : start + 2] == list(b"MM"))
    directory = start + number(codes, start + 4, 4, little)
    good = (little | large) & (number(codes, start + 2, 2, little) == 42)

    def entries() -> Any:
        count = tf.minimum(number(codes, directory, 2, little), (end - directory - 2) // 12)
        places = directory + 2 + 12 * tf.range(count)
        tags = number(codes, places, 2, little)
        its = tf.boolean_mask(places, tags == _TAG)

        def value() -> Any:
            kind = number(codes, its[-1] + 2, 2, little)
            count = number(codes, its[-1] + 4, 4, little)
            short, long = (number(codes, its[-1] + 8, n, little) for n in (2, 4))
            is_short = tf.reduce_any(kind == _SHORT) & ((count == 1) | (count == 2))
            is_long = tf.reduce_any(kind == _LONG) & (count == 1)
            return tf.where(is_short, short, tf.where(is_long, long, _UPRIGHT))

        return tf.cond(tf.size(its) > 0, value, _upright)

    return tf.cond(good & (directory + 2 <= end), entries, _upright)
