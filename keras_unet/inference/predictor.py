"""Predictor of images of any size: a row of tiles at a time, so that an image may exceed memory."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_unet.data.samples import diameters, object_areas
from keras_unet.data.stored_pixels import NODATA, PixelSize, missing_pixels
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference import scale, symmetries
from keras_unet.inference.ensemble import (
    Forward,
    Model,
    Prepare,
    forward,
    in_precision,
    members,
    over_rotations,
    over_symmetries,
)
from keras_unet.inference.ensemble import probabilities_of as probabilities_of
from keras_unet.inference.inputs import ArraySource, Source, check_source, read_rows
from keras_unet.inference.options import PredictOptions, Stored
from keras_unet.inference.planning import SHARE, Plan, layout_for, make_plan, smallest
from keras_unet.inference.rescaling import BILINEAR, Interpolation, Rescaled, resized_bands
from keras_unet.inference.tiles import Axis, axis_weights, mirrored
from keras_unet.machine import free_memory
from keras_unet.models.decoding import Decoding
from keras_unet.models.keras_file import ModelCard, Stated
from keras_unet.models.unet import whole_image_statistics
from keras_unet.settings import validated

Networks = Sequence[tuple[Prepare, Forward]]
_VERSIONS = {"none": (symmetries.IDENTITY,), "flips": symmetries.FLIPS, "all": symmetries.ALL}
Progress = Callable[[int, int], None]
Say = Callable[[str], None]
_BY_GROUPS = (
    "the network normalises by groups of channels, over all of its input: what a pixel is given "
    "depends on the tile that it lies in. State one size of tiles (tile=…) wherever results are to "
    "be alike, or train with normalization batch or layer"
)


class MemoryWarning(UserWarning):
    """Memory ran out and prediction goes on with smaller tiles."""


class _Row(NamedTuple):
    """Probabilities float32 [h, W, K] of some rows; which pixels were never measured, if any."""

    rows: slice
    values: np.ndarray
    missing: np.ndarray | None


class Band(NamedTuple):
    """Rows of an image and their probabilities [h, W, K], in the dtype asked for.

    missing: how many of the pixels were never measured; their class is 0.
    """

    rows: slice
    probabilities: np.ndarray
    missing: int = 0


def predict(
    model: Model | Sequence[Model],
    image: np.ndarray,
    *,
    normalization: Stated = None,
    tile: int | tuple[int, int] | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    say: Say | None = None,
    **options: Any,
) -> np.ndarray:
    """Segments one image of any size (overlap-tile strategy: paper, section 2, figure 2).

    Missing context is mirrored at the image's borders. The result equals that of the network run
    once over the whole mirrored image, up to rounding; not so with group normalization, whose
    statistics depend on the tile, and with `blend="gaussian"` or `"flat"`.

    Args:
        model: what `load_model` returns, the path it takes, any model of `build_unet`; or several
            whose probabilities are averaged: a sequence, or a folder with `fold_0`, `fold_1`, …
        image: [H, W] or [H, W, C], any number type, as read from the file.
        normalization: for a model whose card does not say it, as one of a script: "image", a number
            that grey values are divided by, or a `Normalization`; None feeds the image as it is. A
            trained model brings its own.
        tile: largest input tile, pixels a side or (height, width); None: the fastest that memory
            holds.
        batch_size: tiles computed together; None: small tiles are put together.
        progress: called with (tiles done, tiles in all).
        say: called with what `diameter="auto"` found and which scale that means, one line.
        options: `memory`, `symmetries`, `average`, `blend`, `overlap`, `precision`, `dtype`,
            `diameter`, `pixel_size`: see `keras_unet.inference.PredictOptions`.

    Returns:
        Probabilities [H, W, K] float32, or the `dtype` asked for; K = 1 is the foreground's
        probability.

    Raises:
        DataError: the image's rank or channels do not fit the model, or it holds NaN; or models
            that do not fit each other.
        ConfigError: an option is unknown, out of range or does not fit the model, or a
            normalisation is given for a trained model.
    """
    given = {"tile": tile, "batch_size": batch_size, **options}
    chosen = validated(PredictOptions, given)
    return Predictor(model, chosen, normalization)(image, progress, say)


class Predictor:
    """One network, or several that predict together, ready for images of any size.

    Args:
        model: see `keras_unet.inference.ensemble.members`.
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
        card = self._members[0].card
        scale.require_known(self.options, card)
        by_file = self.options.pixel_size == "file"
        self._ratio = None if by_file else scale.stated_ratio(self.options, card, None)
        self._layout = layout_for(self._members[0], self.options)
        self._memory = self.options.memory or int(free_memory() * SHARE)
        tile = self.options.tile
        self._tile = (tile, tile) if isinstance(tile, int) else tile
        self._batch = self.options.batch_size

    def with_tiles(self, tile: tuple[int, int], batch: int | None) -> Predictor:
        """The same networks on input tiles of a given size, `batch` of them together."""
        other = copy.copy(self)
        other._tile, other._batch = tile, batch
        return other

    def at(self, ratio: tuple[float, float]) -> Predictor:
        """The same networks for images that they see rescaled, see `scale.Ratio`."""
        if ratio == self._ratio:
            return self
        other = copy.copy(self)
        other._ratio = scale.Ratio(*ratio)
        return other

    def fitted(
        self,
        pages: Sequence[Source],
        pixel_size: PixelSize | None = None,
        say: Say | None = None,
    ) -> Predictor:
        """The same networks at the scale that the options ask for, for an image or a stack.

        Args:
            pages: of the stack; of many, three are looked at where the scale is to be estimated.
            pixel_size: what their file states.
            say: called with what was estimated. Without it, a `ScaleWarning` says if nothing was.

        Raises:
            DataError: the file does not state what the options ask for; or see `bands`.
        """
        stated = self.stated(pixel_size)
        if stated._ratio is not None:
            return stated
        for page in pages:
            check_source(page, self.channels)
        plain, card = self._plain(), self._members[0].card
        found = scale.estimate(lambda ratio: plain._diameters(pages, ratio), card)
        if say is not None:
            say(found.line(card))
        elif found.diameter is None:
            warnings.warn(found.line(card), scale.ScaleWarning, stacklevel=3)
        return self.at(found.ratio)

    def stated(self, pixel_size: PixelSize | None) -> Predictor:
        """As `fitted`, as far as no image need be looked at."""
        if self._ratio is not None:
            return self
        ratio = scale.stated_ratio(self.options, self._members[0].card, pixel_size)
        return self if ratio is None else self.at(ratio)

    def _plain(self) -> Predictor:
        """The first network alone, without test-time augmentation: enough for an estimate."""
        other = copy.copy(self)
        other._members = self._members[:1]
        other.options = self.options.model_copy(update={"symmetries": "none"})
        other._layout = layout_for(other._members[0], other.options)
        return other

    def _diameters(self, pages: Sequence[Source], ratio: scale.Ratio) -> np.ndarray:
        """Of the objects found at a scale, in pixels of the pages."""
        decoding = self._members[0].card.decoding or Decoding()
        chosen, found = scale.looked_at(pages), []
        for page in chosen:
            seen = _seen(page, ratio)
            networks = self._networks(page, seen)
            for window in scale.parts(seen.shape[:2], scale.PIXELS / len(chosen)):
                part = scale.Part(seen, *window)
                plan = self._plan(part.shape[:2])
                rows = self._rows(part, networks, plan, 0, 0, None)
                foreground = np.concatenate([row.values[..., -1] for row in rows])
                areas = object_areas(scale.objects_at(foreground, decoding))
                found.append(diameters(areas) / ratio.length)
        return np.concatenate(found)

    @property
    def ratio(self) -> scale.Ratio:
        """At which images are seen; 1 where that is still to be fitted to them."""
        return self._ratio or scale.NATIVE

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
        return self._plan(self.ratio.seen(size))

    def _plan(self, size: tuple[int, int]) -> Plan:
        return make_plan(size, self._members, self.options, self._memory, self._tile, self._batch)

    def __call__(
        self, image: np.ndarray, progress: Progress | None = None, say: Say | None = None
    ) -> np.ndarray:
        """Probabilities [H, W, K] of an array [H, W] or [H, W, C]; see `bands` for errors.

        say: see `fitted`.
        """
        source = ArraySource(image)
        bands = self.fitted([source], say=say).bands(source, progress=progress)
        result = np.empty((*source.shape[:2], self.num_classes), self.options.dtype)
        for band in bands:
            result[band.rows] = band.probabilities
        return result

    def bands(
        self, source: Source, *, first_row: int = 0, progress: Progress | None = None
    ) -> Iterator[Band]:
        """Bands of rows, top to bottom without gaps, one for each row of tiles.

        Memory holds a row of tiles, not the image. Normalisation by the image's own numbers reads
        the source once before. The source is rescaled, and bands come back in its size, window by
        window too.

        Args:
            first_row: where to start. At a multiple of `plan(...).band_height` the bands are, bit
                for bit, those of a run from the top; with blend "exact" any multiple of the
                network's stride will do, and bands may differ by rounding. Of a rescaled image any
                row will do, and bands are cut differently, but equal.
            progress: called with (tiles done, tiles in all); rows left out count as done.

        Raises:
            DataError: shape or type do not fit the model, a value is infinite, or no pixel was
                measured.
            ConfigError: no band can start at `first_row`, or the tile asked for is too small.
        """
        check_source(source, self.channels)
        if self._ratio is None:
            return self.fitted([source]).bands(source, first_row=first_row, progress=progress)
        seen, start = _seen(source, self._ratio), first_row
        size = seen.shape[:2]
        plan = self._plan(size)
        if plan.tiles > 1 and any(whole_image_statistics(one.network) for one in self._members):
            warnings.warn(_BY_GROUPS, stacklevel=2)
        back = None
        if isinstance(seen, Rescaled):
            _require_row(first_row, source.shape[0])
            back = Interpolation(size[0], source.shape[0], BILINEAR)
            needed = back.span(slice(first_row, first_row + 1)).start
            # of blended tiles the last reach further than a band
            start = min(needed // plan.band_height, plan.rows.repeats - 1) * plan.band_height
        origin, index = _start(start, plan, size, self._layout.stride, self.options.blend)
        if origin:
            plan = self._plan((size[0] - origin, size[1]))
        rows = self._rows(seen, self._networks(source, seen), plan, origin, index, progress)
        if isinstance(seen, Rescaled) and back is not None:
            rows = _in_size_of(source, seen, rows, back, first_row)
        return self._finished(rows, first_row)

    def _networks(self, source: Source, seen: Source) -> Networks:
        many = len(self._members) > 1 or self.options.symmetries != "none"
        domain = self.options.average if many else "probabilities"
        return [
            (one.preparation(source, seen), forward(one.network, domain)) for one in self._members
        ]

    def _finished(self, rows: Iterator[_Row], first_row: int) -> Iterator[Band]:
        """What was never measured is background; in the dtype asked for."""
        some = first_row > 0  # pixels that were measured
        for span, row, missing in rows:
            none = 0
            if missing is not None:
                row[missing], none = _background(row.shape[-1]), int(missing.sum())
            some = some or missing is None or not missing.all()
            yield Band(span, quantized(row, self.options.dtype), none)
        if not some:
            raise DataError(f"image holds no measured pixel, all are {NODATA}; expected some")

    def _rows(
        self,
        source: Source,
        networks: Networks,
        plan: Plan,
        origin: int,
        index: int,
        progress: Progress | None,
    ) -> Iterator[_Row]:
        """Row by row of a plan's tiles, from row `index` of a grid that starts at `origin`."""
        height = source.shape[0]
        count = _Count(index * plan.columns.repeats, plan.tiles, progress)
        carry: np.ndarray | None = None  # what the row above gives to this one
        pending = index > 0 and plan.rows.used > plan.rows.step  # that row is still to be computed
        while (top := origin + index * plan.rows.step) < height and index < plan.rows.repeats:
            before, number = count.done, index - pending
            try:
                first = origin + number * plan.rows.step
                told = (lambda _: None) if pending else count.add
                row, missing = self._row(source, first, number, plan, networks, told)
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
            missing = None if missing is None else missing[: len(row)]
            yield _Row(slice(top, top + len(row)), row, missing)
            index += 1

    def _row(
        self,
        source: Source,
        top: int,
        index: int,
        plan: Plan,
        networks: Networks,
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
        options, form = self.options, self._layout
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
                    top - symmetries.centre_of(height, form),
                    first * columns.step - symmetries.centre_of(width, form),
                )
                outputs = over_rotations(tiles[0], origin, plan.square, networks, options.average)[
                    None
                ]
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
        smaller = self._plan(size)
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


def _require_row(row: int, height: int) -> None:
    if not 0 <= row < height:
        raise ConfigError(f"first_row is {row}; expected 0 to {height - 1}")


def _in_size_of(
    source: Source, seen: Rescaled, rows: Iterator[_Row], back: Interpolation, first_row: int
) -> Iterator[_Row]:
    """Rows of what a network sees as rows of the image, from `first_row` on."""
    across = Interpolation(seen.shape[1], source.shape[1], BILINEAR)
    given = ((row.rows, row.values) for row in rows)
    for span, values in resized_bands(given, back, across, first_row):
        missing = None
        if seen.incomplete:  # else the image is not read again
            missing = missing_pixels(read_rows(source, span.start, span.stop))
        yield _Row(span, values, missing)


def _seen(source: Source, ratio: scale.Ratio) -> Source:
    """An image as a network sees it."""
    size = ratio.seen(source.shape[:2])
    return source if size == source.shape[:2] else Rescaled(source, size)


def _strip(source: Source, start: int, count: int) -> np.ndarray:
    """Rows start … start + count - 1, mirrored at the image's borders: [count, W, C] as stored."""
    rows = mirrored(start, start + count, source.shape[0])
    low, high = int(rows.min()), int(rows.max()) + 1
    strip = read_rows(source, low, high)
    return strip if start == low and start + count == high else strip[rows - low]


def _window(strip: np.ndarray, number: int, axis: Axis) -> np.ndarray:
    start = number * axis.step - axis.context
    return strip[:, mirrored(start, start + axis.tile, strip.shape[1])]


def _background(classes: int) -> np.ndarray:
    """What is said of a pixel that was never measured, [K]: class 0, certainly."""
    return np.zeros(1) if classes == 1 else np.eye(1, classes)[0]


def quantized(probabilities: np.ndarray, dtype: Stored) -> np.ndarray:
    """float32 probabilities as they are stored; uint8 is round(255 p)."""
    if dtype == "uint8":
        return np.rint(probabilities * np.float32(255)).clip(0, 255).astype(np.uint8)
    return probabilities.astype(dtype, copy=False)


def to_classes(probabilities: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """The most probable class of each pixel: [H, W, K] float -> [H, W] int32.

    With one channel, class 1 where the probability is above `threshold`.
    """
    if probabilities.shape[-1] == 1:
        return (probabilities[..., 0] > threshold).astype(np.int32)
    return probabilities.argmax(-1).astype(np.int32)
