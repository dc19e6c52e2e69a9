"""What is averaged for a tile: every network's prediction of every version of the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_unet.inference import rotations, symmetries
from keras_unet.inference.forward import Forward, activated
from keras_unet.inference.options import Average

Prepare = Callable[[np.ndarray], np.ndarray]  # normalises a tile of one network


def over_symmetries(
    tiles: np.ndarray,
    networks: Sequence[tuple[Prepare, Forward]],
    versions: Sequence[symmetries.Symmetry],
    average: Average,
) -> np.ndarray:
    """Probabilities of tiles [B, h, w, C] as stored: float32 [B, h', w', K], all of the output."""
    total: Any = None
    for prepare, forward in networks:
        x = prepare(tiles)
        for version in versions:
            y = version.undo(forward(np.ascontiguousarray(version.apply(x))))
            total = y if total is None else _add(total, y)
    return _mean(total, len(networks) * len(versions), average)


def over_rotations(
    window: np.ndarray,
    origin: tuple[int, int],
    square: rotations.Square,
    networks: Sequence[tuple[Prepare, Forward]],
    average: Average,
) -> np.ndarray:
    """Probabilities float32 [step, step, K] of a square, see `rotations.rotate`.

    Normalisation and interpolation are linear, so that their order does not matter.
    """
    total: Any = None
    for prepare, forward in networks:
        x = prepare(window)
        for angle in rotations.ANGLES:
            y = rotations.rotate(x, origin, square, angle, forward)
            total = y if total is None else _add(total, y)
    return _mean(total, len(networks) * len(rotations.ANGLES), average)


def _add(total: np.ndarray, y: np.ndarray) -> np.ndarray:
    total = total if total.flags.writeable and total.flags.owndata else total.copy()
    total += y
    return total


def _mean(total: np.ndarray, count: int, average: Average) -> np.ndarray:
    if count > 1:
        total = total * np.float32(1 / count)
        if average == "logits":
            total = activated(total)
    return total
