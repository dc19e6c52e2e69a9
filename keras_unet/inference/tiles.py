"""Where an overlap-tile puts its tiles: pure integers (paper, section 2 and figure 2).

Tiles are placed so that stitching them gives what the network gives for the whole mirrored image.
Max pooling is equivariant only to shifts by `geometry.stride`, so the outputs' origins are
multiples of it: with the paper's 572 -> 388 tile, 384 of the 388 pixels of a tile are new.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from keras_unet import geometry
from keras_unet.errors import ConfigError

USUAL_TILE = 828  # input pixels a side: at depth 4, 644 of output, 60 percent of the tile


class Axis(NamedTuple):
    """Tiles along one axis: input and output length, context before the output, step, how often."""

    tile: int
    output: int
    context: int
    step: int
    repeats: int


class Tile(NamedTuple):
    """One tile: input indices into the image, mirrored at its borders, and what it computes."""

    rows: np.ndarray
    columns: np.ndarray
    output: tuple[slice, slice]  # in the image
    inside: tuple[slice, slice]  # in the network's output


def mirrored(start: int, stop: int, size: int) -> np.ndarray:
    """Indices start … stop - 1 into `size` pixels, mirrored at both ends: [stop - start] int64.

    The border pixel is not repeated (…2 1 0 1 2…), as NumPy's "reflect"; any distance, any size.
    """
    if size == 1:
        return np.zeros(stop - start, np.int64)
    folded = np.arange(start, stop) % (2 * size - 2)
    return np.minimum(folded, 2 * size - 2 - folded)


def plan(
    size: tuple[int, int], depth: int, padding: geometry.Padding, max_tile: int | None = None
) -> tuple[Axis, Axis]:
    """Chooses the tiling of an image of `size` (height, width) by tiles of at most `max_tile`.

    None is `USUAL_TILE`, or the smallest tile that can be repeated if that is larger. An axis
    that one tile covers gets the smallest tile that does.

    Raises:
        ConfigError: `max_tile` is smaller than the smallest tile that this depth allows.
    """
    height, width = (_axis(n, depth, padding, max_tile) for n in size)
    return height, width


def tiles(size: tuple[int, int], axes: tuple[Axis, Axis]) -> Iterator[Tile]:
    """The tiles of a plan, row by row; their `output` slices cover the image without overlap."""
    for row in range(axes[0].repeats):
        for column in range(axes[1].repeats):
            spans = [
                _span(index, axis, n)
                for index, axis, n in zip((row, column), axes, size, strict=True)
            ]
            yield Tile(
                rows=spans[0][0],
                columns=spans[1][0],
                output=(spans[0][1], spans[1][1]),
                inside=(spans[0][2], spans[1][2]),
            )


def _axis(size: int, depth: int, padding: geometry.Padding, max_tile: int | None) -> Axis:
    stride = geometry.stride(depth)
    if padding == "valid":
        context = geometry.margin(depth)
        whole = geometry.input_size(size, depth)
        smallest = geometry.input_size(stride, depth)
    else:  # zeros enter at the tile's edge; beyond the reach they are not seen
        context = -(-geometry.reach(depth) // stride) * stride
        whole = size + 2 * context
        smallest = stride + 2 * context
    if max_tile is None:
        max_tile = max(USUAL_TILE, smallest)
    if whole <= max_tile:
        return Axis(whole, whole - 2 * context, context, size, 1)
    if max_tile < smallest:
        raise ConfigError(
            f"tile {max_tile} is too small for depth {depth} with {padding} padding: "
            f"the smallest tile that can be repeated is {smallest}"
        )
    tile = max_tile - (max_tile - smallest) % stride
    output = tile - 2 * context
    step = output // stride * stride
    return Axis(tile, output, context, step, -(-size // step))


def _span(index: int, axis: Axis, size: int) -> tuple[np.ndarray, slice, slice]:
    origin = index * axis.step
    source = mirrored(origin - axis.context, origin - axis.context + axis.tile, size)
    length = min(axis.step, size - origin)
    inside = slice(0, length)
    return source, slice(origin, origin + length), inside
