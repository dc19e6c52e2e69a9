"""tf.Example records: how an image and its labels are stored, for the pipeline and for serving.

| feature | type | what |
| --- | --- | --- |
| `image/encoded` | bytes | a PNG or JPEG file, or the pixels as float32, little-endian, [H, W, C] |
| `image/format` | bytes | "png", "jpeg" or "raw" |
| `image/height`, `image/width`, `image/channels` | int64 | its shape |
| `image/dtype` | bytes | the type it was stored in: "uint8", "uint16", "float32" … |
| `image/name` | bytes | which image it is, unique within a data set |
| `label/encoded` | bytes | a grey PNG, 8 or 16 bits, or int32, little-endian, [H, W]; or empty |
| `label/format` | bytes | "png", "raw" or empty |
| `image/group` | bytes | images of one group (animal, plate …) belong in one split; or empty |
| `weight/border` | bytes | border term of equation 2 for w0 = 1: float32, little-endian, [H, W] |
| `weight/sigma` | float | what it was computed with, pixels |
| `weight/separation` | int64 | the same |

The last four are for training and may be absent; `record_files` reads them, serving does not.
Label values are those of the label file (see `LabelMapping`), not class numbers.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from keras_unet.errors import DataError

if TYPE_CHECKING:
    from keras_unet.data.reading import Border

Values = bytes | Sequence[int] | Sequence[float]
MOST_LABEL = 65535  # in a PNG
_SIZES = ("height", "width", "channels")


def features() -> dict[str, Any]:
    """The specification for `tf.io.parse_example`; what is absent gets "" or 0.

    Only `image/encoded` must be there: the shape is in a PNG or JPEG file itself, and a server's
    client need not repeat it.
    """
    import tensorflow as tf

    text = {"image/format": "png", "image/dtype": "", "image/name": ""}
    text |= {"label/encoded": "", "label/format": ""}
    return {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        **{name: tf.io.FixedLenFeature([], tf.string, default) for name, default in text.items()},
        **{f"image/{name}": tf.io.FixedLenFeature([], tf.int64, 0) for name in _SIZES},
    }


def encode_example(
    name: str,
    image: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    dtype: np.dtype | None = None,
    group: str | None = None,
    border: Border | None = None,
    more: Mapping[str, Values] | None = None,
) -> bytes:
    """One record, serialised: the same arguments give the same bytes.

    Args:
        name: see `image/name`.
        image: [H, W, C], as `read_image` returns it. uint8 with 1 or 3 channels and uint16 with
            one are kept as PNG, anything else as float32.
        dtype: see `image/dtype`; None: the image's own. An image of integers in which some pixels
            were never measured is given as float32 with NaN, and the type that it was stored in.
        labels: int [H, W] label values, or None.
        group: see `image/group`; None leaves it out.
        border: the border term; None leaves it out.
        more: other features by name: bytes, integers or floats.

    Raises:
        DataError: shapes that do not fit each other, or integers that float32 cannot hold.
    """
    import tensorflow as tf

    if image.ndim != 3 or 0 in image.shape:
        raise DataError(f"{name}: image of shape {image.shape}; expected [height, width, channels]")
    if labels is not None and labels.shape != image.shape[:2]:
        raise DataError(
            f"{name}: labels of shape {labels.shape}; expected {image.shape[:2]}, as the image"
        )
    kind, data = _image(name, image)
    label_kind, label_data = ("", b"") if labels is None else _labels(name, labels)
    height, width, channels = image.shape
    values: dict[str, Values] = {
        "image/encoded": data,
        "image/format": kind.encode(),
        "image/dtype": str(dtype or image.dtype).encode(),
        "image/name": name.encode(),
        "label/encoded": label_data,
        "label/format": label_kind.encode(),
        "image/height": [height],
        "image/width": [width],
        "image/channels": [channels],
    }
    if group is not None:
        values["image/group"] = group.encode()
    if border is not None:
        if border.weights.shape != image.shape[:2]:
            raise DataError(
                f"{name}: border term of shape {border.weights.shape}; expected {image.shape[:2]}, "
                "as the image"
            )
        values["weight/border"] = border.weights.astype("<f4").tobytes()
        values["weight/sigma"] = [float(border.sigma)]
        values["weight/separation"] = [border.separation]
    feature = {key: _feature(value) for key, value in {**values, **(more or {})}.items()}
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


def decode_example(serialized: Any, channels: int) -> dict[str, Any]:
    """A record as tensors, in a graph: `image` float32 [H, W, C], `labels` int32 [H, W], `name`.

    Args:
        serialized: string scalar, one record.
        channels: C, the model's; a record of another number is refused.

    `labels` has shape [0, 0] where the record has none. Raises InvalidArgumentError, when it runs,
    for a record that is damaged or of another shape than it says.
    """
    import tensorflow as tf

    from keras_unet.data.encoded import checked, decode

    record = tf.io.parse_single_example(serialized, features())
    image, _ = decode_image(record, channels)
    data, kind = record["label/encoded"], record["label/format"]
    size = tf.shape(image, tf.int64)[:2]

    def png() -> Any:  # 2 and 4 bits are numbers, as `read_labels` has them, not grey levels
        levels, bits = decode(data, 1)
        spread = tf.where((bits == 2) | (bits == 4), 255 // (2**bits - 1), 1)
        return tf.cast(levels[..., 0], tf.int32) // tf.cast(spread, tf.int32)

    labels = tf.case(
        [
            (kind == "", lambda: tf.zeros([0, 0], tf.int32)),
            (kind == "raw", lambda: _pixels(data, tf.int32, size)),
        ],
        default=png,
    )
    labels = checked(
        labels,
        (kind == "") | tf.reduce_all(tf.shape(labels, tf.int64) == size),
        "labels of shape {} for an image of {}",
        tf.shape(labels),
        size,
    )
    labels = tf.ensure_shape(labels, [None, None])
    return {"image": image, "labels": labels, "name": record["image/name"]}


def decode_image(
    record: Mapping[str, Any], channels: int, max_pixels: int | None = None
) -> tuple[Any, Any]:
    """The image of a parsed record: (float32 [H, W, C], bits a channel of its file, 0 for raw).

    Sizes and channels that the record states must be those of the file; 0 states nothing.
    """
    import tensorflow as tf

    from keras_unet.data.encoded import MAX_PIXELS, OF_SIZE, checked, decode, few_enough

    most = MAX_PIXELS if max_pixels is None else max_pixels
    data, stated = record["image/encoded"], [record[f"image/{n}"] for n in _SIZES]

    def raw() -> Any:
        few = few_enough(stated[0], stated[1], most)
        whole = checked(data, few, OF_SIZE, stated[0], stated[1], most)
        return _pixels(whole, tf.float32, tf.stack(stated)), tf.constant(0, tf.int64)

    def picture() -> Any:
        if channels not in (1, 3):
            return tf.zeros([0, 0, 0]), tf.constant(0, tf.int64)  # refused below
        image, bits = decode(data, channels, most)
        return tf.cast(image, tf.float32), bits

    image, bits = tf.cond(record["image/format"] == "raw", raw, picture)
    shape = tf.shape(image, tf.int64)
    image = checked(
        image,
        tf.reduce_all((shape == stated) | (tf.stack(stated) == 0)) & (shape[2] == channels),
        "image of shape {} in a record that says {}, 0 for nothing; channels expected: {}",
        shape,
        tf.stack(stated),
        channels,
    )
    return tf.ensure_shape(image, [None, None, channels]), bits


def _pixels(data: Any, dtype: Any, shape: Any) -> Any:
    """Numbers of 4 bytes, little-endian, in `shape` (int64 [rank])."""
    import tensorflow as tf

    from keras_unet.data.encoded import checked

    length = tf.strings.length(data)
    data = checked(
        data,
        tf.cast(length, tf.int64) == 4 * tf.reduce_prod(shape),
        "raw pixels of {} bytes; expected 4 bytes a number in shape {}",
        length,
        shape,
    )
    return tf.reshape(tf.io.decode_raw(data, dtype), shape)


def _feature(value: Values) -> Any:
    import tensorflow as tf

    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if any(isinstance(number, float) for number in value):
        return tf.train.Feature(float_list=tf.train.FloatList(value=value))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=value))


def _image(name: str, image: np.ndarray) -> tuple[str, bytes]:
    kind, channels = str(image.dtype), image.shape[2]
    if kind == "uint8" and channels in (1, 3):
        return "png", _png(image[..., 0] if channels == 1 else image)
    if kind == "uint16" and channels == 1:
        return "png", _png(image[..., 0])
    pixels = image.astype("<f4")
    if image.dtype.kind in "ui" and not np.array_equal(pixels.astype(np.float64), image):
        raise DataError(f"{name}: holds {image.dtype} beyond 2^24; expected what float32 can hold")
    return "raw", pixels.tobytes()


def _labels(name: str, labels: np.ndarray) -> tuple[str, bytes]:
    low, high = int(labels.min()), int(labels.max())
    if low >= 0 and high <= MOST_LABEL:
        return "png", _png(labels.astype(np.uint8 if high < 256 else np.uint16))
    limits = np.iinfo(np.int32)
    if low < limits.min or high > limits.max:
        raise DataError(f"{name}: holds labels from {low} to {high}; expected int32")
    return "raw", labels.astype("<i4").tobytes()


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=1)
    return file.getvalue()
