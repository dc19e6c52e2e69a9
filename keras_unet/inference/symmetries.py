"""Symmetries and rotations of the input, for test-time augmentation: applied to tiles and undone.

The eight symmetries of the square are undone exactly. Of seven rotations the paper (section 4)
says: "The u-net (averaged over 7 rotated versions of the input data) achieves …". It leaves open
the angles, the interpolation, the border and what is averaged. Here: k * 360 / 7 degrees,
k = 0 … 6, bilinear both ways, mirrored borders, and an average of probabilities (or logits).

The rotated image is a pixel grid of its own, about one centre for the whole image, and the tiles
of that grid start at multiples of the network's stride. So the result does not depend on the tiles:
it is what the network gives for the whole rotated image, turned back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.ndimage import map_coordinates

from keras_unet.inference.tiles import Axis, Layout, fitting


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


ANGLES = tuple(2 * math.pi * k / 7 for k in range(7))
_SPREAD = max(abs(math.cos(a)) + abs(math.sin(a)) for a in ANGLES)


class Square(NamedTuple):
    """What one tile gives: `step` pixels a side, at every angle, from network input of `tile`."""

    step: int
    tile: int
    form: Layout


def square_for(size: tuple[int, int], form: Layout, largest: int) -> Square:
    """Squares of equal size that cover an image with network inputs of at most `largest`.

    Raises:
        ConfigError: `largest` is too small for a square of one stride.
    """
    tile = fitting(form._replace(smallest=least_tile(form)), largest)
    most = int((tile - form.lost - form.stride - 2) / _SPREAD) // form.stride * form.stride
    repeats = [-(-n // most) for n in size]
    needed = max(-(-n // (r * form.stride)) for n, r in zip(size, repeats, strict=True))
    step = needed * form.stride
    return Square(step, form.input_for(_usable(step, form)), form)


def least_tile(form: Layout) -> int:
    """The smallest network input that covers a square of one stride."""
    return form.input_for(_usable(form.stride, form))


def rotated_axis(size: int, square: Square) -> Axis:
    """Squares along an axis, with the window around each that is read for all angles."""
    step, tile, form = square
    half = step * _SPREAD / 2
    furthest = max(half + form.stride + form.context, tile - form.context - half) + 1
    around = math.ceil(furthest * math.sqrt(2) - step / 2) + 2
    return Axis(step + 2 * around, around, 0, step, step, -(-size // step))


def centre_of(size: int, form: Layout) -> int:
    """About the image's centre, on the grid of unrotated tiles."""
    return size // 2 // form.stride * form.stride


def rotate(
    window: np.ndarray,
    origin: tuple[int, int],
    square: Square,
    angle: float,
    compute: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """Rotates, computes and rotates back.

    Args:
        window: float32 [w, w, C], `rotated_axis` has its rows and columns.
        origin: of the square, seen from `centre_of` the image.
        compute: a tile [1, tile, tile, C] -> the whole network output [1, n, n, K].

    Returns:
        float32 [step, step, K].
    """
    step, tile, form = square
    around = (window.shape[0] - step) // 2
    cos, sin = math.cos(angle), math.sin(angle)
    y, x = (start + np.arange(step, dtype=np.float64) for start in origin)
    u = cos * y[:, None] - sin * x[None]  # where the square's pixels are in the rotated image
    v = sin * y[:, None] + cos * x[None]
    first = [math.floor(part.min() / form.stride) * form.stride for part in (u, v)]
    rows, columns = (f - form.context + np.arange(tile, dtype=np.float64) for f in first)
    back = [
        cos * rows[:, None] + sin * columns[None] - (origin[0] - around),
        -sin * rows[:, None] + cos * columns[None] - (origin[1] - around),
    ]
    turned = compute(_bilinear(window, back)[None])[0]
    return _bilinear(turned, [u - (first[0] - form.lead), v - (first[1] - form.lead)])


def _usable(step: int, form: Layout) -> int:
    return math.ceil(step * _SPREAD) + form.stride + 2


def _bilinear(image: np.ndarray, places: list[np.ndarray]) -> np.ndarray:
    """float32 [h, w, C] of `image` [H, W, C] at places (y, x), each [h, w], all inside."""
    channels = [
        map_coordinates(image[..., c], places, np.float32, order=1, mode="nearest")
        for c in range(image.shape[-1])
    ]
    return np.stack(channels, axis=-1)
