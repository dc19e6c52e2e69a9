"""PNG and JPEG in a TensorFlow graph: the header is read, and judged, before any pixel is.

Every function takes and gives tensors; what is wrong with the data raises InvalidArgumentError
when the graph runs.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_unet.data.jpeg_markers import COMPONENTS, EXPECTED, READABLE
from keras_unet.data.orientation import orientation, upright
from keras_unet.data.segments import frame

MAX_PIXELS = 2**26  # 8192 x 8192: what is decoded unless told otherwise
OF_SIZE = "image of {} x {} pixels; expected 1 to {} in all"
_OF_JPEG = f"JPEG of {{}} bits and {{}} components, kind SOF{{}}; expected {EXPECTED}"
_INKS = 4
_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER = 26  # bytes: signature, length and name of the first chunk, size, depth, colour type


def header(data: Any) -> tuple[Any, Any, Any]:
    """(height, width, bits a channel) of a PNG or JPEG file, int64 scalars; decodes nothing."""
    start = tf.strings.substr(data, 0, tf.minimum(tf.strings.length(data), _HEADER))
    codes = tf.cast(tf.io.decode_raw(start, tf.uint8), tf.int64)
    codes = tf.concat([codes, tf.fill([_HEADER], tf.constant(-1, tf.int64))], 0)[:_HEADER]
    is_png = tf.reduce_all(codes[:8] == list(_PNG)) & (codes[25] >= 0)
    is_jpeg = tf.reduce_all(codes[:3] == [0xFF, 0xD8, 0xFF])
    is_png = checked(
        is_png,
        is_png | is_jpeg,
        "expected a PNG or JPEG file; found {} bytes that are neither",
        tf.strings.length(data),
    )

    def png() -> Any:
        places = tf.constant([2**24, 2**16, 2**8, 1], tf.int64)
        width, height = (tf.reduce_sum(codes[at : at + 4] * places) for at in (16, 20))
        return tf.stack([height, width, codes[24]])

    def jpeg() -> Any:
        kind, bits, components = tf.unstack(frame(data))
        known = tf.reduce_any(kind == READABLE) & (bits == 8)
        known &= tf.reduce_any(components == COMPONENTS)
        known |= kind == 0  # damaged, as the decoder will say
        whole = checked(data, known, _OF_JPEG, bits, components, kind - 0xC0)
        height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(whole, tf.int64), num=3)
        return tf.stack([height, width, tf.constant(8, tf.int64)])

    height, width, bits = tf.unstack(tf.cond(is_png, png, jpeg), num=3)
    return height, width, bits


def checked(value: Any, condition: Any, message: str, *found: Any) -> Any:
    """`value` once `condition` holds; `message` has a {} for each of `found`."""
    text = tf.strings.format(message, found) if found else message
    with tf.control_dependencies([tf.debugging.Assert(condition, [text])]):
        return tf.identity(value)


def few_enough(height: Any, width: Any, most: int) -> Any:
    """Whether an image has 1 to `most` pixels; no size, however large, overflows (most < 2^31)."""
    each = (height >= 1) & (width >= 1) & (height <= most) & (width <= most)
    return each & (height * width <= most)


def decode(data: Any, channels: int, max_pixels: int = MAX_PIXELS) -> tuple[Any, Any]:
    """A PNG or JPEG file as (uint16 [H, W, channels], bits a channel in the file).

    The values are those of the file: 0 to 255 where it has 8 bits. Grey becomes colour and colour
    grey, as `channels` (1 or 3) wants it; opacity is dropped; palettes become their colours; EXIF
    orientation is applied, so that H and W may be those of the header exchanged.
    """
    height, width, bits = header(data)
    few = few_enough(height, width, max_pixels)
    data = checked(data, few, OF_SIZE, height, width, max_pixels)

    def wide() -> Any:
        return tf.io.decode_png(data, channels, tf.uint16)

    def narrow() -> Any:
        is_jpeg = tf.strings.substr(data, 0, 1) == b"\xff"
        return tf.cast(tf.cond(is_jpeg, jpeg, png), tf.uint16)

    def png() -> Any:
        return tf.io.decode_png(data, channels, tf.uint8)

    def jpeg() -> Any:
        if channels != 1:
            return _jpeg(data, channels)
        inks = frame(data)[2] == _INKS  # the decoder makes colours of them, but no grey
        return tf.cond(
            inks, lambda: tf.image.rgb_to_grayscale(_jpeg(data, 3)), lambda: _jpeg(data, 1)
        )

    image = upright(tf.cond(bits == 16, wide, narrow), orientation(data))
    return tf.ensure_shape(image, [None, None, channels]), bits


def _jpeg(data: Any, channels: int) -> Any:
    """Accurate, as other decoders do; TensorFlow's default is not."""
    return tf.io.decode_jpeg(data, channels, dct_method="INTEGER_ACCURATE")
