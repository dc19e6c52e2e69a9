"""Decoder of PNG and JPEG in a TensorFlow graph: the header is judged before any pixel is read.

Every function takes and gives tensors; what is wrong with the data raises InvalidArgumentError
when the graph runs. Photographs come upright, as `read_image` has them; TensorFlow's decoders
ignore EXIF. Sources: PNG third edition, sections 5.3 and 11.3.4.5 (the chunk eXIf); ITU-T T.81,
annex B; CIPA DC-008 (Exif 2.32), sections 4.5.2 and 4.6.4 (tag 0x0112). What cannot be read is
upright.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_unet.data.images import JPEG_COMPONENTS, JPEG_EXPECTED, JPEG_FRAMES, JPEG_READABLE

MAX_PIXELS = 2**26  # 8192 x 8192: what is decoded by default
OF_SIZE = "image of {} x {} pixels; expected 1 to {} in all"
_OF_JPEG = f"JPEG of {{}} bits and {{}} components, kind SOF{{}}; expected {JPEG_EXPECTED}"
_INKS = 4
_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER = 26  # bytes: signature, length and name of the first chunk, size, depth, colour type
PNG_START, JPEG_START = 8, 2  # where the first chunk and the first segment are
PAD = 16  # zeros beyond the end, so that a header may be read anywhere in the file
MARK = 0xFF
_SCAN, _END = 0xDA, 0xD9  # markers after which no header comes
_UPRIGHT = 1
_ORIENTATION = 0x0112  # tag
_SHORT, _LONG = (3, 8), (4, 9, 13)  # the types that a number may have, of two and four bytes
_APP1, _EXIF = 0xE1, b"Exif\0\0"
_TAIL = 1 << 16  # bytes at the end of a PNG file: EXIF is smaller


def header(data: Any) -> tuple[Any, Any, Any]:
    """(height, width, bits a channel) of a PNG or JPEG file, int64 scalars; decodes nothing."""
    start = tf.strings.substr(data, 0, tf.minimum(tf.strings.length(data), _HEADER))
    codes = tf.cast(tf.io.decode_raw(start, tf.uint8), tf.int64)
    codes = tf.concat([codes, tf.fill([_HEADER], tf.constant(-1, tf.int64))], 0)[:_HEADER]
    is_png = tf.reduce_all(codes[:8] == list(_PNG)) & (codes[25] >= 0)
    is_jpeg = tf.reduce_all(codes[:3] == [0xFF, 0xD8, 0xFF])
    is_png = checked_tensor(
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
        known = tf.reduce_any(kind == JPEG_READABLE) & (bits == 8)
        known &= tf.reduce_any(components == JPEG_COMPONENTS)
        known |= kind == 0  # damaged, the decoder refuses it
        whole = checked_tensor(data, known, _OF_JPEG, bits, components, kind - 0xC0)
        height, width, _ = tf.unstack(tf.image.extract_jpeg_shape(whole, tf.int64), num=3)
        return tf.stack([height, width, tf.constant(8, tf.int64)])

    height, width, bits = tf.unstack(tf.cond(is_png, png, jpeg), num=3)
    return height, width, bits


def checked_tensor(value: Any, condition: Any, message: str, *found: Any) -> Any:
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
    data = checked_tensor(data, few, OF_SIZE, height, width, max_pixels)

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


def orientation(data: Any) -> Any:
    """The orientation that a PNG or JPEG file states: int64 scalar, 1 (upright) to 8.

    Args:
        data: string scalar, the file.
    """
    with tf.device("CPU:0"):
        codes, size = codes_of(data)
        is_png = codes[0] == 0x89
        start, end = tf.cond(
            is_png, lambda: _png_exif(data, codes, size), lambda: _jpeg_exif(codes, size)
        )
        found = tf.cond(
            end - start >= 10, lambda: _exif_orientation(codes, start, end), _not_turned
        )
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


def _not_turned() -> Any:
    return tf.constant(_UPRIGHT, tf.int64)


def _png_exif(data: Any, codes: Any, size: Any) -> tuple[Any, Any]:
    """Where the chunk eXIf starts and ends; ends before it starts if there is none."""
    # the pixels come in thousands of chunks, which are gone through only if there is one after them
    tail = tf.strings.substr(data, -tf.minimum(tf.strings.length(data), _TAIL), _TAIL)
    after = tf.strings.regex_full_match(tail, r"\C*eXIf\C*")

    def more(at: Any) -> Any:
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

    return walk(step, more, PNG_START)


def _jpeg_exif(codes: Any, size: Any) -> tuple[Any, Any]:
    """Where the TIFF header in the segment APP1 starts, and where the segment ends."""

    def wanted(at: Any) -> Any:
        return (codes[at + 1] == _APP1) & tf.reduce_all(codes[at + 4 : at + 10] == list(_EXIF))

    return jpeg_segment(codes, size, wanted, 10)


def _exif_orientation(codes: Any, start: Any, end: Any) -> Any:
    """The orientation in the first directory of the TIFF structure at codes[start:end]."""
    little = tf.reduce_all(codes[start : start + 2] == list(b"II"))
    large = tf.reduce_all(codes[start : start + 2] == list(b"MM"))
    directory = start + number(codes, start + 4, 4, little)
    good = (little | large) & (number(codes, start + 2, 2, little) == 42)

    def entries() -> Any:
        count = tf.minimum(number(codes, directory, 2, little), (end - directory - 2) // 12)
        places = directory + 2 + 12 * tf.range(count)
        tags = number(codes, places, 2, little)
        its = tf.boolean_mask(places, tags == _ORIENTATION)

        def value() -> Any:
            kind = number(codes, its[-1] + 2, 2, little)
            count = number(codes, its[-1] + 4, 4, little)
            short, long = (number(codes, its[-1] + 8, n, little) for n in (2, 4))
            is_short = tf.reduce_any(kind == _SHORT) & ((count == 1) | (count == 2))
            is_long = tf.reduce_any(kind == _LONG) & (count == 1)
            return tf.where(is_short, short, tf.where(is_long, long, _UPRIGHT))

        return tf.cond(tf.size(its) > 0, value, _not_turned)

    return tf.cond(good & (directory + 2 <= end), entries, _not_turned)


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


def jpeg_segment(
    codes: Any, size: Any, wanted: Callable[[Any], Any], skipped: int
) -> tuple[Any, Any]:
    """Where the first wanted segment of a JPEG file starts and ends; before it starts if none.

    Args:
        codes, size: see `codes_of`.
        wanted: where a marker is -> bool scalar.
        skipped: how many bytes after the marker's first one `start` is.
    """

    def more(at: Any) -> Any:
        at = tf.minimum(at, size)  # a length may point beyond the file
        marker = codes[at + 1]
        return (at + 4 <= size) & (codes[at] == MARK) & (marker != _SCAN) & (marker != _END)

    def step(at: Any, start: Any, end: Any) -> Any:
        fills = codes[at + 1] == MARK  # a marker may have any number of these before it
        length = tf.maximum(number(codes, at + 2, 2), 2)
        here = ~fills & wanted(at) & (at + 2 + length <= size)
        beyond = tf.where(fills, at + 1, at + 2 + length)
        return beyond, *choose(here, (at + skipped, at + 2 + length), (start, end))

    return walk(step, more, JPEG_START)


def frame(data: Any) -> Any:
    """Marker, bits a component, and components of a JPEG file: int64 [3], zeros if it has none."""
    with tf.device("CPU:0"):
        codes, size = codes_of(data)
        start, end = jpeg_segment(
            codes, size, lambda at: tf.reduce_any(codes[at + 1] == JPEG_FRAMES), 1
        )
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
