"""Pixels that were never measured: NaN, the value of the tag GDAL_NODATA, what a mask leaves out.

They count neither in statistics nor in the loss nor in a score; the network sees the value there
that normalisation makes 0. In floating point images they are NaN; integers have no such number, so
there a mask [H, W] says which they are.
Source: GDAL's driver GTiff (tag 42113, GDAL_NODATA), TIFF 6.0 (NewSubfileType, transparency mask).
"""

from __future__ import annotations

import numpy as np

WHAT = "nodata: NaN, the tag GDAL_NODATA or a transparency mask"
TOLERANCE = 1e-6  # relative: tags hold floating point numbers as text, of fewer digits at times


def parsed(text: object) -> float | None:
    """The number in a tag GDAL_NODATA, None where there is none."""
    try:
        return float(str(text).strip(" \0\n\t").replace(",", "."))
    except ValueError:
        return None


def missing_pixels(pixels: np.ndarray, nodata: float | None = None) -> np.ndarray | None:
    """Which pixels of [H, W, C] were not measured: bool [H, W], None where all were.

    A pixel is missing if any channel is NaN or has the value `nodata`; of unsigned integers, whose
    smallest and largest numbers are colours too, if all channels have it.
    """
    if pixels.dtype.kind == "f":
        found = np.isnan(pixels)
        if nodata is not None and not np.isnan(nodata):
            with np.errstate(over="ignore"):
                value = np.asarray(nodata).astype(pixels.dtype)
            found |= np.isclose(pixels, value, rtol=TOLERANCE, atol=0)
    elif nodata is not None and nodata == np.clip(nodata, *_limits(pixels.dtype)):
        found = pixels == nodata
    else:
        return None
    if not found.any():
        return None
    missing = found.all(axis=-1) if pixels.dtype.kind == "u" else found.any(axis=-1)
    return missing if missing.any() else None


def as_nan(pixels: np.ndarray, missing: np.ndarray | None) -> np.ndarray:
    """[H, W, C] with NaN in what is missing: float32; the same array where nothing is."""
    if missing is None:
        return pixels
    out = pixels.astype(np.float32)
    out[missing] = np.nan
    return out


def filled(
    pixels: np.ndarray, missing: np.ndarray | None, value: np.ndarray | None = None
) -> np.ndarray:
    """[H, W, C] in its dtype with a number in what is missing; the same array where nothing is.

    Args:
        value: [C]; None: the mean of the measured pixels, 0 if there is none.
    """
    if missing is None:
        return pixels
    if value is None:
        measured = pixels[~missing]
        value = measured.mean(axis=0, dtype=np.float64) if len(measured) else np.zeros(1)
    if pixels.dtype.kind in "ui":
        value = np.rint(value).clip(*_limits(pixels.dtype))
    out = pixels.copy()
    out[missing] = value.astype(pixels.dtype)
    return out


def _limits(dtype: np.dtype) -> tuple[int, int]:
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)
