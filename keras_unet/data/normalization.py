"""Normalization of grey values: fixed in training, stored with the model, never guessed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

import numpy as np
from pydantic import model_validator

from keras_unet.data.stored_pixels import NODATA, missing_pixels
from keras_unet.errors import ConfigError, DataError
from keras_unet.settings import Frozen

NormalizationMethod = Literal["image", "dataset", "range"]  # what training images are normalised by


class RowArray(Protocol):
    """What `Normalization.parameters` reads: an array, or one that is read by rows from a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice) -> np.ndarray: ...


STD_FLOOR = 1e-6  # least standard deviation, as a share of the image's largest magnitude


class Normalization(Frozen):
    """A rule that turns an image into float32: `(image - shift) * scale`, channel by channel.

    - "image": each image by its own mean and standard deviation (z-score). A constant channel
      becomes zeros.
    - "dataset": by the mean and standard deviation of all pixels of the training images. A
      channel that was constant in training becomes zeros: the network learned nothing from it.
    - "range": divided by the full range of the training images' dtype (255, 65535; floating
      point images are expected in [0, 1] and are left as they are).
    - "none": the grey values of the files, as they are: what a network in a script got, unless its
      owner states otherwise.

    Pixels that were never measured, NaN in any channel, count in none of the numbers and become 0.

    Make one with `Normalization()` ("image") or `Normalization.fit(method, images)`. It holds
    numbers only and goes to JSON and back (`model_dump_json`, `model_validate_json`).
    """

    method: NormalizationMethod | Literal["none"] = "image"
    mean: tuple[float, ...] | None = None  # "dataset": one a channel, in grey values
    std: tuple[float, ...] | None = None  # "dataset": one a channel, in grey values
    scale: float | None = None  # "range": the grey value that becomes 1

    @model_validator(mode="after")
    def _consistent(self) -> Normalization:
        if self.method == "dataset":
            if not self.mean or not self.std or len(self.mean) != len(self.std):
                raise ValueError(
                    f'method "dataset" needs mean and std, one number a channel; found '
                    f"mean={self.mean}, std={self.std}: use Normalization.fit"
                )
            if not np.all(np.isfinite(self.mean + self.std)) or min(self.std) < 0:
                raise ValueError(
                    f"expected finite mean and std ≥ 0; found mean={self.mean}, std={self.std}"
                )
        elif self.mean is not None or self.std is not None:
            raise ValueError(f'mean and std belong to "dataset"; method is "{self.method}"')
        if self.method == "range":
            if self.scale is None or not 0 < self.scale < float("inf"):
                raise ValueError(f'method "range" needs scale > 0; found {self.scale}')
        elif self.scale is not None:
            raise ValueError(f'scale belongs to "range"; method is "{self.method}"')
        return self

    @classmethod
    def of(cls, stated: Normalization | str | float | None) -> Normalization:
        """What a person states of a network's input.

        Args:
          stated: None or "none": images go in as they are; "image"; a number that grey values are
            divided by, such as 255; a `Normalization`, or its JSON.

        Raises:
          ConfigError: none of these.
        """
        if isinstance(stated, Normalization):
            return stated
        try:
            if stated in (None, "none", "image"):
                return cls(method=stated or "none")  # type: ignore[arg-type]
            if isinstance(stated, str) and stated.lstrip().startswith("{"):
                return cls.model_validate_json(stated)
            return cls(method="range", scale=float(stated))  # type: ignore[arg-type]
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f'normalization is {stated!r}; expected "none", "image", a number above 0 that '
                "grey values are divided by, or a Normalization (its JSON on the command line), "
                "such as Normalization.fit gives"
            ) from error

    @classmethod
    def fit(cls, method: NormalizationMethod, images: Iterable[np.ndarray]) -> Normalization:
        """Learns what `method` needs from the training images, each [H, W, C].

        Raises:
          ConfigError: an unknown method.
          DataError: no images, unequal channel counts, infinite values, none that were measured.
        """
        if method == "image":
            return cls()
        if method == "range":
            return cls(method="range", scale=max(_full_ranges(images)))
        if method != "dataset":
            raise ConfigError(
                f'normalization is {method!r}; expected "image", "dataset" or "range"'
            )
        total: _Moments | None = None
        for image in images:
            own = _moments(image)
            if total is not None and len(total.mean) != len(own.mean):
                raise DataError(
                    f"found images with {len(total.mean)} and with {len(own.mean)} channels; "
                    "expected one number of channels in a data set"
                )
            total = own if total is None else _joined(total, own)
        if total is None:
            raise DataError("found no images to learn the normalisation from; expected at least 1")
        mean, std = total.mean, np.sqrt(total.squares / total.pixels)
        return cls(method="dataset", mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    def parameters(self, image: np.ndarray | RowArray) -> tuple[np.ndarray, np.ndarray]:
        """(shift, scale), each float32 [C], so that normalised = (image - shift) * scale.

        The image is read once, by bands of rows from top to bottom, so that one on disk gives
        exactly what the same one in memory gives; "dataset" reads only its shape.

        Args:
          image: [H, W, C], in the dtype it was stored in: an array, or what is sliced like one.

        Raises:
          DataError: not three-dimensional, empty, infinite, nothing measured, another number
            of channels than in training ("dataset"), or brighter than the trained range ("range").
        """
        if self.method == "image":
            found = _moments(image)
            mean, std = found.mean, np.sqrt(found.squares / found.pixels)
            std = np.maximum(std, STD_FLOOR * max(abs(found.low), abs(found.high)))
        elif self.method == "dataset":
            _require_image(image)
            mean, std = np.asarray(self.mean), np.asarray(self.std)
            if image.shape[2] != len(mean):
                raise DataError(
                    f"found an image with {image.shape[2]} channels; expected {len(mean)}, "
                    "as in the images that the normalisation was learned from"
                )
            std = np.where(std > STD_FLOOR * np.maximum(np.abs(mean), std), std, 0.0)
        elif self.method == "none":
            _require_image(image)
            mean, std = np.zeros(image.shape[2]), np.ones(image.shape[2])
        else:
            assert self.scale is not None  # by _consistent
            _require_image(image)
            brightest = max(float(band.max()) for band in _bands(image))
            if not brightest <= self.scale * (1 + 1e-6):
                raise DataError(
                    f"found grey values up to {brightest:g}; expected at most {self.scale:g}, the "
                    "full range of the images that the model was trained on"
                )
            mean = np.zeros(image.shape[2])
            std = np.full(image.shape[2], self.scale)
        scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)
        return mean.astype(np.float32), scale.astype(np.float32)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The normalised image, float32 [H, W, C]; needs no second copy of it."""
        shift, scale = self.parameters(image)
        return normalized(image, shift, scale)


def normalized(image: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(image - shift) * scale, float32 [..., C]; 0 where a pixel was never measured (NaN)."""
    out = image.astype(np.float32)
    out -= shift
    out *= scale
    if image.dtype.kind == "f":
        out[np.isnan(out).any(axis=-1)] = 0
    return out


