"""Zarr arrays and OME-Zarr images window by window; needs the package zarr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_unet.data.stored_pixels import (
    MOST_CHANNELS,
    PixelSize,
    WindowedFile,
    WindowedImage,
    in_micrometres,
    pixel_size,
)
from keras_unet.errors import DataError


def import_zarr() -> Any:
    """The package zarr.

    Raises:
        DataError: it is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise DataError('Zarr needs the package zarr: pip install "unet-keras[zarr]"') from error
    return zarr


class ZarrWindows(WindowedFile):
    """A Zarr array, or an OME-Zarr image at its highest resolution, as windowed images.

    The axes are those that the OME metadata name, else those of `dimension_names` (Zarr 3) or
    `_ARRAY_DIMENSIONS` (xarray). An array without names is [Y, X]; [Z, Y, X]; or with channels
    first or last if it is three-dimensional and that axis has as many entries as the model has
    channels.

    Args:
        path: the folder.
        channels: how many the model expects.

    Raises:
        DataError: no Zarr, several images, axes that no image has, zarr not installed.
    """

    def __init__(self, path: Path, channels: int | None = None) -> None:
        self.path = path
        array, names, scales = _open(path)
        self._array = array
        names = tuple(names) or _guessed(array.shape, channels)
        if not names or len(names) != array.ndim or len(set(names)) != len(names):
            raise DataError(
                f"{path}: has shape {array.shape} and the axes {list(names)}; expected a name for "
                "each axis, as OME-Zarr or dimension_names give it"
            )
        self._names = tuple(name.upper() for name in names)
        sizes = dict(zip(self._names, array.shape, strict=True))
        if not {"Y", "X"} <= set(sizes) or set(sizes) - set("TCZYXS"):
            raise DataError(
                f"{path}: has the axes {_shown(sizes)}; expected y and x, and beside them only "
                "t, c and z"
            )
        count = sizes.get("C", 1) * sizes.get("S", 1)
        outer = [(name, sizes[name]) for name in self._names if name in "TZ"]
        self.axes = tuple((name, size) for name, size in outer if size > 1)
        pages = int(np.prod([size for _, size in outer], dtype=np.int64))
        self.shapes = [(sizes["Y"], sizes["X"], count)] * pages
        self._outer = outer
        self.pixel_size = _pixel_size(scales)

    def page(self, number: int) -> WindowedImage:
        shape = self.shapes[number]
        outer = np.unravel_index(number, [size for _, size in self._outer]) if self._outer else ()
        fixed = dict(zip([name for name, _ in self._outer], map(int, outer), strict=True))
        rows = self._array.chunks[self._names.index("Y")]
        order = [name for name in self._names if name not in fixed]

        def load(i: int, j: int) -> np.ndarray:
            span = slice(i * rows, min((i + 1) * rows, shape[0]))
            window = {**fixed, "Y": span}
            try:
                block = self._array[tuple(window.get(name, slice(None)) for name in self._names)]
            except Exception as error:  # by the codec and the store, any kind
                raise DataError(
                    f"{self.path}: damaged: its pixels cannot be read ({error})"
                ) from error
            block = np.asarray(block)
            if block.dtype == bool:
                block = np.where(block, np.uint8(255), np.uint8(0))
            block = block.transpose([order.index(n) for n in "YXCS" if n in order])
            return block.reshape(span.stop - span.start, shape[1], shape[2])

        dtype = np.dtype(np.uint8) if self._array.dtype == bool else self._array.dtype
        return WindowedImage(self.path, shape, dtype, (rows, shape[1]), load)


def _open(path: Path) -> tuple[Any, Sequence[str], Mapping[str, tuple[float, str | None]]]:
    """Array, names of its axes (none if not stated), size and unit of a step along each."""
    zarr = import_zarr()
    try:
        node = zarr.open(str(path), mode="r")
        attributes = dict(node.attrs)
        attributes = {**attributes, **attributes.get("ome", {})}  # OME-Zarr 0.5
        if hasattr(node, "ndim"):
            stated = getattr(getattr(node, "metadata", None), "dimension_names", None)
            names = stated or attributes.get("_ARRAY_DIMENSIONS", ())
            return node, [str(name) for name in names], {}
        if "multiscales" not in attributes:
            raise DataError(
                f"{path}: is a Zarr group with {', '.join(sorted(node)[:6]) or 'nothing'} in it; "
                "expected an array or an OME-Zarr image (one of these, such as "
                f"{path}/0)"
            )
        image = attributes["multiscales"][0]
        best = image["datasets"][0]  # by the specification, highest resolution first
        axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in image["axes"]]
        names = [axis["name"] for axis in axes]
        steps = np.ones(len(names))
        for source in (best, image):
            for transformation in source.get("coordinateTransformations", ()):
                if transformation.get("type") == "scale":
                    steps = steps * np.asarray(transformation["scale"], float)
        scales = {
            axis["name"].upper(): (float(step), axis.get("unit"))
            for axis, step in zip(axes, steps, strict=True)
        }
        return node[best["path"]], names, scales
    except DataError:
        raise
    except Exception as error:  # what is wrong with the metadata, in any kind of error
        raise DataError(f"{path}: cannot be read as Zarr ({error!r})") from error


def _guessed(shape: tuple[int, ...], channels: int | None) -> tuple[str, ...]:
    if len(shape) == 2:
        return ("y", "x")
    if len(shape) != 3:
        return ()
    if channels is not None and 1 < channels == shape[0]:
        return ("c", "y", "x")
    if shape[-1] == channels or shape[-1] <= MOST_CHANNELS:
        return ("y", "x", "c")
    return ("z", "y", "x")


def _pixel_size(scales: Mapping[str, tuple[float, str | None]]) -> PixelSize | None:
    sizes = [in_micrometres(*scales[axis]) if axis in scales else None for axis in "YXZ"]
    return pixel_size(*sizes)


def _shown(sizes: Mapping[str, int]) -> str:
    return " x ".join(f"{name.lower()} {size}" for name, size in sizes.items())
