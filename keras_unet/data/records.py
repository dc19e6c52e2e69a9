"""TFRecord files of tf.Example: how an image and its labels are stored, for training and serving.

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

The last four are for training and may be absent; `read_records` reads them, serving does not.
Label values are those of the label file (see `LabelMapping`), not class numbers.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keras_unet.data.images import ImageFile
from keras_unet.data.label_rule import LabelRule
from keras_unet.data.pairs import GZIP, Pair, Problem, Records, shown
from keras_unet.data.samples import Border, RawPair, check_pair, exact_labels
from keras_unet.data.stored_pixels import filled, missing_pixels
from keras_unet.errors import DataError

FeatureValues = bytes | Sequence[int] | Sequence[float]
MOST_LABEL = 65535  # in a PNG
_SIZES = ("height", "width", "channels")
_INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32")  # as images are stored


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
    more: Mapping[str, FeatureValues] | None = None,
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
    kind, data = _encoded_image(name, image)
    label_kind, label_data = ("", b"") if labels is None else _encoded_labels(name, labels)
    height, width, channels = image.shape
    values: dict[str, FeatureValues] = {
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


def decode_image(
    record: Mapping[str, Any], channels: int, max_pixels: int | None = None
) -> tuple[Any, Any]:
    """The image of a parsed record: (float32 [H, W, C], bits a channel of its file, 0 for raw).

    Sizes and channels that the record states must be those of the file; 0 states nothing.
    """
    import tensorflow as tf

    from keras_unet.data.graph_images import MAX_PIXELS, OF_SIZE, checked_tensor, decode, few_enough

    most = MAX_PIXELS if max_pixels is None else max_pixels
    data, stated = record["image/encoded"], [record[f"image/{n}"] for n in _SIZES]

    def raw() -> Any:
        few = few_enough(stated[0], stated[1], most)
        whole = checked_tensor(data, few, OF_SIZE, stated[0], stated[1], most)
        return _decode_raw(whole, tf.float32, tf.stack(stated)), tf.constant(0, tf.int64)

    def picture() -> Any:
        if channels not in (1, 3):
            return tf.zeros([0, 0, 0]), tf.constant(0, tf.int64)  # refused below
        image, bits = decode(data, channels, most)
        return tf.cast(image, tf.float32), bits

    image, bits = tf.cond(record["image/format"] == "raw", raw, picture)
    shape = tf.shape(image, tf.int64)
    image = checked_tensor(
        image,
        tf.reduce_all((shape == stated) | (tf.stack(stated) == 0)) & (shape[2] == channels),
        "image of shape {} in a record that says {}, 0 for nothing; channels expected: {}",
        shape,
        tf.stack(stated),
        channels,
    )
    return tf.ensure_shape(image, [None, None, channels]), bits


def _decode_raw(data: Any, dtype: Any, shape: Any) -> Any:
    """Numbers of 4 bytes, little-endian, in `shape` (int64 [rank])."""
    import tensorflow as tf

    from keras_unet.data.graph_images import checked_tensor

    length = tf.strings.length(data)
    data = checked_tensor(
        data,
        tf.cast(length, tf.int64) == 4 * tf.reduce_prod(shape),
        "raw pixels of {} bytes; expected 4 bytes a number in shape {}",
        length,
        shape,
    )
    return tf.reshape(tf.io.decode_raw(data, dtype), shape)


def _feature(value: FeatureValues) -> Any:
    import tensorflow as tf

    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    if any(isinstance(number, float) for number in value):
        return tf.train.Feature(float_list=tf.train.FloatList(value=value))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=value))


def _encoded_image(name: str, image: np.ndarray) -> tuple[str, bytes]:
    kind, channels = str(image.dtype), image.shape[2]
    if kind == "uint8" and channels in (1, 3):
        return "png", _png(image[..., 0] if channels == 1 else image)
    if kind == "uint16" and channels == 1:
        return "png", _png(image[..., 0])
    pixels = image.astype("<f4")
    if image.dtype.kind in "ui" and not np.array_equal(pixels.astype(np.float64), image):
        raise DataError(f"{name}: holds {image.dtype} beyond 2^24; expected what float32 can hold")
    return "raw", pixels.tobytes()


def _encoded_labels(name: str, labels: np.ndarray) -> tuple[str, bytes]:
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


@dataclass(frozen=True)
class RecordPair(Pair):
    """An image and its labels in one record; both pages are its number in the file, from 0."""

    @property
    def image_shown(self) -> str:
        return f"{shown(self.image, self.image_page)} ({self.name})"

    @property
    def label_shown(self) -> str:
        return f"{self.image_shown} labels"


def read_records(records: Records, rule: LabelRule) -> Iterator[RawPair]:
    """The records in turn; what fails is in their `problems`, never raised.

    Problems are those of `PairReader`, a damaged record or file, and a name that came before.
    """
    seen: dict[str, str] = {}
    for file in records.files:
        for number, data in enumerate(_serialized(file)):
            if isinstance(data, DataError):
                pair = RecordPair("", file, None, number)
                yield _unfit(pair, str(data), "whole records: write the file again")
                continue
            raw = read_record(data, file, number, rule)
            first = seen.setdefault(raw.pair.name, raw.pair.image_shown)
            if first != raw.pair.image_shown:
                found, shown_as = f"has the same name as {first}", raw.pair.image_shown
                doubled = Problem(file=shown_as, found=found, expected="each name once")
                raw = replace(raw, problems=(*raw.problems, doubled))
            yield raw


def read_record(data: bytes, file: Path, number: int, rule: LabelRule) -> RawPair:
    """One serialised record; `file` and `number`: where it is from."""
    import tensorflow as tf

    try:
        feature = tf.train.Example.FromString(data).features.feature
    except Exception:  # protobuf's DecodeError is not the same class in all its versions
        pair = RecordPair("", file, None, number)
        return _unfit(pair, "is no tf.Example", "records as keras_unet.data.records describes")

    def text(key: str) -> str:
        return _bytes(feature, key).decode("utf-8", "replace")

    name = text("image/name") or f"{file.name}:{number:03d}"
    labelled = bool(text("label/format") or _bytes(feature, "label/encoded"))
    pair = RecordPair(
        name,
        file,
        file if labelled else None,
        number,
        number if labelled else None,
        text("image/group"),
    )
    try:
        border = _border(feature)
    except DataError as error:
        return _unfit(pair, *str(error).split("; expected "))
    return check_pair(
        pair,
        lambda: _read_image(feature, file),
        (lambda: _read_labels(feature, file)) if labelled else None,
        rule,
        border,
    )


def _read_image(feature: Any, file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    data, kind = _bytes(feature, "image/encoded"), _bytes(feature, "image/format")
    stated = tuple(_number(feature, f"image/{n}") for n in ("height", "width", "channels"))
    missing = None
    if kind == b"raw":
        image = _raw_pixels(data, "<f4", stated).astype(np.float32)
        missing = missing_pixels(image)
        dtype = _bytes(feature, "image/dtype").decode("utf-8", "replace")
        image = filled(image, missing).astype(dtype) if dtype in _INTEGERS else image
    else:
        image = ImageFile(file, data).image()
    if any(said not in (0, found) for said, found in zip(stated, image.shape, strict=True)):
        raise DataError(f"holds an image of shape {image.shape}; expected {stated}, as it says")
    return image, missing


def _read_labels(feature: Any, file: Path) -> np.ndarray:
    data, kind = _bytes(feature, "label/encoded"), _bytes(feature, "label/format")
    if kind != b"raw":
        return exact_labels(ImageFile(file, data))
    return _raw_pixels(data, "<i4", _size(feature)).astype(np.int32)


def _border(feature: Any) -> Border | None:
    data = _bytes(feature, "weight/border")
    if not data:
        return None
    weights = _raw_pixels(data, "<f4", _size(feature)).astype(np.float32)
    if not np.all(np.isfinite(weights)) or weights.min() < 0:
        raise DataError("holds a border term that is negative or not finite; expected 0 or more")
    sigma = feature["weight/sigma"].float_list.value
    return Border(weights, sigma[0] if sigma else 0.0, _number(feature, "weight/separation"))


def _size(feature: Any) -> tuple[int, int]:
    return _number(feature, "image/height"), _number(feature, "image/width")


def _raw_pixels(data: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    if min(shape) < 1 or len(data) != 4 * math.prod(shape):
        raise DataError(
            f"holds raw pixels of {len(data)} bytes; expected 4 bytes a number in shape {shape}"
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _bytes(feature: Any, key: str) -> bytes:
    value = feature[key].bytes_list.value if key in feature else ()
    return value[0] if value else b""


def _number(feature: Any, key: str) -> int:
    value = feature[key].int64_list.value if key in feature else ()
    return int(value[0]) if value else 0


def _serialized(file: Path) -> Iterator[bytes | DataError]:
    """The records of a file; where it is damaged, an error ends them."""
    import tensorflow as tf

    try:
        with file.open("rb") as opened:
            kind = "GZIP" if opened.read(2) == GZIP else ""
        yield from tf.data.TFRecordDataset(str(file), kind).as_numpy_iterator()
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "message", None) or str(error)
        yield DataError(f"is truncated or damaged ({reason.splitlines()[0]:.120})")


def _unfit(pair: Pair, found: str, expected: str) -> RawPair:
    problem = Problem(file=pair.image_shown, found=found, expected=expected)
    return RawPair(pair, None, None, {}, "", (problem,))
