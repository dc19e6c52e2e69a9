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
    """What can be pasted of an image, and how it looks.

    centres: float [M, 2], (y, x) of all its objects. diameter: pixels, the median. contrast:
    float32 [C], the median of how objects differ from their background.
    """

    cutouts: list[Cutout]
    centres: np.ndarray
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
    looks = [_look(sample) for sample in samples] if count else []
    usable = [number for number, look in enumerate(looks) if look is not None]
    order = [k for _ in range(count) for k in rng.permutation(usable)][: count * bool(usable)]
    return [
        replace(_compose(samples[k], k, looks, rng), name=f"{samples[k].name}+{number}")
        for number, k in enumerate(order, 1)
    ]


def _look(sample: Sample) -> Look | None:
    """What can be pasted of a sample; None where that is nothing."""
    objects = sample.instances
    assert objects is not None and sample.classes is not None
    cutouts, centres, contrasts = [], [], []
    for number, box in enumerate(ndimage.find_objects(objects), 1):
        if box is None:
            continue
        wide = tuple(slice(max(part.start - RING, 0), part.stop + RING) for part in box)
        around = objects[wide]
        mask = around == number
        centres.append(np.add(ndimage.center_of_mass(mask), [part.start for part in wide]))
        ends = zip(box, objects.shape, strict=True)
        whole = all(part.start > 0 and part.stop < size for part, size in ends)
        far = ndimage.distance_transform_edt(~mask)
        background = (around == 0) & (far > GAP)
        ignored = (sample.classes[wide] == IGNORED).any()
        if not whole or ignored or mask.sum() < SPECK or not background.any():
            continue
        values = sample.image[wide].astype(np.float32)
        values -= np.median(values[background], axis=0)
        fading = np.where(mask | (around == 0), np.clip(1 - far / (HALO + 1), 0, 1), 0)
        cutouts.append(Cutout(mask, values * fading[..., None].astype(np.float32)))
        contrasts.append(values[mask].mean(axis=0))
    if not cutouts:
        return None
    area = float(np.median([cutout.mask.sum() for cutout in cutouts]))
    diameter = 2 * (area / np.pi) ** 0.5
    return Look(cutouts, np.array(centres), diameter, np.median(contrasts, axis=0))


def _alike(one: Look, other: Look) -> bool:
    """Are the objects of two images of about one size and contrast, and on one side of it?"""
    sizes = sorted((one.diameter, other.diameter))
    contrasts = sorted(float(np.linalg.norm(look.contrast)) for look in (one, other))
    return (
        sizes[1] <= SIZES * sizes[0]
        and 0 < contrasts[1] <= CONTRASTS * contrasts[0]
        and float(one.contrast @ other.contrast) >= COLOURS * contrasts[0] * contrasts[1]
    )


def _compose(
    sample: Sample, number: int, looks: Sequence[Look | None], rng: np.random.Generator
) -> Sample:
    own = looks[number]
    assert own is not None and sample.instances is not None and sample.classes is not None
    others = [
        look for look in looks if look is not None and look is not own and _alike(own, look)
    ] or [own]
    image = sample.image.astype(np.float32)
    labels, classes = sample.instances.copy(), sample.classes.copy()
    centres = list(own.centres)
    for _ in range(max(1, round(rng.uniform(*MORE) * len(centres)))):
        look = others[int(rng.integers(len(others)))]
        mask, difference = _turned(look.cutouts[int(rng.integers(len(look.cutouts)))], rng)
        middle = np.array(ndimage.center_of_mass(mask))
        place = _place(mask, middle, labels, classes, centres, rng)
        if place is None:
            continue
        here, part = _windows(place, mask.shape, labels.shape)
        gain = np.linalg.norm(own.contrast) / np.linalg.norm(look.contrast)
        image[here] += np.float32(gain) * difference[part]
        new = mask[part]
        labels[here][new] = labels.max() + 1
        classes[here][new] = 1
        centres.append(place + middle)
    if sample.image.dtype.kind in "iu":
        kept = np.iinfo(sample.image.dtype)
        image = np.clip(np.rint(image), kept.min, kept.max)
    image = image.astype(sample.image.dtype)
    return replace(sample, image=image, classes=classes, instances=labels, border=None)


def _turned(cutout: Cutout, rng: np.random.Generator) -> Cutout:
    turns, flip = int(rng.integers(4)), int(rng.integers(2))
    return Cutout(*(np.rot90(array, turns)[:: 1 - 2 * flip] for array in cutout))


def _place(
    mask: np.ndarray,
    middle: np.ndarray,
    labels: np.ndarray,
    classes: np.ndarray,
    centres: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Where a mask's first row and column go, (y, x); None if no place was found.

    To touch, it is moved from the middle of an object outwards, until it covers next to nothing.
    """
    touch = rng.random() < TOUCHING
    wide = ndimage.binary_dilation(mask, iterations=GAP)
    for _ in range(TRIES):
        if not touch:
            place = np.rint(rng.uniform((0, 0), labels.shape) - middle).astype(int)
            if _fits(place, wide, labels, classes, 0.0):
                return place
            continue
        start = centres[int(rng.integers(len(centres)))]
        angle = rng.uniform(0, 2 * np.pi)
        direction = np.array([np.sin(angle), np.cos(angle)])
        for step in range(max(labels.shape)):
            centre = start + step * direction
            if not np.all((centre >= 0) & (centre <= np.subtract(labels.shape, 1))):
                break
            place = np.rint(centre - middle).astype(int)
            if _fits(place, mask, labels, classes, OVERLAP):
                return place
    return None


def _fits(
    place: np.ndarray, mask: np.ndarray, labels: np.ndarray, classes: np.ndarray, overlap: float
) -> bool:
    """Does a mask cover only so much of any object there, and no pixel that does not count?"""
    here, part = _windows(place, mask.shape, labels.shape)
    covered = labels[here][mask[part]]
    covered = covered[covered > 0]
    if covered.size > overlap * mask.sum() or (classes[here][mask[part]] == IGNORED).any():
        return False
    return all(
        (covered == one).sum() <= overlap * (labels == one).sum() for one in np.unique(covered)
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
