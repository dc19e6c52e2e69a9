"""Photometric interpretation of a TIFF page: grey levels, inverted or not, palettes, inks.

Compression does not matter: samples come as they were before the writer compressed them.
Source: TIFF 6.0, section 8 (tag 262, PhotometricInterpretation) and sections 16, 21.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from tifffile import PHOTOMETRIC

from keras_unet.data.stored_pixels import from_cmyk
from keras_unet.errors import DataError

JPEG = (6, 7, 33007, 34892)  # compressions: old, new, and two more of the kind
_YCBCR_OF_JPEG = {529: (0.299, 0.587, 0.114), 532: (0, 255, 128, 255, 128, 255)}
_CMYK = 1  # of tag 332, InkSet


def refuse_unknown(path: Any, page: Any) -> None:
    """Raises DataError if it isn't known how the page's colours become RGB."""
    kind, found = page.photometric, ""
    expected = "expected grey, RGB, a palette or CMYK: convert it to RGB"
    if getattr(kind, "name", "") in ("CIELAB", "ICCLAB", "ITULAB", "LOGL", "LOGLUV"):
        found = f"{kind.name} colours"
    elif page.bitspersample == 24 and page.dtype.kind != "f":
        found = "integers of 24 bits, whose byte order readers disagree on"
        expected = "expected 8, 16 or 32 bits"
    elif kind == PHOTOMETRIC.PALETTE and page.samplesperpixel != 1:
        found = f"a palette with {page.samplesperpixel} samples a pixel"
    elif _is_cmyk(page) and page.bitspersample not in (8, 16):
        found = f"CMYK colours of {page.bitspersample} bits"
    elif _is_ycbcr(page) and not _is_ycbcr_of_jpeg(page):
        found = "YCbCr colours that JPEG didn't compress, subsampled or of a scale of their own"
    if found:
        raise DataError(f"{path}: holds {found}; {expected}")


def shown(array: np.ndarray, page: Any) -> np.ndarray:
    """Samples [H, W, S] as the image [H, W, C] that they stand for.

    Palettes become their colours, CMYK and YCbCr RGB; 1, 2 and 4 bits are spread over 0 to 255;
    where white is 0 (MinIsWhite), grey levels are inverted: the largest that the bits hold less
    the level, for floating point 1 less the level. Other numbers stay as they are.

    Args:
        page: tifffile's, which `refuse_unknown` let pass.
    """
    if is_palette(page):
        return _colours(page)[array[..., 0].astype(np.intp)]
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        grey = array.shape[2] - has_opacity(page)
        array = np.concatenate(
            [_inverted(array[..., :grey], page.bitspersample), array[..., grey:]], axis=-1
        )
    if _is_cmyk(page):
        array = np.concatenate([from_cmyk(array[..., :4]), array[..., 4:]], axis=-1)
    elif _is_ycbcr(page):
        picture = Image.fromarray(np.ascontiguousarray(array[..., :3]), "YCbCr").convert("RGB")
        array = np.concatenate([np.asarray(picture), array[..., 3:]], axis=-1)
    if page.bitspersample in (1, 2, 4):
        array = array.astype(np.uint8) * np.uint8(255 // (2**page.bitspersample - 1))
    return array


def numbers(array: np.ndarray, page: Any) -> np.ndarray:
    """Samples [H, W, S] as label values: as they are stored, whatever they are shown as.

    Only black and white (one bit, no palette) has no numbers of its own: 0 and 255, as shown.
    """
    if array.dtype == bool and not is_palette(page):
        return shown(array, page)
    return array.astype(np.uint8) if array.dtype == bool else array


def palette(page: Any) -> np.ndarray | None:
    """The colours that numbers are shown in, uint8 [N, 3]: a palette's, or grey from white on.

    None where grey is shown from black on, as everywhere else, and with more than 16 bits.
    """
    if is_palette(page):
        return _colours(page)
    if page.photometric != PHOTOMETRIC.MINISWHITE or not 1 < page.bitspersample <= 16:
        return None
    grey = np.linspace(255, 0, 2**page.bitspersample).astype(np.uint8)
    return np.repeat(grey[:, None], 3, axis=1)


def is_palette(page: Any) -> bool:
    return page.photometric == PHOTOMETRIC.PALETTE and page.colormap is not None


def has_opacity(page: Any) -> bool:
    """Whether the last sample of a pixel is its opacity rather than a measured value."""
    extra = page.extrasamples
    return len(extra) == 1 and int(extra[0]) in (1, 2)  # associated or not


def _colours(page: Any) -> np.ndarray:
    """uint8 [N, 3]; some writers leave 8 bits in the places of 16."""
    colours = page.colormap
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8).T


def _inverted(grey: np.ndarray, bits: int) -> np.ndarray:
    if grey.dtype.kind == "b":
        return ~grey
    if grey.dtype.kind == "u":
        return grey.dtype.type(2**bits - 1) - grey
    return ~grey if grey.dtype.kind == "i" else 1 - grey


def _is_cmyk(page: Any) -> bool:
    separated = page.photometric == PHOTOMETRIC.SEPARATED
    return separated and page.samplesperpixel >= 4 and page.tags.valueof(332, _CMYK) == _CMYK


def _is_ycbcr(page: Any) -> bool:
    """Whether samples come as YCbCr: those that JPEG compressed together come as RGB."""
    as_rgb = page.compression in JPEG and page.planarconfig == 1 and not page.extrasamples
    return page.photometric == PHOTOMETRIC.YCBCR and not as_rgb


def _is_ycbcr_of_jpeg(page: Any) -> bool:
    """Whether 8-bit YCbCr is on the scale of JFIF (BT.601, all of 0 to 255)."""

    def as_jfif(item: tuple[int, tuple[float, ...]]) -> bool:
        tag, expected = item
        found = np.asarray(page.tags.valueof(tag, expected), np.float64)
        if found.size == 2 * len(expected):  # fractions
            found = found[::2] / found[1::2]
        return found.shape == np.shape(expected) and np.allclose(found, expected, atol=1e-3)

    eight = page.bitspersample == 8 and page.samplesperpixel >= 3
    return eight and not page.is_subsampled and all(map(as_jfif, _YCBCR_OF_JPEG.items()))
