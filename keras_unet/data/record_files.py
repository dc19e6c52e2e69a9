"""TFRecord files of tf.Example (see `records`) as a labelled data set."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_unet.data.images import EXTENSIONS, ImageFile
from keras_unet.data.label_rule import LabelRule
from keras_unet.data.nodata import filled, missing_pixels
from keras_unet.data.pairs import Pair, natural_key
from keras_unet.data.reading import Border, RawPair, check_pair, exact_labels
from keras_unet.data.report import Problem, shown
from keras_unet.errors import DataError

_INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32")  # as images are stored
_GZIP = b"\x1f\x8b"
_HEADER = 12  # bytes before a record: its length and the checksum of that


@dataclass(frozen=True)
class Records:
    """The files of a data set, in natural order; whether they are whole, reading them tells."""

    files: tuple[Path, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecordPair(Pair):
    """An image and its labels in one record; both pages are its number in the file, from 0."""

    @property
    def image_shown(self) -> str:
        return f"{shown(self.image, self.image_page)} ({self.name})"

    @property
    def label_shown(self) -> str:
        return f"{self.image_shown} labels"


def find_records(source: str | Path) -> Records | None:
    """The TFRecord files, with GZIP or without, that `source` means; None if it means none.

    Args:
      source: such a file; a pattern with `*`, `?` or `[…]`; or a folder of such files that holds
        no images.

    Raises:
      DataError: a pattern without a file, or with one that holds no records.
    """
    source = Path(source)
    if re.search(r"[*?[]", str(source)) and not source.exists():
        parts = source.parts[1:] if source.is_absolute() else source.parts
        root = Path(source.anchor) if source.is_absolute() else Path()
        files = _ordered(path for path in root.glob(str(Path(*parts))) if path.is_file())
        strange = [path for path in files if not _holds_records(path)]
        if strange or not files:
            found = f"matches {strange[0]}" if strange else "matches no file"
            raise DataError(f"{source}: {found}; expected TFRecord files")
        return Records(files)
    if source.is_file():
        return None if _is_image(source) or not _holds_records(source) else Records((source,))
    if not source.is_dir() or (source / "images").is_dir():
        return None
    files = _ordered(path for path in source.iterdir() if path.is_file())
    if any(map(_is_image, files)):
        return None
    held = tuple(path for path in files if _holds_records(path))
    others = [path.name for path in files if path not in held]
    many = f"{len(others)} other {'file' if len(others) == 1 else 'files'}"
    notes = (f"{source}: {many} left out: {', '.join(others[:3])}",) if others else ()
    return Records(held, notes=notes) if held else None


def read_records(records: Records, rule: LabelRule) -> Iterator[RawPair]:
    """The records in turn; what fails is told in their `problems`, never raised.

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
                raw = replace(raw, problems=(*raw.problems, _doubled(raw.pair, first)))
            yield raw


def read_record(data: bytes, file: Path, number: int, rule: LabelRule) -> RawPair:
    """One serialised record; `file` and `number` say where it is from."""
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
        lambda: _image(feature, file),
        (lambda: _labels(feature, file)) if labelled else None,
        rule,
        border,
    )


def _image(feature: Any, file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    data, kind = _bytes(feature, "image/encoded"), _bytes(feature, "image/format")
    stated = tuple(_number(feature, f"image/{n}") for n in ("height", "width", "channels"))
    missing = None
    if kind == b"raw":
        image = _pixels(data, "<f4", stated).astype(np.float32)
        missing = missing_pixels(image)
        dtype = _bytes(feature, "image/dtype").decode("utf-8", "replace")
        image = filled(image, missing).astype(dtype) if dtype in _INTEGERS else image
    else:
        image = ImageFile(file, data).image()
    if any(said not in (0, found) for said, found in zip(stated, image.shape, strict=True)):
        raise DataError(f"holds an image of shape {image.shape}; expected {stated}, as it says")
    return image, missing


def _labels(feature: Any, file: Path) -> np.ndarray:
    data, kind = _bytes(feature, "label/encoded"), _bytes(feature, "label/format")
    if kind != b"raw":
        return exact_labels(ImageFile(file, data))
    return _pixels(data, "<i4", _size(feature)).astype(np.int32)


def _border(feature: Any) -> Border | None:
    data = _bytes(feature, "weight/border")
    if not data:
        return None
    weights = _pixels(data, "<f4", _size(feature)).astype(np.float32)
    if not np.all(np.isfinite(weights)) or weights.min() < 0:
        raise DataError("holds a border term that is negative or not finite; expected 0 or more")
    sigma = feature["weight/sigma"].float_list.value
    return Border(weights, sigma[0] if sigma else 0.0, _number(feature, "weight/separation"))


def _size(feature: Any) -> tuple[int, int]:
    return _number(feature, "image/height"), _number(feature, "image/width")


def _pixels(data: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
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
            kind = "GZIP" if opened.read(2) == _GZIP else ""
        yield from tf.data.TFRecordDataset(str(file), kind).as_numpy_iterator()
    except (OSError, tf.errors.OpError) as error:
        said = getattr(error, "message", None) or str(error)
        yield DataError(f"is truncated or damaged ({said.splitlines()[0]:.120})")


def _holds_records(file: Path) -> bool:
    """Whether a file begins as one of tf.Example records does, or has none and says so by name."""
    try:
        with file.open("rb") as opened:
            zipped = opened.read(2) == _GZIP
        with gzip.open(file) if zipped else file.open("rb") as opened:
            head = opened.read(_HEADER + 1)
    except (OSError, EOFError):
        return "tfrecord" in file.name
    if not head:
        return zipped or "tfrecord" in file.name
    length = int.from_bytes(head[:8], "little")
    return len(head) > _HEADER and 0 < length < 1 << 32 and head[_HEADER:] == b"\n"


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS


def _ordered(paths: Any) -> tuple[Path, ...]:
    kept = (path for path in paths if not path.name.startswith("."))
    return tuple(sorted(kept, key=lambda path: (natural_key(path.name), str(path))))


def _doubled(pair: Pair, first: str) -> Problem:
    return Problem(
        file=pair.image_shown, found=f"has the same name as {first}", expected="each name once"
    )


def _unfit(pair: Pair, found: str, expected: str) -> RawPair:
    problem = Problem(file=pair.image_shown, found=found, expected=expected)
    return RawPair(pair, None, None, {}, "", (problem,))
