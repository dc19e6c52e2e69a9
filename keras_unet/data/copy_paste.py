"""Copy-paste of objects from image to image, many of them so that they touch another.

After Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation" (CVPR). Here images are composed before the training, so that their weight maps are
made as those of all images are, and a step costs nothing more. What is pasted is how an object
differs from the background around it: light adds, and so does, nearly, what a stain takes away.
So objects that are made to touch have no dark gap between them, which real ones don't have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from keras_unet.data.label_rule import IGNORED
from keras_unet.data.samples import Sample

MORE = (0.25, 1.0)  # pasted objects, as a share of those that an image has
TOUCHING = 0.5  # share of them that are made to touch one that is there
OVERLAP = 0.1  # what a pasted object may cover, at most: share of the smaller one's pixels
GAP = 2  # pixels of background around the other pasted ones, at least
TRIES = 20  # places for an object, before it is left out
HALO = 3  # pixels around an object that are pasted too, less and less
RING = 6  # pixels around an object where its background is looked for
SPECK = 9  # pixels: smaller objects are not pasted
SIZES, CONTRASTS, COLOURS = 2.0, 3.0, 0.8  # see `_alike`


class Cutout(NamedTuple):
    """An object with its surroundings.

    mask: bool [h, w]. difference: float32 [h, w, C], from the background, fading out around it.
    """

    mask: np.ndarray
    difference: np.ndarray


class Look(NamedTuple):
    """The objects of an image, and what can be pasted of them.

    labels: int32 [H, W], their numbers 1 … M. centres: float [M, 2], their (y, x). diameter:
    pixels, the median of those that can be pasted. contrast: float32 [C], the median of how they
    differ from their background.
    """

    labels: np.ndarray
    centres: np.ndarray
    cutouts: list[Cutout]
    diameter: float
    contrast: np.ndarray


def composed(samples: Sequence[Sample], share: float, seed: int = 0) -> list[Sample]:
    """Images with objects of others pasted in: round(share · N) of them, for N samples.

    Each begins as one of the samples that hold objects, all of them in turn, and gets a quarter to
    as many more: whole ones of images whose objects have about its size and contrast (its own,
    where there is no such image), turned by right angles and flipped. Half of them are put where
    they touch another.

    Args:
        samples: with `instances`.
        share: composed images for each sample, 0 or more.
        seed: the same gives the same images.

    Returns:
        Samples named after the one that each began as, in its dtype; none where no sample holds an
        object that can be pasted.
    """
    rng, count = np.random.default_rng(seed), round(share * len(samples))
    looks = {k: found for k, s in enumerate(samples) if count and (found := _look(s)) is not None}
    rounds = -(-count // len(looks)) if looks else 0
    order = [k for _ in range(rounds) for k in rng.permutation(list(looks))]
    made = []
    for number, k in enumerate(order[:count], 1):
        own = looks[k]
        scene = _Scene(samples[k], own)
        others = [one for one in looks.values() if one is not own and _alike(one, own)] or [own]
        for _ in range(max(1, round(rng.uniform(*MORE) * len(own.centres)))):
            other = others[int(rng.integers(len(others)))]
            cutout = _turned(other.cutouts[int(rng.integers(len(other.cutouts)))], rng)
            gain = float(np.linalg.norm(own.contrast) / np.linalg.norm(other.contrast))
            scene.paste(cutout, gain, rng)
        made.append(scene.sample(f"{samples[k].name}+{number}"))
    return made


def _look(sample: Sample) -> Look | None:
    """The objects of a sample; None where none can be pasted."""
    assert sample.instances is not None and sample.classes is not None
    values, labels = np.unique(sample.instances, return_inverse=True)
    labels = (labels.reshape(sample.instances.shape) + (values[0] != 0)).astype(np.int32)
    cutouts, centres, contrasts = [], [], []
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        wide = tuple(slice(max(part.start - RING, 0), part.stop + RING) for part in box)
        around = labels[wide]
        mask = around == number
        centres.append(np.add(ndimage.center_of_mass(mask), [part.start for part in wide]))
        ends = zip(box, labels.shape, strict=True)
        whole = all(part.start > 0 and part.stop < size for part, size in ends)
        far = ndimage.distance_transform_edt(~mask)
        background = (around == 0) & (far > GAP)
        ignored = (sample.classes[wide] == IGNORED).any()
        if not whole or ignored or mask.sum() < SPECK or not background.any():
            continue
        difference = sample.image[wide].astype(np.float32)
        difference -= np.median(difference[background], axis=0)
        contrasts.append(difference[mask].mean(axis=0))
        fading = np.where(mask | (around == 0), np.clip(1 - far / (HALO + 1), 0, 1), 0)
        cutouts.append(Cutout(mask, difference * fading[..., None].astype(np.float32)))
    contrast = np.median(contrasts, axis=0) if contrasts else np.zeros(1)
    if not np.linalg.norm(contrast) > 0:
        return None
    area = float(np.median([cutout.mask.sum() for cutout in cutouts]))
    return Look(labels, np.array(centres), cutouts, 2 * (area / np.pi) ** 0.5, contrast)


def _alike(one: Look, other: Look) -> bool:
    """Are the objects of two images of about one size, contrast and colour, as dark or bright?"""
    sizes = sorted((one.diameter, other.diameter))
    contrasts = sorted(float(np.linalg.norm(look.contrast)) for look in (one, other))
    return (
        sizes[1] <= SIZES * sizes[0]
        and contrasts[1] <= CONTRASTS * contrasts[0]
        and float(one.contrast @ other.contrast) >= COLOURS * contrasts[0] * contrasts[1]
    )


def _turned(cutout: Cutout, rng: np.random.Generator) -> Cutout:
    turns, flip = int(rng.integers(4)), int(rng.integers(2))
    return Cutout(*(np.rot90(array, turns)[:: 1 - 2 * flip] for array in cutout))


class _Scene:
    """An image to paste into, and what is in it by now."""

    def __init__(self, sample: Sample, look: Look) -> None:
        assert sample.classes is not None
        self._sample, self._image = sample, sample.image.astype(np.float32)
        self._labels, self._classes = look.labels.copy(), sample.classes.copy()
        self._centres = list(look.centres)
        self._areas = np.bincount(self._labels.ravel()).tolist()

    def paste(self, cutout: Cutout, gain: float, rng: np.random.Generator) -> None:
        """Adds an object, its difference times `gain`, where there is room; else nothing."""
        mask, difference = cutout
        middle = np.array(ndimage.center_of_mass(mask))
        touching = rng.random() < TOUCHING
        place = (self._beside if touching else self._apart)(mask, middle, rng)
        if place is None:
            return
        here, part = _windows(place, mask.shape, self._labels.shape)
        self._image[here] += np.float32(gain) * difference[part]
        new = mask[part]
        numbers, pixels = np.unique(self._labels[here][new], return_counts=True)
        for number, lost in zip(numbers, pixels, strict=True):
            self._areas[number] -= int(lost)
        self._labels[here][new] = len(self._areas)
        self._classes[here][new] = 1
        self._areas.append(int(new.sum()))
        self._centres.append(place + middle)

    def _apart(
        self, mask: np.ndarray, middle: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray | None:
        """Where the mask's first row and column go, (y, x), with background all around."""
        wide = ndimage.binary_dilation(mask, iterations=GAP)
        for _ in range(TRIES):
            place = np.rint(rng.uniform((0, 0), self._labels.shape) - middle).astype(int)
            if self._fits(place, wide, 0.0):
                return place
        return None

    def _beside(
        self, mask: np.ndarray, middle: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray | None:
        """As `_apart`, but moved from the middle of an object until it covers next to nothing."""
        for _ in range(TRIES):
            start = self._centres[int(rng.integers(len(self._centres)))]
            angle = rng.uniform(0, 2 * np.pi)
            for step in range(max(self._labels.shape)):
                centre = start + step * np.array([np.sin(angle), np.cos(angle)])
                if (centre < 0).any() or (centre > np.subtract(self._labels.shape, 1)).any():
                    break
                place = np.rint(centre - middle).astype(int)
                if self._fits(place, mask, OVERLAP):
                    return place
        return None

    def _fits(self, place: np.ndarray, mask: np.ndarray, overlap: float) -> bool:
        """Does a mask there cover only so much of any object, and only pixels that count?"""
        here, part = _windows(place, mask.shape, self._labels.shape)
        if (self._classes[here][mask[part]] == IGNORED).any():
            return False
        covered = self._labels[here][mask[part]]
        numbers, pixels = np.unique(covered[covered > 0], return_counts=True)
        areas = np.array([self._areas[number] for number in numbers])
        return bool(pixels.sum() <= overlap * mask.sum() and (pixels <= overlap * areas).all())

    def sample(self, name: str) -> Sample:
        """What it has become."""
        image = self._image
        if self._sample.image.dtype.kind in "iu":
            kept = np.iinfo(self._sample.image.dtype)
            image = np.clip(np.rint(image), kept.min, kept.max)
        return replace(
            self._sample,
            name=name,
            image=image.astype(self._sample.image.dtype),
            classes=self._classes,
            instances=self._labels,
            border=None,
        )


Window = tuple[slice, slice]


def _windows(
    place: np.ndarray, shape: tuple[int, ...], size: tuple[int, ...]
) -> tuple[Window, Window]:
    """Where a part lies in an image of this size, and which of the part's pixels are in it."""
    here, part = [], []
    for first, length, whole in zip(place.tolist(), shape, size, strict=True):
        low, high = max(first, 0), min(first + length, whole)
        here.append(slice(low, max(low, high)))
        part.append(slice(low - first, max(low, high) - first))
    return (here[0], here[1]), (part[0], part[1])
