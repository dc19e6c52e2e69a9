"""What a result file holds, apart from how it is stored: planes, their axes, names and sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from keras_unet.data.pixel_size import PixelSize
from keras_unet.inference.files.scratch import Scratch


class Sheet(NamedTuple):
    """A result that waits in a scratch file to be written.

    Attributes:
        scratch: its planes.
        dtype: of the pixels once written.
        values: scratch pixels to pixels of `dtype`, elementwise; None leaves them as they are.
        axes: what the pages are counted by, outermost first; see `WindowedFile.axes`.
        channels: names of the planes of a page; empty if a page has one plane without a name.
        pixel_size: of the image.
        name: of the image.
        key: text that is the same whenever the content is.
    """

    scratch: Scratch
    dtype: np.dtype
    values: Callable[[np.ndarray], np.ndarray] | None
    axes: Sequence[tuple[str, int]]
    channels: Sequence[str]
    pixel_size: PixelSize | None
    name: str
    key: str

    @property
    def uniform(self) -> bool:
        """Whether all pages have one size."""
        return len({shape[1:] for shape in self.scratch.shapes}) == 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first page."""
        return self.scratch.shapes[0][1:]

    @property
    def dimensions(self) -> tuple[tuple[str, int], ...]:
        """All axes with their lengths: ("Z", 3), ("C", 2), ("Y", 64), ("X", 80)."""
        channels = (("C", len(self.channels)),) if self.channels else ()
        return (*self.axes, *channels, ("Y", self.size[0]), ("X", self.size[1]))

    @property
    def planes(self) -> list[tuple[int, int]]:
        """(page, plane) in the order of the axes."""
        return [
            (page, plane)
            for page, shape in enumerate(self.scratch.shapes)
            for plane in range(shape[0])
        ]

    def read(self, page: int, plane: int, rows: slice, step: int = 1) -> np.ndarray:
        """Rows of a plane [h, W] as they are to be written; see `Scratch.read`."""
        stored = self.scratch.read(page, plane, rows, step)
        return np.asarray(stored if self.values is None else self.values(stored), self.dtype)


def levels(size: tuple[int, int], smallest: int = 2048) -> int:
    """How many halvings of an image for viewers, until its longer side is `smallest` at most."""
    count = 0
    while max(size) > smallest << count:
        count += 1
    return count
