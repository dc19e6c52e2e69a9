"""Image bank: a data set in memory as one flat run of pixels; tiles are read at any place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_unet.errors import DataError

Tensor = Any


class ImageBank(NamedTuple):
    """Images of any sizes, packed into one run of pixels, in their stored dtype.

    Reading a tile is arithmetic on a flat index, so images of different sizes need one compilation,
    a tile may stick out of its image (mirrored), and nothing but the tile's pixels is computed.
    The tensors live where they were made: build it under `tf.device("GPU:0")` to keep it there.

    Attributes:
        image: [P, C] uint8, uint16 or float32: all images' pixels, rows of `pitch` pixels.
        label: [P], the smallest of uint8, uint16, int32 that holds every label, or None.
        weight: [P] float32, or None.
        offset: [N] int32 (int64 from 2^31 pixels on), each image's first pixel.
        height, width: [N] int32.
        shift, scale: [N, C] float32: normalised = (value - shift) * scale.
        statistics: mean, standard deviation, least and greatest value, each [N, C] float32, of the
            values as stored.
        pitch: pixels from one row to the next, the same in all images: the widest image's width.
        small: no image spans 2^23 pixels of the run or more, and no index needs 64 bits: cheaper
            arithmetic.
    """

    image: Tensor
    label: Tensor | None
    weight: Tensor | None
    offset: Tensor
    height: Tensor
    width: Tensor
    shift: Tensor
    scale: Tensor
    statistics: tuple[Tensor, Tensor, Tensor, Tensor]
    pitch: int
    small: bool

    @classmethod
    def from_arrays(
        cls,
        images: Sequence[np.ndarray],
        labels: Sequence[np.ndarray] | None = None,
        weights: Sequence[np.ndarray] | None = None,
        shift: np.ndarray | None = None,
        scale: np.ndarray | None = None,
        missing: Sequence[np.ndarray | None] | None = None,
    ) -> ImageBank:
        """Pack arrays into a bank.

        Args:
            images: N arrays [H_i, W_i, C] of one dtype: uint8, uint16 or float32.
            labels: N integer arrays [H_i, W_i], or None.
            weights: N arrays [H_i, W_i], stored as float32, or None.
            shift, scale: what broadcasts to [N, C], or None for 0 and 1.
            missing: N times bool [H_i, W_i], or None: pixels that the statistics leave out.

        Raises:
            DataError: names the image and says what was found and what was expected.
        """
        import tensorflow as tf

        images = list(images)
        _check_images(images)
        channels = images[0].shape[2]
        sizes = np.array([image.shape[:2] for image in images], np.int64)
        shelves = _Shelves(sizes)
        kind = np.int64 if shelves.pixels >= 2**31 else np.int32

        label = weight = None
        if labels is not None:
            _check_partners(labels, images, "label")
            label = tf.constant(shelves.flat(labels, _label_dtype(labels)))
        if weights is not None:
            _check_partners(weights, images, "weight")
            weight = tf.constant(shelves.flat(weights, np.dtype(np.float32)))
        full = (len(images), channels)
        return cls(
            image=tf.constant(shelves.flat(images, images[0].dtype)),
            label=label,
            weight=weight,
            offset=tf.constant((shelves.top * shelves.pitch + shelves.left).astype(kind)),
            height=tf.constant(sizes[:, 0].astype(np.int32)),
            width=tf.constant(sizes[:, 1].astype(np.int32)),
            shift=tf.constant(np.broadcast_to(np.float32(0 if shift is None else shift), full)),
            scale=tf.constant(np.broadcast_to(np.float32(1 if scale is None else scale), full)),
            statistics=tuple(tf.constant(value) for value in _statistics(images, missing)),
            pitch=shelves.pitch,
            small=bool(sizes[:, 0].max() * shelves.pitch < 2**23 and kind == np.int32),
        )


def _check_images(images: list[np.ndarray]) -> None:
    if not images:
        raise DataError("a bank needs at least one image; found none")
    first = images[0]
    for number, image in enumerate(images):
        if image.ndim != 3 or 0 in image.shape:
            raise DataError(
                f"image {number} must be [height, width, channels]; found shape {image.shape}"
            )
        if image.dtype not in (np.uint8, np.uint16, np.float32):
            raise DataError(f"image {number} must be uint8, uint16 or float32; found {image.dtype}")
        if (image.dtype, image.shape[2]) != (first.dtype, first.shape[2]):
            raise DataError(
                f"image {number} has {image.shape[2]} channels of {image.dtype}; "
                f"image 0 has {first.shape[2]} of {first.dtype}: all must be alike"
            )


def _label_dtype(labels: Sequence[np.ndarray]) -> np.dtype:
    for number, label in enumerate(labels):
        if label.dtype.kind not in "iub":
            raise DataError(f"label {number} must have an integer dtype; found {label.dtype}")
    low = min(int(label.min()) for label in labels)
    high = max(int(label.max()) for label in labels)
    for dtype in (np.uint8, np.uint16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    raise DataError(f"labels must fit int32; found values from {low} to {high}")


def _check_partners(arrays: Sequence[np.ndarray], images: list[np.ndarray], name: str) -> None:
    if len(arrays) != len(images):
        raise DataError(f"found {len(arrays)} {name}s for {len(images)} images")
    for number, (array, image) in enumerate(zip(arrays, images, strict=True)):
        if array.shape != image.shape[:2]:
            raise DataError(
                f"{name} {number} has shape {array.shape}; its image is {image.shape[:2]}"
            )


class _Shelves:
    """Where images stand in rows of one length: the tallest first, narrow ones side by side.

    Four neighbours are always read: an image of one row or column gets a second one like it, and
    one more row and pixel follow the last image.

    Attributes:
        top, left: [N], each image's first row and column.
        pitch: pixels of a row: the widest image's.
        pixels: of all rows together.
    """

    def __init__(self, sizes: np.ndarray) -> None:
        """sizes: [N, 2], heights and widths."""
        sizes = np.maximum(sizes, 2)
        self.pitch = int(sizes[:, 1].max())
        self.top, self.left = np.zeros((2, len(sizes)), np.int64)
        top = below = 0
        left = self.pitch
        for number in np.argsort(-sizes[:, 0], kind="stable"):
            height, width = (int(size) for size in sizes[number])
            if left + width > self.pitch:  # a new shelf, as high as its first image
                top, below, left = below, below + height, 0
            self.top[number], self.left[number] = top, left
            left += width
        self.pixels = (below + 1) * self.pitch + 1

    def flat(self, arrays: Sequence[np.ndarray], dtype: np.dtype) -> np.ndarray:
        """Arrays [H, W] or [H, W, C] of these sizes as [pixels] or [pixels, C]."""
        run = np.zeros((self.pixels, *arrays[0].shape[2:]), dtype)
        body = run[:-1].reshape(-1, self.pitch, *run.shape[1:])
        for array, top, left in zip(arrays, self.top, self.left, strict=True):
            height, width = array.shape[:2]
            part = body[top : top + max(2, height), left : left + max(2, width)]
            part[:] = array  # one row or column becomes two
        return run


def _statistics(
    images: list[np.ndarray], missing: Sequence[np.ndarray | None] | None
) -> tuple[np.ndarray, ...]:
    """Mean, standard deviation, minimum and maximum, each float32 [N, C]."""
    rows = []
    for image, left_out in zip(images, missing or [None] * len(images), strict=True):
        image = image if left_out is None else image[~left_out][:, None]
        rows.append(
            [
                image.mean(axis=(0, 1), dtype=np.float64),
                image.std(axis=(0, 1), dtype=np.float64),
                image.min(axis=(0, 1)),
                image.max(axis=(0, 1)),
            ]
        )
    return tuple(np.array([row[k] for row in rows], np.float32) for k in range(4))
