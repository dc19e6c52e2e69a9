"""Request bodies as they come: plain, or compressed with gzip and unpacked a piece at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

from keras_unet.serving.server.codes import invalid

_STEP = 1 << 18  # bytes that are unpacked at a time
_MEMBERS = 1000  # gzip files one after the other: a body of empty ones would take long
_WITH_HEADER = 31  # zlib: gzip's header and checksum


class Unpacked(Protocol):
    """Turns what arrives into the body."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces of the body that these bytes hold."""

    def end(self) -> None:
        """Raises Refused if something is missing."""


def unpacked(encoding: str) -> Unpacked:
    """For a Content-Encoding header; as TensorFlow Serving, gzip wherever it is named.

    Raises:
        Refused: another compression.
    """
    if "gzip" in encoding.lower():
        return _Gzip()
    if encoding.strip().lower() in ("", "identity"):
        return _Plain()
    raise invalid(f"a body compressed by {encoding[:40]!r} is not read; gzip is")


class _Plain:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def end(self) -> None:
        pass


class _Gzip:
    def __init__(self) -> None:
        self._member: zlib._Decompress | None = None
        self._members = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        more = False  # output may be left when all input is taken
        while data or more:
            if self._member is None:
                data = data.lstrip(b"\0") if self._members else data  # padding, as gzip has it
                if not data:
                    return
                self._members += 1
                if self._members > _MEMBERS:
                    raise invalid(f"a compressed body of more than {_MEMBERS} gzip members")
                self._member = zlib.decompressobj(_WITH_HEADER)
            member = self._member
            try:
                piece = member.decompress(data, _STEP)
            except zlib.error as error:
                raise invalid(f"the compressed body is no gzip, or damaged ({error})") from None
            if piece:
                yield piece
            more = len(piece) == _STEP and not member.eof
            data = member.unused_data if member.eof else member.unconsumed_tail
            if member.eof:
                self._member = None

    def end(self) -> None:
        if self._member is not None or not self._members:
            raise invalid("the compressed body ends early")
