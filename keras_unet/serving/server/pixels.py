"""How many pixels a request asks for, known before any of them is decoded."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_unet.serving.server.codes import invalid, too_large

# what TensorFlow's decoders recognise, whatever the graph accepts
_FORMATS = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"BM": "BMP"}


def count(inputs: Mapping[str, np.ndarray], most: int) -> int:
    """The pixels of a request: of number arrays [B, H, W, C], and of encoded images.

    Strings that are no image of a known format count nothing: the graph judges them.

    Raises:
        Refused: more than `most` pixels, or an image whose header is broken.
    """
    total = 0
    for name, array in inputs.items():
        if array.dtype != object:
            total += array.shape[0] * array.shape[1] * array.shape[2] if array.ndim == 4 else 0
        else:
            for data in array.ravel():
                height, width = size_of(data) or (0, 0)
                total += height * width
                _check(name, total, most)
        _check(name, total, most)
    return total


def size_of(data: bytes) -> tuple[int, int] | None:
    """(height, width) from the header of a PNG, JPEG, GIF or BMP file; None if it is none.

    Raises:
        Refused: the header is broken.
    """
    form = next((name for magic, name in _FORMATS.items() if data.startswith(magic)), None)
    if form is None:
        return None
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=[form]) as image:
                width, height = image.size
    except Image.DecompressionBombError as error:
        raise too_large(str(error)) from None
    except Exception as error:  # whatever a broken file makes Pillow raise
        raise invalid(f"not a readable {form} file: {error}") from None
    return height, width


def _check(name: Any, total: int, most: int) -> None:
    if total > most:
        raise too_large(
            f"input {name!r}: {total} pixels or more; at most {most} are accepted in one request"
        )
