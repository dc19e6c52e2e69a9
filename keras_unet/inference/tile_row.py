"""One row of tiles: read, computed in batches, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from keras_unet.data.nodata import missing_pixels
from keras_unet.inference import rotations, symmetries
from keras_unet.inference.averaging import Prepare, over_rotations, over_symmetries
from keras_unet.inference.blending import axis_weights
from keras_unet.inference.forward import Forward
from keras_unet.inference.options import PredictOptions
from keras_unet.inference.planning import Plan
from keras_unet.inference.source import Source, read_rows
from keras_unet.inference.tiles import Axis, Layout, mirrored

Networks = Sequence[tuple[Prepare, Forward]]
_VERSIONS = {"none": (symmetries.IDENTITY,), "flips": symmetries.FLIPS, "all": symmetries.ALL}


def compute_row(
    source: Source,
    top: int,
    index: int,
    plan: Plan,
    form: Layout,
    networks: Networks,
    options: PredictOptions,
    progress: Callable[[int], None],
) -> tuple[np.ndarray, np.ndarray | None]:
    """Probabilities of row `index` of a plan's tiles, whose first row of output is `top`.

    Args:
        progress: called with the number of tiles done at a time.

    Returns:
        float32 [h, W, K], h = the rows that the tiles cover. Where tiles are blended the values
        are weighted already, and the rows that the next tiles cover too still lack their share.
        And which pixels of these rows were never measured: bool [h, W], None where all were.
    """
    height, width, _ = source.shape
    rows, columns = plan.rows, plan.columns
    strip = _strip(source, top - rows.context, rows.tile)
    covered = min(rows.used, height - top)
    across = down = None
    if options.blend != "exact":
        down = axis_weights(rows, options.blend)[index, :covered, None, None]
        across = axis_weights(columns, options.blend)[..., None]
    result: np.ndarray | None = None
    for first in range(0, columns.repeats, plan.batch):
        numbers = range(first, min(first + plan.batch, columns.repeats))
        tiles = np.stack([_window(strip, number, columns) for number in numbers])
        if plan.square is not None:
            origin = (
                top - rotations.centre_of(height, form),
                first * columns.step - rotations.centre_of(width, form),
            )
            outputs = over_rotations(tiles[0], origin, plan.square, networks, options.average)[None]
        else:
            versions = _VERSIONS[options.symmetries]
            outputs = over_symmetries(tiles, networks, versions, options.average)
            outputs = outputs[:, rows.lead : rows.lead + rows.used]
            outputs = outputs[:, :, columns.lead : columns.lead + columns.used]
        if result is None:
            make = np.empty if across is None else np.zeros
            result = make((covered, width, outputs.shape[-1]), np.float32)
        for number, output in zip(numbers, outputs, strict=True):
            start = number * columns.step
            length = min(columns.used, width - start)
            part = output[:covered, :length]
            if across is None or down is None:
                result[:, start : start + length] = part
            else:
                result[:, start : start + length] += part * down * across[number, :length]
        progress(len(outputs))
    assert result is not None  # an image has at least one column
    return result, missing_pixels(strip[rows.context : rows.context + covered])


def _strip(source: Source, start: int, count: int) -> np.ndarray:
    """Rows start … start + count - 1, mirrored at the image's borders: [count, W, C] as stored."""
    rows = mirrored(start, start + count, source.shape[0])
    low, high = int(rows.min()), int(rows.max()) + 1
    strip = read_rows(source, low, high)
    return strip if start == low and start + count == high else strip[rows - low]


def _window(strip: np.ndarray, number: int, axis: Axis) -> np.ndarray:
    start = number * axis.step - axis.context
    return strip[:, mirrored(start, start + axis.tile, strip.shape[1])]
