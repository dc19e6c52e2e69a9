"""Grey values to the numbers that the network sees: fixed in training, stored, never guessed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from keras_unet.errors import ConfigError, DataError

Method = Literal["image", "dataset", "range"]
FLOOR = 1e-6  # least standard deviation, as a share of the image's largest magnitude


class Normalization(BaseModel):
    """A rule that turns an image into float32: `(image - shift) * scale`, channel by channel.

    - "image": each image by its own mean and standard deviation (z-score). A constant channel
      becomes zeros.
    - "dataset": by the mean and standard deviation of all pixels of the training images. A
      channel that was constant in training becomes zeros: the network learned nothing from it.
    - "range": divided by the full range of the training images' dtype (255, 65535; floating
      point images are expected in [0, 1] and are left as they are).

    Make one with `Normalization()` ("image") or `Normalization.fit(method, images)`. It holds
    numbers only and goes to JSON and back (`model_dump_json`, `model_validate_json`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = "image"
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
    def fit(cls, method: Method, images: Iterable[np.ndarray]) -> Normalization:
        """Learns what `method` needs from the training images, each [H, W, C].

        Raises:
          ConfigError: an unknown method.
          DataError: no images, unequal channel counts, values that aren't finite.
        """
        if method == "image":
            return cls()
        if method == "range":
            return cls(method="range", scale=max(_full_ranges(images)))
        if method != "dataset":
            raise ConfigError(
                f'normalization is {method!r}; expected "image", "dataset" or "range"'
            )
        count, mean, squares = 0, np.zeros(0), np.zeros(0)
        for image in images:
            n, own_mean, own_squares = _moments(image)
            if count == 0:
                mean, squares = np.zeros_like(own_mean), np.zeros_like(own_squares)
            elif len(mean) != len(own_mean):
                raise DataError(
                    f"found images with {len(mean)} and with {len(own_mean)} channels; "
                    "expected one number of channels in a data set"
                )
            # Chan, Golub, LeVeque 1979: sums of squares of two sets joined without a second pass.
            delta = own_mean - mean
            squares = squares + own_squares + delta**2 * (count * n / (count + n))
            mean = mean + delta * (n / (count + n))
            count += n
        if count == 0:
            raise DataError("found no images to learn the normalisation from; expected at least 1")
        std = np.sqrt(squares / count)
        return cls(method="dataset", mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    def parameters(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shift, scale), each float32 [C], so that normalised = (image - shift) * scale.

        Args:
          image: [H, W, C], in the dtype it was stored in.

        Raises:
          DataError: not three-dimensional, empty, not finite, another number of channels than in
            training ("dataset"), or brighter than the trained range ("range").
        """
        if self.method == "image":
            count, mean, squares = _moments(image)
            std = np.maximum(np.sqrt(squares / count), FLOOR * _span(image))
        elif self.method == "dataset":
            _require_image(image)
            mean, std = np.asarray(self.mean), np.asarray(self.std)
            if image.shape[2] != len(mean):
                raise DataError(
                    f"found an image with {image.shape[2]} channels; expected {len(mean)}, "
                    "as in the images that the normalisation was learned from"
                )
            std = np.where(std > FLOOR * np.maximum(np.abs(mean), std), std, 0.0)
        else:
            assert self.scale is not None  # by _consistent
            _require_image(image)
            brightest = float(image.max())
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
        out = image.astype(np.float32)
        out -= shift
        out *= scale
        return out


def _require_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.size == 0:
        raise DataError(
            f"found an image of shape {image.shape}; expected [height, width, channels]"
        )


def _moments(image: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """Pixels, mean [C] and sum of squared deviations [C], in float64, a band of rows at a time."""
    _require_image(image)
    height, width, channels = image.shape
    count = height * width
    mean = image.mean(axis=(0, 1), dtype=np.float64)
    if not np.all(np.isfinite(mean)):
        raise DataError("found grey values that are NaN or infinite; expected finite ones")
    squares = np.zeros(channels)
    rows = max(1, (1 << 20) // (width * channels))
    for top in range(0, height, rows):
        band = image[top : top + rows].astype(np.float64) - mean
        squares += np.einsum("hwc,hwc->c", band, band)
    return count, mean, squares


def _span(image: np.ndarray) -> float:
    """The largest magnitude: the same for an image and its float32 copy, as a server gets it."""
    return max(abs(float(image.min())), abs(float(image.max())))


def _full_ranges(images: Iterable[np.ndarray]) -> list[float]:
    found: list[float] = []
    for image in images:
        _require_image(image)
        if np.issubdtype(image.dtype, np.integer):
            found.append(float(np.iinfo(image.dtype).max))
            continue
        low, high = float(image.min()), float(image.max())
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
