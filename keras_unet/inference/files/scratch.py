"""Unfinished results on disk: planes written row by row, and read back in any order."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import DTypeLike


class Scratch(AbstractContextManager["Scratch"]):
    """A raw file of planes [H, W], several a page, pages of any sizes; opened again, it goes on.

    Plain reads and writes rather than a memory map: mapped pages count as this process's memory.

    Args:
        path: of the file; made if absent.
        shapes: (planes, H, W) of each page.
        dtype: of the pixels.
    """

    def __init__(
        self, path: Path, shapes: Sequence[tuple[int, int, int]], dtype: DTypeLike
    ) -> None:
        self.path = path
        self.shapes = tuple(shapes)
        self.dtype = np.dtype(dtype)
        sizes = [int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize for shape in shapes]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def write(self, page: int, row: int, band: np.ndarray) -> None:
        """Puts `band` [h, W, planes] at `row` of a page."""
        for plane in range(band.shape[2]):
            rows = np.ascontiguousarray(band[..., plane], self.dtype)
            data = memoryview(rows.view(np.uint8).data).cast("B")
            at = self._at(page, plane, row)
            while data:  # a disk that fills up takes a part before it refuses the rest
                count = os.pwrite(self._file, data, at)
                data, at = data[count:], at + count

    def read(self, page: int, plane: int, rows: slice, step: int = 1) -> np.ndarray:
        """Rows start … stop - 1 of a plane; with `step`, every so many-th row and column."""
        if step == 1:
            return self._rows(page, plane, rows.start, rows.stop - rows.start)
        taken = range(rows.start, rows.stop, step)
        out = np.empty((len(taken), -(-self.shapes[page][2] // step)), self.dtype)
        for number, row in enumerate(taken):
            out[number] = self._rows(page, plane, row, 1)[0, ::step]
        return out

    def _rows(self, page: int, plane: int, first: int, count: int) -> np.ndarray:
        width = self.shapes[page][2]
        data = bytearray(count * width * self.dtype.itemsize)
        view, at = memoryview(data), self._at(page, plane, first)
        while view:
            got = os.preadv(self._file, [view], at)
            if not got:
                raise OSError(f"{self.path}: ends before row {first + count}")
            view, at = view[got:], at + got
        return np.frombuffer(data, self.dtype).reshape(count, width)

    def _at(self, page: int, plane: int, row: int) -> int:
        _, height, width = self.shapes[page]
        return self._starts[page] + (plane * height + row) * width * self.dtype.itemsize

    def sync(self) -> None:
        """Returns when what was written has reached the disk."""
        os.fsync(self._file)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)
