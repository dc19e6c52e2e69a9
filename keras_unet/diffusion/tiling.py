"""A network over an image that is too large for it: tile by tile, overlapping, blended.

What a tile cannot give is what the network computes over the whole image: the statistics of group
norms, and attention. So neighbouring tiles differ in tone where they meet; `seams` measures by how
much. Blending over the overlap turns the step into a slope.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_unet.errors import ConfigError


def in_tiles(
    network: Callable[[Any], Any],
    x: Any,
    tile: int,
    overlap: float = 0.25,
    *,
    up: int = 1,
    down: int = 1,
) -> np.ndarray:
    """network(x), computed in tiles; as a NumPy array, so that only a tile is on the device.

    Args:
        network: [B, t, t, C] to [B, t · up // down, …, D].
        x: [B, H, W, C].
        tile: height and width of a tile; a multiple of `down`.
        overlap: of neighbouring tiles, as a share of a tile, 0 … 0.5.
        up, down: by what the network's output is larger or smaller than its input.

    Raises:
        ConfigError: tile or overlap is out of range.
    """
    if tile < 1 or tile % down:
        raise ConfigError(f"tile must be a positive multiple of {down}, got {tile}")
    if not 0 <= overlap <= 0.5:
        raise ConfigError(f"overlap must be in [0, 0.5], got {overlap!r}")
    x = ops.convert_to_numpy(x)
    height, width = (n // down * up for n in x.shape[1:3])
    rows, columns = (starts(n // down, tile // down, overlap) for n in x.shape[1:3])
    side = tile // down * up
    total: Any = None
    weight: Any = None
    for i in rows:
        for j in columns:
            # The last tile also takes the pixels that are too few for one of the output.
            bottom, right = (
                n if start + tile // down == n // down else start * down + tile
                for start, n in zip((i, j), x.shape[1:3], strict=True)
            )
            piece = x[:, i * down : bottom, j * down : right]
            y = ops.convert_to_numpy(network(piece)).astype(_precise(x))
            if total is None:
                total = np.zeros((len(x), height, width, y.shape[-1]), y.dtype)
                weight = np.zeros((height, width, 1), y.dtype)
            part = np.s_[i * up : i * up + y.shape[1], j * up : j * up + y.shape[2]]
            ramp = _ramp(y.shape[1], side, overlap)[:, None, None]
            ramp = (ramp * _ramp(y.shape[2], side, overlap)[:, None]).astype(y.dtype)
            total[(slice(None), *part)] += y * ramp
            weight[part] += ramp
    return total / weight


def starts(size: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along an axis, so that they cover it; the last one ends with it."""
    if size <= tile:
        return [0]
    step = max(1, tile - round(tile * overlap))
    return [*range(0, size - tile, step), size - tile]


def seams(tiled: Any, whole: Any, tile: int, overlap: float = 0.25) -> dict[str, float]:
    """How far an output in tiles is from the output at once, [B, H, W, C] both.

    Args:
        tile: height and width of a tile of the *output*.
        overlap: as it was computed.

    Returns:
        `rms`: root mean square difference, over the standard deviation of `whole`; `seam`: the same
        of the differences between neighbouring pixels across the tiles' borders; `inside`: the same
        of all other neighbours. A picture without visible seams has `seam` near `inside`.
    """
    tiled, whole = (ops.convert_to_numpy(x).astype("float64") for x in (tiled, whole))
    error, spread = tiled - whole, whole.std()
    at, elsewhere = [], []
    for axis in (1, 2):
        size = whole.shape[axis]
        begins = starts(size, tile, overlap)
        borders = sorted({*begins[1:], *(b + tile for b in begins if b + tile < size)})
        steps = np.moveaxis(np.diff(error, axis=axis), axis, 0)  # between i and i + 1
        border = np.isin(np.arange(1, size), borders)
        at.append(np.ravel(steps[border]))
        elsewhere.append(np.ravel(steps[~border]))

    def rms(values: Any) -> float:
        return float(np.sqrt(np.mean(np.square(values))) / spread) if np.size(values) else 0.0

    return {
        "rms": rms(error),
        "seam": rms(np.concatenate(at)),
        "inside": rms(np.concatenate(elsewhere)),
    }


def _ramp(size: int, side: int, overlap: float) -> np.ndarray:
    """The weight of a tile's pixels along an axis: rises and falls over the overlap."""
    rise = max(1, round(side * overlap))
    distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1
    return np.minimum(distance / rise, 1.0)


def _precise(x: np.ndarray) -> type:
    return np.float64 if x.dtype == np.float64 else np.float32
