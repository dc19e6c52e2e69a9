"""Tiles of an image: where an overlap-tile puts them, and how they share pixels.

See the paper, section 2 and figure 2.

Tiles are placed so that stitching them gives what the network gives for the whole mirrored image.
Max pooling is equivariant only to shifts by `geometry.stride`, so the outputs' origins are
multiples of it: with the paper's 572 -> 388 tile, 384 of the 388 pixels of a tile are new.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from keras_unet import geometry
from keras_unet.errors import ConfigError


class Layout(NamedTuple):
    """What a network asks of its tiles along an axis, in pixels.

    smallest: the least input that can be repeated; others differ by multiples of `stride`.
    context: input before the first output pixel that counts.
    lead: network output before that pixel.
    lost: how much shorter the output that counts is than the input.
    """

    stride: int
    smallest: int
    context: int
    lead: int
    lost: int

    def input_for(self, output: int) -> int:
        """The smallest tile with at least `output` pixels that count."""
        more = output + self.lost - self.smallest
        return self.smallest - (-more // self.stride) * self.stride


class Axis(NamedTuple):
    """Tiles along one axis.

    tile: pixels read. context, lead: see `Layout`. used: output that is taken of each tile. step:
    from one tile to the next; less than `used` where tiles are blended. repeats: how many.
    """

    tile: int
    context: int
    lead: int
    used: int
    step: int
    repeats: int


def layout(
    depth: int,
    padding: geometry.Padding,
    upsampling: geometry.Upsampling = "transpose",
    *,
    cut: bool = True,
    symmetric: bool = False,
) -> Layout:
    """The tiles of a U-Net.

    Args:
        cut: False: the whole output of a same-padding network counts, though it sees zeros.
        symmetric: cut as much at the start as at the end, for tiles that will be turned.
    """
    stride = geometry.stride(depth)
    if padding == "valid":
        before, after = geometry.padded_edges(depth, upsampling)
        if symmetric:
            before = after = max(before, after)
        lead = -(-before // stride) * stride  # origins stay multiples of the stride
        after = lead if symmetric else after
        margin = geometry.margin(depth)
        smallest = geometry.input_size(stride + lead + after, depth)
        return Layout(stride, smallest, margin + lead, lead, 2 * margin + lead + after)
    # Zeros enter at the tile's edge; beyond the reach they are not seen.
    context = -(-geometry.reach(depth, upsampling) // stride) * stride if cut else 0
    return Layout(stride, stride + 2 * context, context, context, 2 * context)


def mirrored(start: int, stop: int, size: int) -> np.ndarray:
    """Indices start … stop - 1 into `size` pixels, mirrored at both ends: [stop - start] int64.

    The border pixel is not repeated (…2 1 0 1 2…), as NumPy's "reflect"; any distance, any size.
    """
    if size == 1:
        return np.zeros(stop - start, np.int64)
    folded = np.arange(start, stop) % (2 * size - 2)
    return np.minimum(folded, 2 * size - 2 - folded)


def abutting(size: int, form: Layout, largest: int) -> Axis:
    """As few tiles of at most `largest` as cover `size` pixels, each no larger than that needs.

    Raises:
        ConfigError: `largest` is smaller than the smallest tile that can be repeated.
    """
    one = form.input_for(size)
    if one <= largest:
        return Axis(one, form.context, form.lead, size, size, 1)
    most = _steps(fitting(form, largest), form)
    repeats = -(-size // most)
    step = -(-size // (repeats * form.stride)) * form.stride
    tile = form.input_for(step)
    return Axis(tile, form.context, form.lead, step, step, -(-size // step))


def overlapping(size: int, form: Layout, largest: int, overlap: float) -> Axis:
    """As few tiles of at most `largest` that share about `overlap` of their length with the next.

    Args:
        form: a `layout` without a cut.
        overlap: at most 0.5, so that no pixel is in three tiles.

    Raises:
        ConfigError: `largest` is smaller than twice the stride.
    """
    one = form.input_for(size)
    if one <= largest:
        return Axis(one, 0, 0, one, one, 1)
    if largest < 2 * form.stride:
        raise ConfigError(
            f"tile {largest} is too small to overlap: expected at least {2 * form.stride}"
        )

    def placed(tile: int) -> Axis:
        shared = max(int(tile * overlap) // form.stride, 1) * form.stride
        return Axis(tile, 0, 0, tile, tile - shared, 1 - (tile - size) // (tile - shared))

    best = placed(fitting(form, largest))
    while (less := best.tile - form.stride) >= 2 * form.stride:
        smaller = placed(less)
        if smaller.repeats > best.repeats:
            break
        best = smaller
    return best


def fitting(form: Layout, largest: int) -> int:
    """The largest legal tile of at most `largest` pixels.

    Raises:
        ConfigError: it is smaller than the smallest tile that can be repeated.
    """
    if largest < form.smallest:
        raise ConfigError(
            f"tile {largest} is too small for this network: the smallest tile that can be "
            f"repeated is {form.smallest}"
        )
    return largest - (largest - form.smallest) % form.stride


def _steps(tile: int, form: Layout) -> int:
    return (tile - form.lost) // form.stride * form.stride


SIGMA = 1 / 8  # of the tile's length, as in nnU-Net and MONAI


def axis_weights(axis: Axis, blend: Literal["gaussian", "flat"]) -> np.ndarray:
    """float32 [repeats, used]; over the tiles that cover a pixel they sum to 1.

    A tile's weight is the product of its rows' and its columns' weights. "gaussian" trusts the
    middle of a tile, whose context is complete, more than its edge, which saw zeros.
    """
    place = np.arange(axis.used) - (axis.used - 1) / 2
    profile = np.ones(axis.used)
    if blend == "gaussian":
        profile = np.exp(-0.5 * (place / (SIGMA * axis.used)) ** 2)
    total = np.zeros((axis.repeats - 1) * axis.step + axis.used)
    starts = [index * axis.step for index in range(axis.repeats)]
    for start in starts:
        total[start : start + axis.used] += profile
    shares = [profile / total[start : start + axis.used] for start in starts]
    return np.asarray(shares, np.float32)
