"""What every kind of object file is written from: the measured objects of one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from keras_unet.inference.objects.measurements import Table
from keras_unet.inference.objects.polygons import Outline

Color = tuple[int, int, int]


@dataclass(frozen=True)
class ObjectSlice:
    """An image, or a slice of a stack.

    `outlines` are in the order of the table's rows; empty if no file needs them.
    """

    instances: np.ndarray  # [H, W], integers >= 0
    table: Table  # with `label` and `class`; for a stack `slice`
    outlines: Sequence[Outline]
    colors: Mapping[str, Color]  # of each class
    number: int | None = None  # from 0; None: no stack


class Sink(Protocol):
    """A file of objects under construction."""

    def add(self, objects: ObjectSlice) -> None: ...

    def finish(self) -> None:
        """Completes and closes the file."""

    def close(self) -> None:
        """Closes it, complete or not; may be called twice."""
