"""Which pixels a tile may be centred on, so that rare classes are seen more often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_unet.augment.threefry import sample_bits, uniform
from keras_unet.errors import ConfigError

Tensor = Any

STREAM = 1 << 17  # apart from the streams of the augmentation's draws, see `augment.draws`
MOST = 1 << 22  # pixels in the table: 32 MiB


class ForegroundPixels(NamedTuple):
    """Pixels of each class above 0, in the images that hold it.

    Attributes:
        share: of the tiles that are centred on such a pixel.
        images: int32 [P], the image of each pair of a class and an image; class by class.
        classes: int32 [C, 2], first pair and number of pairs of each class that occurs.
        pairs: int32 [P, 2], first pixel and number of pixels of each pair.
        pixels: int32 [Q, 2], their (y, x).
    """

    share: float
    images: np.ndarray
    classes: np.ndarray
    pairs: np.ndarray
    pixels: np.ndarray

    def choose(self, index: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """For a share of the requests another image and the centre of the tile in it.

        A class is drawn, then one of the images that hold it, then one of its pixels there, each
        evenly: as nnU-Net (Isensee et al. 2021, supplementary note 2: a third of the patches), but
        for the image, which is drawn too, so that a class of few images comes as often as others.

        Args:
            index: int32 [batch], the images asked for.
            seeds: int32 [batch, 2], of the tiles; their other draws stay as they are.

        Returns:
            index int32 [batch], and centre int32 [batch, 2], (-1, -1) where nothing is changed.
        """
        import tensorflow as tf

        first, second = (uniform(bits) for bits in sample_bits(seeds, STREAM, 2))
        kind = tf.gather(self.classes, _below(first[:, 0], len(self.classes)))
        pair = kind[:, 0] + _below(first[:, 1], kind[:, 1])
        place = tf.gather(self.pairs, pair)
        pixel = place[:, 0] + _below(second[:, 0], place[:, 1])
        chosen = second[:, 1] < self.share
        centre = tf.where(chosen[:, None], tf.gather(self.pixels, pixel), -1)
        return tf.where(chosen, tf.gather(self.images, pair), tf.cast(index, tf.int32)), centre


def foreground_pixels(
    classes: Sequence[np.ndarray], share: float, seed: int = 0
) -> ForegroundPixels:
    """Collects the pixels, at random where there are too many.

    Args:
        classes: class of each pixel of each image, unsigned [H, W].
        share: of the tiles, 0 … 1.
        seed: of the choice among too many pixels.

    Raises:
        ConfigError: no image has a pixel above class 0.
    """
    found = [(int(k), n) for n, image in enumerate(classes) for k in np.unique(image) if k > 0]
    if not found:
        raise ConfigError(
            "oversample needs pixels of a class above 0: the training images have none"
        )
    found.sort()
    most = max(MOST // len(found), 16)
    rng = np.random.default_rng(seed)
    pixels = []
    for kind, number in found:
        at = np.flatnonzero(classes[number] == kind)
        at = rng.choice(at, most, replace=False) if len(at) > most else at
        pixels.append(np.stack(np.unravel_index(at, classes[number].shape), 1).astype(np.int32))
    _, first, count = np.unique([k for k, _ in found], return_index=True, return_counts=True)
    lengths = [len(part) for part in pixels]
    return ForegroundPixels(
        share=share,
        images=np.array([n for _, n in found], np.int32),
        classes=np.stack([first, count], 1).astype(np.int32),
        pairs=np.stack([np.cumsum(lengths) - lengths, lengths], 1).astype(np.int32),
        pixels=np.concatenate(pixels),
    )


def _below(number: Tensor, count: Any) -> Tensor:
    """A uniform number in [0, 1) as an int32 in 0 … count - 1."""
    import tensorflow as tf

    count = tf.cast(count, tf.int32)
    scaled = tf.floor(number * tf.cast(count, tf.float32))
    return tf.minimum(tf.cast(scaled, tf.int32), count - 1)  # a product may be rounded up
