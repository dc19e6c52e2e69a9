"""Windows of images on disk: read one by one, so that memory does not grow with an image's size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from keras_unet.data.stored_pixels import (
    UPRIGHT,
    PixelSize,
    missing_pixels,
    pixel_type,
    refuse_transparency,
    stored_window,
    upright,
    upright_shape,
)
from keras_unet.errors import DataError


class WindowedImage:
    """An image [H, W, C] cut into blocks, which are loaded when a window needs them.

    The blocks of the last window are kept: reading from top to bottom in strips that
    overlap loads each block once.

    Args:
        path: for messages.
        shape: (H, W, C) of the pixels as they are stored.
        dtype: of what `load` returns.
        block: height and width of a block; those at the lower and right border are cut off.
        load: block row and block column to pixels [h, w, C].
        opacity: the last channel of what `load` returns is opacity, one more than C: it is
            dropped if everything is opaque.
        orientation: 1 to 8, how the stored pixels are turned to be displayed (see `upright`).
        nodata: the value of pixels that were never measured.
        mask: of one channel and the same size, 0 where there is no pixel.

    Attributes:
        shape: (H, W, C) as displayed, as are the windows that `read` gives; `block` is as stored.
    """

    def __init__(
        self,
        path: str | Path,
        shape: tuple[int, int, int],
        dtype: np.dtype,
        block: tuple[int, int],
        load: Callable[[int, int], np.ndarray],
        *,
        opacity: bool = False,
        orientation: int = UPRIGHT,
        nodata: float | None = None,
        mask: WindowedImage | None = None,
    ) -> None:
        if 0 in shape:
            raise DataError(f"{path}: is {shape[0]}x{shape[1]}; expected pixels")
        self.path = Path(path)
        self.shape = upright_shape(shape, orientation)
        self.dtype = pixel_type(path, dtype)
        self.block = block
        self._load = load
        self._opacity = opacity
        self._orientation = orientation
        self._nodata, self._mask = nodata, mask
        self._stored = shape
        self._kept: dict[tuple[int, int], np.ndarray] = {}

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """The window [h, w, C] in `dtype`; 0 <= start < stop <= size.

        Raises:
            DataError: the file is damaged, or partly transparent.
        """
        stored = stored_window(rows, columns, self.shape, self._orientation)
        return upright(self._read(*stored), self._orientation)

    def missing(self, rows: slice, columns: slice, window: np.ndarray) -> np.ndarray | None:
        """Which pixels of what `read` gave were never measured: bool [h, w]; None: all were."""
        found = missing_pixels(window, self._nodata)
        if self._mask is None:
            return found
        outside = self._mask.read(rows, columns)[..., 0] == 0
        return outside if found is None else found | outside

    def _read(self, rows: slice, columns: slice) -> np.ndarray:
        shape = (rows.stop - rows.start, columns.stop - columns.start, self._stored[2])
        out = np.empty(shape, self.dtype)
        used: dict[tuple[int, int], np.ndarray] = {}
        for i, inside_y, outside_y in _overlaps(rows, self.block[0]):
            for j, inside_x, outside_x in _overlaps(columns, self.block[1]):
                block = self._kept.get((i, j))
                if block is None:
                    block = self._checked(i, j)
                used[i, j] = block
                with np.errstate(over="ignore"):  # float64's least number may mark missing pixels
                    out[outside_y, outside_x] = block[inside_y, inside_x]
        self._kept = used
        return out

    def _checked(self, i: int, j: int) -> np.ndarray:
        block = self._load(i, j)
        if self._opacity:
            refuse_transparency(self.path, block[..., -1])
            block = block[..., :-1]
        expected = tuple(
            min(length, size - index * length)
            for length, size, index in zip(self.block, self._stored[:2], (i, j), strict=True)
        )
        if block.shape != (*expected, self._stored[2]):
            raise DataError(
                f"{self.path}: damaged: found a block of {block.shape}, expected "
                f"{(*expected, self._stored[2])}"
            )
        return block


class WindowedFile(AbstractContextManager["WindowedFile"]):
    """An open file of one image or several: what each kind of file has in common.

    Attributes:
        path: of the file.
        shapes: (H, W, C) of each image, in order.
        axes: what the images are counted by, outermost first: (("T", 3), ("Z", 10)); empty for a
            single image; ("Z", n) where the file leaves it open.
        pixel_size: None if the file states none.
        left_out: what a TIFF holds beside its images, see `TiffStack`.
    """

    path: Path
    shapes: Sequence[tuple[int, int, int]]
    axes: tuple[tuple[str, int], ...] = ()
    pixel_size: PixelSize | None = None
    left_out: tuple[str, ...] = ()

    def page(self, number: int) -> WindowedImage:
        """Image `number`, from 0."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to close, unless a kind of file needs it."""

    def __len__(self) -> int:
        return len(self.shapes)

    def __exit__(self, *unused: object) -> None:
        self.close()


def _overlaps(span: slice, length: int) -> list[tuple[int, slice, slice]]:
    """(number of a block, part within the block, part within the span) of each block in a span."""
    found = []
    for number in range(span.start // length, -(-span.stop // length)):
        start, stop = max(span.start, number * length), min(span.stop, (number + 1) * length)
        found.append(
            (
                number,
                slice(start - number * length, stop - number * length),
                slice(start - span.start, stop - span.start),
            )
        )
    return found
