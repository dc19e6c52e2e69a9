"""Limits of a server: bytes that requests hold, pixels they ask for, the token they must send."""

from __future__ import annotations

import hmac
import re
import struct
import threading
from collections.abc import Mapping

import numpy as np
from pydantic import Field

from keras_unet.data.images import JPEG_FRAMES
from keras_unet.serving.protocol.codes import Code, Refused, invalid, too_large
from keras_unet.settings import Frozen

MIB = 1 << 20
_PNG, _JPEG, _GIF, _BMP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM"
# A file of tiny parts keeps its reader busy for minutes; a real one has thousands at the most.
_MOST_PARTS = 1 << 15
# Each scan of a progressive JPEG is another walk over all its pixels; encoders write about ten.
_MOST_SCANS = 100
_BARE = {*range(0xC0), *range(0xD0, 0xD9)}  # that have no length
_SCAN, _END, _FILL = 0xDA, 0xD9, 0xFF
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")  # among the numbers of a scan


class Limits(Frozen):
    """How much one request, and all of them together, may take; above it, they are refused."""

    request_bytes: int = Field(64 * MIB, ge=1024, description="Bytes of one request.")
    held_bytes: int = Field(512 * MIB, ge=1024, description="Bytes of all requests held at once.")
    pixels: int = Field(
        1 << 26, ge=1, description="Pixels of one request, read from PNG and JPEG headers."
    )
    object_pixels: int = Field(
        1 << 24, ge=1, description="Pixels of one image whose objects are found, 60 bytes each."
    )
    rows: int = Field(256, ge=1, description="Images of one request.")
    seconds: float = Field(60.0, gt=0, description="Time for one request, queue included.")
    slow_seconds: float = Field(
        20.0, gt=0, description="Time for a client to send its headers, and then its body."
    )
    connections: int = Field(4096, ge=1, description="HTTP connections, and gRPC calls, at once.")


class Budget:
    """Counts bytes that are held; refuses what would be too much. Thread-safe."""

    def __init__(self, limits: Limits) -> None:
        self.each = limits.request_bytes
        self._all = limits.held_bytes
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held

    def fits(self, size: int) -> None:
        """Raises Refused if one request is larger than any may be."""
        if size > self.each:
            raise too_large(f"a request of {size} bytes; at most {self.each} are accepted")

    def take(self, size: int) -> None:
        """Counts `size` more bytes.

        Raises:
            Refused: RESOURCE_EXHAUSTED, as all requests together hold too much.
        """
        with self._lock:
            if self._held + size > self._all:
                raise Refused(
                    Code.RESOURCE_EXHAUSTED,
                    f"requests hold {self._held} of {self._all} bytes; try later",
                )
            self._held += size

    def give(self, size: int) -> None:
        """Counts them off again."""
        with self._lock:
            self._held -= size


def count_pixels(inputs: Mapping[str, np.ndarray], most: int) -> int:
    """The pixels of a request: of number arrays [B, H, W, C], and of encoded images.

    Strings that are no image of a known format, and no tf.Example with one in it, count nothing:
    the graph judges them.

    Raises:
        Refused: more than `most` pixels, or an image whose header is broken.
    """
    total = 0
    for name, array in inputs.items():
        if array.dtype != object:
            total += array.shape[0] * array.shape[1] * array.shape[2] if array.ndim == 4 else 0
        else:
            for data in array.ravel():
                size = size_of(data)
                sizes = [size] if size else map(size_of, _in_example(data))
                # an image and its label count once
                total += max((found[0] * found[1] for found in sizes if found), default=0)
                _check_pixels(name, total, most)
        _check_pixels(name, total, most)
    return total


def check_each(inputs: Mapping[str, np.ndarray], most: int) -> None:
    """Refuses an encoded image of more than `most` pixels, whose objects would be found.

    Raises:
        Refused: says which size.
    """
    for name, array in inputs.items():
        for data in array.ravel():
            height, width = size_of(data) or (0, 0)
            if height * width > most:
                raise too_large(
                    f"input {name!r}: an image of {height} x {width} pixels; at most {most} are "
                    "accepted where objects are found"
                )


def size_of(data: bytes) -> tuple[int, int] | None:
    """(height, width) from the header of a PNG, JPEG, GIF or BMP file; None if it is none.

    Those are what TensorFlow's decoders recognise, whatever the graph accepts.

    Raises:
        Refused: the header is broken, or the file has more parts than any image needs.
    """
    try:
        if data.startswith(_PNG):
            return _of_png(data)
        if data.startswith(_JPEG):
            return _of_jpeg(data)
        if data.startswith(_GIF):
            width, height = struct.unpack_from("<HH", data, 6)
            return height, width
        if data.startswith(_BMP):
            old = struct.unpack_from("<I", data, 14)[0] == 12
            width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
            return abs(height), abs(width)  # rows may come from the top: a negative height
    except struct.error:
        raise invalid("not a readable image file: it ends in its header") from None
    return None


def _in_example(data: bytes) -> list[bytes]:
    """The PNG and JPEG files in a tf.Example."""
    if _PNG not in data and _JPEG not in data:
        return []
    from google.protobuf.message import DecodeError
    from tensorflow.core.example import example_pb2

    try:
        example = example_pb2.Example.FromString(data)
    except DecodeError:
        return []
    values = (v for found in example.features.feature.values() for v in found.bytes_list.value)
    return [value for value in values if value.startswith((_PNG, _JPEG))]


def _of_png(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    at = len(_PNG)
    for _ in range(_MOST_PARTS):
        if at + 12 > len(data):
            return height, width
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    raise _too_many("PNG", _MOST_PARTS, "chunks")


def _of_jpeg(data: bytes) -> tuple[int, int]:
    size: tuple[int, int] | None = None
    at, scans = 2, 0
    for _ in range(_MOST_PARTS):
        at = data.find(b"\xff", at)  # decoders skip what lies between two segments
        marker = data[at + 1] if 0 <= at < len(data) - 1 else _END
        if marker == _END:
            break
        if marker == _FILL:  # any number of these may precede a marker
            at += 1
        elif marker in _BARE:
            at += 2
        else:
            if marker in JPEG_FRAMES and size is None:
                height, width = struct.unpack_from(">HH", data, at + 5)
                size = height, width
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
            if marker == _SCAN:
                scans += 1
                found = _MARKER.search(data, at)
                at = found.start() if found else len(data)
        if scans > _MOST_SCANS:
            raise _too_many("JPEG", _MOST_SCANS, "scans")
    else:
        raise _too_many("JPEG", _MOST_PARTS, "segments")
    if size is None:
        raise invalid("not a readable JPEG file: no size in its header")
    return size


def _too_many(form: str, most: int, parts: str) -> Refused:
    return invalid(f"{form} file of more than {most} {parts}")


def _check_pixels(name: str, total: int, most: int) -> None:
    if total > most:
        raise too_large(
            f"input {name!r}: {total} pixels or more; at most {most} are accepted in one request"
        )


class Token:
    """Compares what a client sent, in a time that tells nothing."""

    def __init__(self, token: str) -> None:
        self._expected = token.encode()

    def __call__(self, authorization: str | bytes) -> bool:
        """Whether an Authorization header holds the token; its scheme is in any case."""
        given = authorization.encode() if isinstance(authorization, str) else authorization
        scheme, _, token = given.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._expected)
