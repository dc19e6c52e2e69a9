"""Prediction from top to bottom, a row of tiles at a time: images larger than memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_unet.data.nodata import WHAT
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.forward import forward, in_precision
from keras_unet.inference.members import Model, members
from keras_unet.inference.options import PredictOptions, Stored
from keras_unet.inference.planning import Plan as Plan
from keras_unet.inference.planning import layout_for, make_plan, smallest
from keras_unet.inference.source import ArraySource, Source, check_source
from keras_unet.inference.tile_row import Networks, compute_row
from keras_unet.inference.working_set import SHARE, free_memory
from keras_unet.models.bundle import ModelCard, Stated
from keras_unet.models.unet import whole_image_statistics

Progress = Callable[[int, int], None]
_BY_GROUPS = (
    "the network normalises by groups of channels, over all of its input: what a pixel is given "
    "depends on the tile that it lies in. State one size of tiles (tile=…) wherever results are to "
    "be alike, or train with normalization batch or layer"
)


class MemoryWarning(UserWarning):
    """Memory ran out and prediction goes on with smaller tiles."""


class Band(NamedTuple):
    """Rows of an image and their probabilities [h, W, K], in the dtype asked for.

    missing: how many of the pixels were never measured; their class is 0.
    """

    rows: slice
    probabilities: np.ndarray
    missing: int = 0


class Predictor:
    """One network, or several that predict together, ready for images of any size.

    Args:
        model: see `keras_unet.inference.members.members`.
        options: see `PredictOptions`.
        normalization, class_names: of networks whose cards do not say it, see `trained_model`.

    Raises:
        DataError: no model there, or models that do not fit each other. ConfigError: options that
            do not fit the model.
    """

    def __init__(
        self,
        model: Model | Sequence[Model],
        options: PredictOptions | None = None,
        normalization: Stated = None,
        class_names: str | Sequence[str] | None = None,
    ) -> None:
        self.options = options or PredictOptions()
        self._members = tuple(
            one._replace(network=in_precision(one.network, self.options.precision))
            for one in members(model, normalization, class_names)
        )
        form = self._members[0].form
        if form.padding == "valid" and self.options.blend != "exact":
            raise ConfigError(
                f'blend "{self.options.blend}" is for networks with same padding; this one has '
                'valid padding, whose tiles are exact: use "exact"'
            )
        self._layout = layout_for(self._members[0], self.options)
        self._memory = self.options.memory or int(free_memory() * SHARE)
        tile = self.options.tile
        self._tile = (tile, tile) if isinstance(tile, int) else tile
        self._batch = self.options.batch_size

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """Of the models, in their order."""
        return tuple(one.card for one in self._members)

    @property
    def channels(self) -> int:
        """Of the images."""
        return self._members[0].form.channels

    @property
    def num_classes(self) -> int:
        """Of the probabilities; 1: the foreground's."""
        return self._members[0].form.num_classes

    def plan(self, size: tuple[int, int]) -> Plan:
        """The tiles of an image of `size` (height, width).

        Raises:
            ConfigError: the tile asked for is too small for the network.
        """
        return make_plan(size, self._members, self.options, self._memory, self._tile, self._batch)

    def __call__(self, image: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Probabilities [H, W, K] of an array [H, W] or [H, W, C]; see `bands` for errors."""
        source = ArraySource(image)
        bands = self.bands(source, progress=progress)
        result = np.empty((*source.shape[:2], self.num_classes), self.options.dtype)
        for band in bands:
            result[band.rows] = band.probabilities
        return result

    def bands(
        self, source: Source, *, first_row: int = 0, progress: Progress | None = None
    ) -> Iterator[Band]:
        """Bands of rows, top to bottom without gaps, one for each row of tiles.

        Memory holds a row of tiles, not the image. Normalisation by the image's own numbers reads
        the source once before.

        Args:
            first_row: where to start. At a multiple of `plan(...).band_height` the bands are, bit
                for bit, those of a run from the top; with blend "exact" any multiple of the
                network's stride will do, and bands may differ by rounding.
            progress: called with (tiles done, tiles in all); rows left out count as done.

        Raises:
            DataError: shape or type do not fit the model, a value is infinite, or no pixel was
                measured.
            ConfigError: no band can start at `first_row`, or the tile asked for is too small.
        """
        check_source(source, self.channels)
        size = source.shape[:2]
        plan = self.plan(size)
        if plan.tiles > 1 and any(whole_image_statistics(one.network) for one in self._members):
            warnings.warn(_BY_GROUPS, stacklevel=2)
        origin, index = _start(first_row, plan, size, self._layout.stride, self.options.blend)
        if origin:
            plan = self.plan((size[0] - origin, size[1]))
        many = len(self._members) > 1 or self.options.symmetries != "none"
        domain = self.options.average if many else "probabilities"
        networks = [
            (one.preparation(source), forward(one.network, domain)) for one in self._members
        ]
        return self._bands(source, networks, plan, origin, index, progress)

    def _bands(
        self,
        source: Source,
        networks: Networks,
        plan: Plan,
        origin: int,
        index: int,
        progress: Progress | None,
    ) -> Iterator[Band]:
        height = source.shape[0]
        count = _Count(index * plan.columns.repeats, plan.tiles, progress)
        some = origin > 0 or index > 0  # pixels that were measured
        carry: np.ndarray | None = None  # what the row above gives to this one
        pending = index > 0 and plan.rows.used > plan.rows.step  # that row is still to be computed
        while (top := origin + index * plan.rows.step) < height and index < plan.rows.repeats:
            before, number = count.done, index - pending
            try:
                row, missing = compute_row(
                    source,
                    origin + number * plan.rows.step,
                    number,
                    plan,
                    self._layout,
                    networks,
                    self.options,
                    (lambda _: None) if pending else count.add,
                )
            except (tf.errors.ResourceExhaustedError, MemoryError) as error:
                plan = self._smaller(plan, (height - top, source.shape[1]), error)
                origin, index, carry, pending = top, 0, None, False
                count = _Count(before, before + plan.tiles, progress)
                continue
            if carry is not None:
                row[: len(carry)] += carry
            last = number == plan.rows.repeats - 1
            carry = None if last or plan.rows.used == plan.rows.step else row[plan.rows.step :]
            if pending:
                pending = False
                continue
            row = row if last else row[: plan.rows.step]
            none = 0
            if missing is not None:
                missing = missing[: len(row)]
                row[missing], none = _background(row.shape[-1]), int(missing.sum())
            some = some or missing is None or not missing.all()
            yield Band(slice(top, top + len(row)), quantized(row, self.options.dtype), none)
            index += 1
        if not some:
            raise DataError(f"image holds no measured pixel, all are {WHAT}; expected some")

    def _smaller(self, plan: Plan, size: tuple[int, int], error: Exception) -> Plan:
        """After running out of memory: fewer tiles together, then smaller ones; kept from now on.

        Raises the error again where the tile is the smallest there is.
        """
        least = smallest(self._layout, self.options)
        if plan.batch > 1:
            self._batch = plan.batch // 2
            self._tile = plan.tile
        elif max(plan.tile) > least:
            self._batch = 1
            self._tile = (max(int(plan.tile[0] * 0.7), least), max(int(plan.tile[1] * 0.7), least))
        else:
            raise error
        smaller = self.plan(size)
        warnings.warn(
            f"out of memory with {plan.batch} × {plan.tile[0]} × {plan.tile[1]} pixels: going on "
            f"with {smaller.reason}",
            MemoryWarning,
            stacklevel=2,
        )
        return smaller


class _Count:
    """Tiles done, told as they are."""

    def __init__(self, done: int, total: int, progress: Progress | None) -> None:
        self.done, self.total, self._progress = done, total, progress

    def add(self, tiles: int) -> None:
        self.done += tiles
        if self._progress is not None:
            self._progress(self.done, self.total)


def _background(classes: int) -> np.ndarray:
    """What is said of a pixel that was never measured, [K]: class 0, certainly."""
    return np.zeros(1) if classes == 1 else np.eye(1, classes)[0]


def quantized(probabilities: np.ndarray, dtype: Stored) -> np.ndarray:
    """float32 probabilities as they are stored; uint8 is round(255 p)."""
    if dtype == "uint8":
        return np.rint(probabilities * np.float32(255)).clip(0, 255).astype(np.uint8)
    return probabilities.astype(dtype, copy=False)


def _start(
    first_row: int, plan: Plan, size: tuple[int, int], stride: int, blend: str
) -> tuple[int, int]:
    """(row at which the plan's grid starts, index of its first row of tiles)."""
    if 0 <= first_row < size[0]:
        if first_row % plan.band_height == 0:
            return 0, first_row // plan.band_height
        if blend == "exact" and first_row % stride == 0:
            return first_row, 0
    raise ConfigError(
        f"first_row is {first_row}; expected a multiple of {plan.band_height} below {size[0]}"
    )
