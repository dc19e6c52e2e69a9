"""CCITT compression of black and white TIFF pages, for Python 3.10: its tifffile knows none.

Pillow decodes it, but also inverts and turns as it sees fit. So it is given a file that states
nothing to apply: the page's own strips or tiles, black as 0, upright.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
from PIL import Image

COMPRESSIONS = (2, 3, 4)  # run lengths, Group 3, Group 4
_LAYOUT = (256, 257, 258, 259, 266, 277, 278, 292, 293, 322, 323)  # tags that say how it is coded
_HEADER = 8  # bytes
_LONG = 4  # type of a number


def decode(page: Any) -> np.ndarray:
    """The bits of a page as they are stored: bool [H, W].

    Args:
        page: tifffile's.

    Raises:
        OSError: damaged.
    """
    handle = page.parent.filehandle
    segments = []
    with handle.lock:
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            handle.seek(offset)
            segments.append(handle.read(count))
    counts = [len(segment) for segment in segments]
    starts = [_HEADER + sum(counts[:n]) for n in range(len(counts))]
    places, lengths = (324, 325) if page.is_tiled else (273, 279)
    tags = {code: [int(page.tags[code].value)] for code in _LAYOUT if code in page.tags}
    tags |= {262: [1], places: starts, lengths: counts}  # 262: MinIsBlack
    body = b"".join(segments)
    entries = b""
    for code, values in sorted(tags.items()):
        data = struct.pack(f"<{len(values)}I", *values)
        if len(values) > 1:
            data, body = struct.pack("<I", _HEADER + len(body)), body + data
        entries += struct.pack("<HHI", code, _LONG, len(values)) + data
    head = struct.pack("<2sHI", b"II", 42, _HEADER + len(body))
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    with Image.open(io.BytesIO(head + body + directory), formats=("TIFF",)) as picture:
        return np.asarray(picture)
