"""Facts of a data set: the numbers that a plan rests on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from keras_unet.data.check import DataSummary
from keras_unet.data.partial_labels import places_of_tiles, whole_objects
from keras_unet.data.samples import Sample, diameters, object_areas
from keras_unet.settings import Frozen
from keras_unet.training.splits import classes_of

LOOKED_AT = 40  # images whose objects are measured
PIXELS = 20_000_000  # of them all together; of larger images, the middle
NEAR = 5  # pixels between objects that count as close together
SPECK = 5  # pixels: smaller objects are not measured
MOSTLY = 0.5  # share of ignored pixels above which regions may be strokes


class DataFacts(Frozen):
    """Measured on the labelled images of a data set."""

    images: int
    short: int  # median of the images' shorter sides, pixels
    long: int  # median of their longer sides
    pixels: int  # of all images
    channels: int
    classes: int
    kind: str  # "semantic" or "instances"
    fractions: tuple[float, ...]  # of the pixels that count, class by class
    objects: int  # in the images looked at; regions of the foreground for semantic labels
    diameter: float | None  # median, pixels, of a circle of the object's area
    large: float | None  # 95 % of the objects are smaller
    close: float | None  # share of the objects that touch another or are within NEAR pixels of it
    flat: int  # images with a tenth of the usual contrast or less


def data_facts(samples: Sequence[Sample], summary: DataSummary, kind: str) -> DataFacts:
    """Measures labelled samples; of many, the objects in `LOOKED_AT` evenly chosen ones."""
    shapes = np.array([s.image.shape[:2] for s in samples])
    chosen = np.unique(np.linspace(0, len(samples) - 1, LOOKED_AT).round().astype(int))
    across: list[np.ndarray] = []
    near = total = 0
    for sample in (samples[i] for i in chosen):
        objects = _objects(sample, PIXELS / len(chosen))
        if objects is None:
            continue
        found = object_areas(objects)
        across.append(diameters(found[found >= SPECK]))
        near += len(_close(objects))
        total += len(found)
    measured = np.concatenate(across) if across else np.zeros(0)
    some = measured.size > 0
    contrast = np.array([np.nanstd(s.measured, dtype=np.float64) for s in samples])
    return DataFacts(
        images=len(samples),
        short=int(np.median(shapes.min(axis=1))),
        long=int(np.median(shapes.max(axis=1))),
        pixels=int(shapes.prod(axis=1, dtype=np.int64).sum()),
        channels=samples[0].image.shape[-1],
        classes=len(summary.class_fractions or ()),
        kind=kind,
        fractions=tuple(summary.class_fractions or ()),
        objects=total,
        diameter=round(float(np.median(measured)), 1) if some else None,
        large=round(float(np.quantile(measured, 0.95)), 1) if some else None,
        close=round(near / total, 3) if total else None,
        flat=int((contrast <= 0.1 * np.median(contrast)).sum()),
    )


def missed(samples: Sequence[Sample], side: int, draws: int = 400, seed: int = 0) -> float:
    """The share of random windows [side, side] without the class that they miss most often.

    The classes above 0 are looked at; windows lie within the image, or are the image. Where labels
    are few, windows lie around labelled places, as tiles do.
    """
    rng = np.random.default_rng(seed)
    maps = [s.classes for s in samples if s.classes is not None]
    kinds = sorted(classes_of(samples) - {0})
    places = places_of_tiles([classes >= 0 for classes in maps], side)
    image_of = None if places is None else np.repeat(np.arange(len(maps)), places.images[:, 1])
    without = np.zeros(len(kinds))
    for _ in range(draws):
        if places is None or image_of is None:
            classes = maps[int(rng.integers(len(maps)))]
            y, x = (int(rng.integers(max(n - side, 0) + 1)) for n in classes.shape)
        else:
            chosen = int(rng.integers(len(places.blocks)))
            classes, block = maps[image_of[chosen]], places.blocks[chosen]
            centre = block[:2] + rng.integers(block[2:])
            y, x = np.clip(centre - side // 2, 0, np.maximum(np.array(classes.shape) - side, 0))
        without += ~np.isin(kinds, classes[y : y + side, x : x + side])
    return float(without.max() / draws) if len(kinds) else 0.0


def _objects(sample: Sample, pixels: float) -> np.ndarray | None:
    """Numbered objects in the middle of an image, at most so many pixels of it."""
    labels = sample.classes if sample.instances is None else sample.instances
    if labels is None:
        return None
    share = min((pixels / labels.size) ** 0.5, 1.0)
    cut = [slice(int(n * (1 - share) / 2), n - int(n * (1 - share) / 2)) for n in labels.shape]
    middle = labels[tuple(cut)]
    if sample.instances is not None:
        return middle
    objects, ignored = ndimage.label(middle > 0)[0], middle < 0
    # of a few strokes and the like, only what is labelled around is an object
    return whole_objects(objects, ignored) if ignored.mean() > MOSTLY else objects


def _close(objects: np.ndarray) -> set[int]:
    """Numbers of the objects that are near another one."""
    from skimage.segmentation import expand_labels

    grown = expand_labels(objects, (NEAR + 1) / 2)
    found: set[int] = set()
    for one, other in ((grown[1:], grown[:-1]), (grown[:, 1:], grown[:, :-1])):
        meet = (one != other) & (one > 0) & (other > 0)
        found.update(one[meet].tolist(), other[meet].tolist())
    return found
