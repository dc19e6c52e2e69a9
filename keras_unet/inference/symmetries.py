"""The eight symmetries of the square, applied to tiles and undone exactly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Symmetry(NamedTuple):
    """Mirror left-right (or not), then `turns` quarter turns counter-clockwise."""

    turns: int
    mirror: bool

    def apply(self, x: np.ndarray) -> np.ndarray:
        """[B, H, W, C] turned; a view."""
        return np.rot90(x[:, :, ::-1] if self.mirror else x, self.turns, axes=(1, 2))

    def undo(self, y: np.ndarray) -> np.ndarray:
        """What `apply` turned, as it was; a view."""
        y = np.rot90(y, -self.turns, axes=(1, 2))
        return y[:, :, ::-1] if self.mirror else y


IDENTITY = Symmetry(0, False)
FLIPS = (IDENTITY, Symmetry(0, True), Symmetry(2, True), Symmetry(2, False))
ALL = tuple(Symmetry(turns, mirror) for mirror in (False, True) for turns in range(4))
