"""Scale at which an image is predicted: of the diameter of its objects, or of its pixels' size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from keras_unet.data.stored_pixels import PixelSize, as_nan
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.inputs import Source, missing_of
from keras_unet.inference.options import PredictOptions
from keras_unet.inference.rescaling import BICUBIC, resized
from keras_unet.models.decoding import Decoding
from keras_unet.models.model_card import ModelCard

LEAST, MOST = 0.1, 10.0  # of a ratio
OBJECTS = 5  # from fewer, no diameter is estimated
PASSES = 3  # of an estimate, the first at the image's own scale
PIXELS = 4_000_000  # that the network sees in a pass
ALIKE = 1.25  # ratio of two diameters up to which they count as alike
Say = Callable[[str], None]


class ScaleWarning(UserWarning):
    """The scale of an image could not be estimated."""


class Ratio(NamedTuple):
    """Pixels that the network sees over those of the image, down a column and along a row."""

    height: float = 1.0
    width: float = 1.0

    def seen(self, size: tuple[int, int]) -> tuple[int, int]:
        """Size that the network sees of an image of `size` (height, width)."""
        return max(1, round(size[0] * self.height)), max(1, round(size[1] * self.width))

    @property
    def length(self) -> float:
        """Of a diameter."""
        return float((self.height * self.width) ** 0.5)


NATIVE = Ratio()


def require_known(options: PredictOptions, card: ModelCard) -> None:
    """Raises ConfigError where the card lacks what the scale is relative to, or it is too far."""
    if options.diameter is not None and card.diameter is None:
        raise ConfigError(
            f"diameter={options.diameter}: the card of {card.name} does not state how large the "
            "objects were that it was trained on; train it again on instance labels (train "
            '--instances), or state it: TrainedModel(network, card.model_copy(update={"diameter": '
            "20.0})) and save_model"
        )
    if options.pixel_size is not None and card.pixel_size is None:
        raise ConfigError(
            f"pixel_size={options.pixel_size}: the card of {card.name} does not state the pixel "
            "size of its training images, as these did not; give diameter instead, or state it: "
            'TrainedModel(network, card.model_copy(update={"pixel_size": 0.5})) and save_model'
        )
    if options.diameter != "auto" and options.pixel_size != "file":
        stated_ratio(options, card, None)


def stated_ratio(
    options: PredictOptions, card: ModelCard, stated: PixelSize | None
) -> Ratio | None:
    """What the options and the image's file say; None: it is to be estimated.

    Args:
        stated: of the image, by its file.

    Raises:
        DataError: the file states no pixel size, or one too far from the model's.
        ConfigError: what is asked for is too far from it.
    """
    if options.diameter == "auto":
        return None
    if options.diameter is not None:
        assert card.diameter is not None  # by require_known
        ratio = card.diameter / options.diameter
        _require_near(ratio, "diameter", options.diameter, "px", card.diameter)
        return Ratio(ratio, ratio)
    if options.pixel_size is None:
        return NATIVE
    assert card.pixel_size is not None
    if options.pixel_size != "file":
        ratio = options.pixel_size / card.pixel_size
        _require_near(1 / ratio, "pixel_size", options.pixel_size, "µm", card.pixel_size)
        return Ratio(ratio, ratio)
    if stated is None:
        raise DataError(
            "states no pixel size; expected an OME-TIFF, ImageJ TIFF or OME-Zarr that does, or "
            "the pixel size itself: pixel_size=0.5 (--pixel-size 0.5), in µm"
        )
    found = Ratio(stated.height / card.pixel_size, stated.width / card.pixel_size)
    if not all(LEAST <= one <= MOST for one in found):
        raise DataError(
            f"states a pixel size of {stated.height:.4g} × {stated.width:.4g} µm; expected "
            f"{LEAST * card.pixel_size:.3g} to {MOST * card.pixel_size:.3g} µm, a tenth to ten "
            "times that of the training images"
        )
    return found


def _require_near(ratio: float, name: str, value: float, unit: str, trained: float) -> None:
    if not LEAST <= ratio <= MOST:
        raise ConfigError(
            f"{name} is {value:g} {unit}; expected {trained / MOST:.3g} to {trained / LEAST:.3g} "
            f"{unit}, a tenth to ten times the {trained:.4g} {unit} of the training images"
        )


def stated_line(options: PredictOptions, card: ModelCard) -> str | None:
    """One line for a person on a scale that need not be estimated; None where none is stated."""
    if options.diameter is not None and options.diameter != "auto":
        assert card.diameter is not None
        ratio = card.diameter / options.diameter
        return (
            f"Scale: objects are {options.diameter:g} px across, the model's were "
            f"{card.diameter:.3g} px: rescaled by {ratio:.3g}"
        )
    if options.pixel_size is None:
        return None
    told = f"the model's images had {card.pixel_size:.4g} µm a pixel"
    if options.pixel_size == "file":
        return f"Scale: {told}; files are rescaled by what each states"
    assert card.pixel_size is not None
    ratio = options.pixel_size / card.pixel_size
    return f"Scale: {options.pixel_size:.4g} µm a pixel, {told}: rescaled by {ratio:.3g}"


class Estimate(NamedTuple):
    """A diameter estimated from an image: what of, and the ratio that follows from it."""

    diameter: float | None  # median, in the image's pixels; None: too few objects
    objects: int
    ratio: Ratio

    def line(self, card: ModelCard) -> str:
        """One line for a person."""
        if self.diameter is None:
            return (
                f"{self.objects} object{'s' * (self.objects != 1)} found, too few to tell their "
                f"diameter ({OBJECTS} would be enough): scale 1; you may state a diameter"
            )
        found = f"objects are {self.diameter:g} px across (median of {self.objects})"
        if self.ratio == NATIVE:
            low, high = known_range(card)
            return f"{found}, which suits the model ({low:.3g} to {high:.3g} px): scale 1"
        return (
            f"{found}, the model's were {card.diameter:.3g} px: rescaled by "
            f"{self.ratio.length:.3g}, as diameter={self.diameter:g} would"
        )


def estimate(look: Callable[[Ratio], np.ndarray], card: ModelCard) -> Estimate:
    """Estimates the diameter of an image's objects: finds them, at the image's own scale first.

    Where their median is none that the model knows, they are found again at the scale that it asks
    for, which changes the median, up to `PASSES` times in all: as Cellpose does (Stringer et al.
    2021, Nature Methods 18:100), without a network of its own for it.

    Args:
        look: finds objects at a scale, and gives their diameters in the image's own pixels.
        card: with a diameter.
    """
    best: Estimate | None = None
    ratio = NATIVE
    for _ in range(PASSES):
        across = look(ratio)
        if len(across) < OBJECTS:
            return best or Estimate(None, len(across), NATIVE)
        diameter = float(f"{np.median(across):.3g}")
        best = Estimate(diameter, len(across), _ratio_for(diameter, card))
        before, ratio = ratio, best.ratio
        if max(ratio.height / before.height, before.height / ratio.height) <= ALIKE:
            break
    assert best is not None  # there is a pass
    return best


def known_range(card: ModelCard) -> tuple[float, float]:
    """Between which median diameters an image stays as it is, pixels.

    From the smallest of the training images to a little above the usual one. Measured on nuclei
    (`benchmarks/scale.py`, F1 0.880): resized by 0.5 and 2 they lose 0.017 and 0.018, as they are
    0.005. With the largest training images as the upper limit, those resized by 2 lose 0.059:
    enlarged objects come apart. With no range at all, images as they are lose 0.020.
    """
    assert card.diameter is not None  # by require_known
    low = card.diameter / ALIKE
    if card.diameter_range is not None:
        low = min(low, card.diameter_range[0])
    return low, card.diameter * ALIKE


def _ratio_for(diameter: float, card: ModelCard) -> Ratio:
    low, high = known_range(card)
    if low <= diameter <= high:
        return NATIVE
    assert card.diameter is not None
    ratio = min(max(card.diameter / diameter, LEAST), MOST)
    return Ratio(ratio, ratio)


def parts(size: tuple[int, int], most: float) -> list[tuple[slice, slice]]:
    """Windows spread over an image that together have about `most` pixels; all of a small one."""
    height, width = size
    if height * width <= most:
        return [(slice(0, height), slice(0, width))]
    side = max(1, int((most / 9) ** 0.5))
    cuts = []
    for length in size:
        part = min(side, length)
        starts = np.unique(np.linspace(0, length - part, 3).round().astype(int)).tolist()
        cuts.append([slice(start, start + part) for start in starts])
    return [(rows, columns) for rows in cuts[0] for columns in cuts[1]]


class Part:
    """A window of a source, as a `Source`; NaN where nothing was measured."""

    def __init__(self, source: Source, rows: slice, columns: slice) -> None:
        self._source, self._top, self._left = source, rows.start, columns.start
        self.shape = (rows.stop - rows.start, columns.stop - columns.start, source.shape[2])
        self.dtype = source.dtype

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """The window [h, w, C]."""
        window = (
            slice(rows.start + self._top, rows.stop + self._top),
            slice(columns.start + self._left, columns.stop + self._left),
        )
        found = self._source.read(*window)
        return as_nan(found, missing_of(self._source, *window, found))


def looked_at(pages: Sequence[Source]) -> list[Source]:
    """Up to three pages, evenly chosen, that an estimate looks at."""
    chosen = np.unique(np.linspace(0, len(pages) - 1, 3).round().astype(int))
    return [pages[number] for number in chosen]


def objects_at(foreground: np.ndarray, decoding: Decoding, ratio: Ratio = NATIVE) -> np.ndarray:
    """The objects of an image that was predicted at a scale.

    They are found where they have most pixels: in the image, or, if that was enlarged, at the scale
    of the network, which lengths in pixels are meant for. Measured on nuclei of half their size, F1
    is 0.03 higher than without enlarging.

    Args:
        foreground: [H, W] in the image's size: its probability, float32, or a mask, bool.

    Returns:
        int32 [H, W], see `to_instances`.
    """
    from keras_unet.inference.objects.finding import numbered, to_instances  # slow to import

    size = (foreground.shape[0], foreground.shape[1])
    seen = ratio.seen(size)
    if seen == size:
        return to_instances(foreground, **decoding.arguments)
    if ratio.length <= 1:
        return to_instances(foreground, **decoding.enlarged(1 / ratio.length).arguments)
    larger = resized(foreground.astype(np.float32), seen, BICUBIC).clip(0, 1)
    labels = to_instances(larger, **decoding.arguments)
    rows, columns = (
        ((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size, seen, strict=True)
    )
    return numbered(labels[np.ix_(rows, columns)])
