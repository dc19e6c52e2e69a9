"""Partly labelled images, such as scribbles: where tiles are drawn, and what ignored pixels hide.

Of an image with a few strokes, most random tiles would hold no labelled pixel. So tiles are drawn
around blocks of the image in which something is labelled, every such block as often as any other:
dense strokes do not come more often than lone ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

Tensor = Any

STREAM = 1 << 18  # apart from the streams of the augmentation's draws, see `augment.draws`
BLOCKS = 4  # along a side of a tile's output: a tile around any pixel of a block holds it whole
EVERYWHERE = 0.9  # of the images' area in such blocks: random tiles will do


class LabelledPlaces(NamedTuple):
    """Blocks of the images that hold a labelled pixel.

    Attributes:
        images: int32 [N, 2], first block and number of blocks of each image.
        blocks: int32 [Q, 4], top, left, height and width of each, image by image.
        areas: int64 [N], pixels of each image's blocks.
        pixels: labelled pixels of all images.
        whole: pixels of all images.
        share: of labelled pixels in the outputs of tiles that are drawn around these blocks.
    """

    images: np.ndarray
    blocks: np.ndarray
    areas: np.ndarray
    pixels: int
    whole: int
    share: float

    @property
    def everywhere(self) -> bool:
        """Whether labels are spread over all images, so that random tiles hold some too."""
        return bool(self.areas.sum() >= EVERYWHERE * self.whole)

    def describe(self) -> str:
        """In one line."""
        return (
            f"Labels: {self.pixels / self.whole:.2g} of the pixels, in blocks that cover "
            f"{self.areas.sum() / self.whole:.2g} of the area: tiles are drawn there"
        )

    def choose(self, index: Tensor, seeds: Tensor) -> Tensor:
        """The centre of each tile: a block of its image, then a pixel of it, each evenly.

        Args:
            index: int32 [batch], the images, each with a labelled pixel.
            seeds: int32 [batch, 2], of the tiles; their other draws stay as they are.

        Returns:
            int32 [batch, 2], (y, x).
        """
        import tensorflow as tf

        from keras_unet.augment.draws import below, sample_bits, uniform

        first, second = (uniform(bits) for bits in sample_bits(seeds, STREAM, 2))
        place = tf.gather(self.images, index)
        block = tf.gather(self.blocks, place[:, 0] + below(first[:, 0], place[:, 1]))
        inside = [below(second[:, axis], block[:, 2 + axis]) for axis in (0, 1)]
        return block[:, :2] + tf.stack(inside, axis=1)


def labelled_places(labelled: Sequence[np.ndarray], output: int) -> LabelledPlaces:
    """Looks for the blocks.

    Args:
        labelled: bool [H, W] of each image: pixels that count.
        output: pixels a side of a tile's output.
    """
    side = max(output // BLOCKS, 1)
    blocks, shares = [], []
    for mask in labelled:
        tops, lefts = (np.arange(0, n, side) for n in mask.shape)
        counts = np.add.reduceat(np.add.reduceat(mask, tops, 0, dtype=np.int64), lefts, 1)
        row, column = np.nonzero(counts)
        corner = np.stack([tops[row], lefts[column]], 1)
        size = np.minimum(corner + side, mask.shape) - corner
        blocks.append(np.concatenate([corner, size], 1).astype(np.int32))
        shares.append(_share_around(mask, corner + size // 2, output))
    number = [len(part) for part in blocks]
    areas = np.array([int(part[:, 2:].prod(axis=1, dtype=np.int64).sum()) for part in blocks])
    return LabelledPlaces(
        images=np.stack([np.cumsum(number) - number, number], 1).astype(np.int32),
        blocks=np.concatenate(blocks),
        areas=areas,
        pixels=int(sum(np.count_nonzero(mask) for mask in labelled)),
        whole=int(sum(mask.size for mask in labelled)),
        share=float(np.average(shares, weights=areas)) if areas.any() else 0.0,
    )


def places_of_tiles(labelled: Sequence[np.ndarray], output: int) -> LabelledPlaces | None:
    """`labelled_places` where tiles are to be drawn around them; None: anywhere."""
    if all(mask.all() for mask in labelled):
        return None
    places = labelled_places(labelled, output)
    return None if places.everywhere else places


def _share_around(mask: np.ndarray, centres: np.ndarray, side: int) -> float:
    """The mean share of True in squares around the centres [n, 2], as far as they are inside."""
    if not len(centres):
        return 0.0
    kind = np.int32 if mask.size < 2**31 else np.int64
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), kind)
    inner = np.cumsum(mask, axis=0, dtype=kind, out=sums[1:, 1:])
    np.cumsum(inner, axis=1, out=inner)
    low = np.maximum(centres - side // 2, 0)
    high = np.minimum(centres - side // 2 + side, mask.shape)
    (top, left), (bottom, right) = low.T, high.T
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return float(np.mean(inside / (high - low).prod(axis=1)))


def nearest_class(classes: np.ndarray) -> np.ndarray:
    """Classes [H, W] whose ignored pixels (-1) have the class of the nearest pixel that counts.

    Where an image is turned or bent, a weight is mixed of four pixels and a class is that of the
    nearest: at the edge of a stroke, an ignored pixel's class may meet a weight above 0, and must
    not be another one. Without any pixel that counts, 0.
    """
    ignored = classes < 0
    if not ignored.any() or ignored.all():
        return np.maximum(classes, 0)
    nearest = ndimage.distance_transform_edt(ignored, return_distances=False, return_indices=True)
    return classes[tuple(nearest)]


def known_components(classes: np.ndarray) -> np.ndarray:
    """Components of the foreground, int32 [H, W], of which none is known to end in ignored pixels.

    Two pieces that ignored pixels (-1) connect may belong to one object, as two strokes in one
    cell do; they have one number, so that nobody sees a gap between them that is none.
    """
    joined = ndimage.label(classes != 0)[0]
    # above 255: a mask of 1 or 255 alone would be taken for one whose components are sought
    return np.where(classes > 0, joined + 255, 0).astype(np.int32)


def whole_objects(objects: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Those of the numbered objects [H, W] that no ignored pixel touches, by a side or a corner."""
    near = ndimage.binary_dilation(ignored, np.ones((3, 3), bool))
    cut = np.unique(objects[near])
    return np.where(np.isin(objects, cut), 0, objects)