class _Moments(NamedTuple):
    """Pixels, mean and sum of squared deviations (float64 [C]), least and largest value."""

    pixels: int
    mean: np.ndarray
    squares: np.ndarray
    low: float
    high: float


def _require_image(image: np.ndarray | RowArray) -> None:
    if len(image.shape) != 3 or 0 in image.shape:
        raise DataError(
            f"found an image of shape {image.shape}; expected [height, width, channels]"
        )


def _bands(image: np.ndarray | RowArray) -> Iterator[np.ndarray]:
    """The measured pixels [h, w, C], or [n, 1, C] where some are NaN: a million values at a time.

    The bands depend on the shape alone.

    Raises:
      DataError: no pixel was measured.
    """
    _require_image(image)
    height, width, channels = image.shape
    rows = max(1, (1 << 20) // (width * channels))
    some = False
    for top in range(0, height, rows):
        band = image[top : min(top + rows, height)]
        missing = missing_pixels(band)
        band = band if missing is None else band[~missing][:, None]
        some |= band.size > 0
        if band.size:
            yield band
    if not some:
        raise DataError(f"holds no measured pixel, all are {NODATA}; expected some")


def _moments(image: np.ndarray | RowArray) -> _Moments:
    total: _Moments | None = None
    for band in _bands(image):
        mean = band.mean(axis=(0, 1), dtype=np.float64)
        if not np.all(np.isfinite(mean)):
            raise DataError("found grey values that are infinite; expected finite ones")
        rest = band.astype(np.float64) - mean
        squares = np.einsum("hwc,hwc->c", rest, rest)
        pixels = band.shape[0] * band.shape[1]
        own = _Moments(pixels, mean, squares, float(band.min()), float(band.max()))
        total = own if total is None else _joined(total, own)
    assert total is not None  # there is a band
    return total


def _joined(a: _Moments, b: _Moments) -> _Moments:
    """Chan, Golub, LeVeque 1979: sums of squares of two sets joined without a second pass."""
    pixels = a.pixels + b.pixels
    delta = b.mean - a.mean
    squares = a.squares + b.squares + delta**2 * (a.pixels * b.pixels / pixels)
    mean = a.mean + delta * (b.pixels / pixels)
    return _Moments(pixels, mean, squares, min(a.low, b.low), max(a.high, b.high))


def _full_ranges(images: Iterable[np.ndarray]) -> list[float]:
    found: list[float] = []
    for image in images:
        _require_image(image)
        if np.issubdtype(image.dtype, np.integer):
            found.append(float(np.iinfo(image.dtype).max))
            continue
        low = min(float(band.min()) for band in _bands(image))
        high = max(float(band.max()) for band in _bands(image))
        if not (low >= 0 and high <= 1):
            raise DataError(
                f'found floating point grey values from {low:g} to {high:g}; "range" expects 0 '
                'to 1: use normalization "image" or "dataset"'
            )
        found.append(1.0)
    if len(set(found)) > 1:
        raise DataError(
            f"found images with full ranges {sorted(set(found))}; expected one dtype for "
            '"range": use normalization "image"'
        )
    if not found:
        raise DataError("found no images to learn the normalisation from; expected at least 1")
    return found
