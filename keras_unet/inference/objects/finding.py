"""Objects of a mask: each gets a number of its own; touching ones are cut apart.

Distances and watershed take some fifty bytes a pixel, so that a large image is cut in windows that
hold whole components. The result does not depend on them: what is nearest to a pixel of a
component, and not of it, is background beside the component, and its flooding knows nothing of
other components.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from keras_unet.data.label_rule import MOST_UNSTATED
from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.objects.measurements import all_runs, row_bands
from keras_unet.settings import Frozen, validated

WINDOW = 2048  # pixels: components are gathered by squares of this side
_CLOSEST = 2  # pixels between two peaks, where parts without a neck are joined again
_SHALLOW = 0.5  # pixels: less deep valleys of a distance come from the pixels' grid
_MARGIN = 8  # pixels around them: the smoothed distance reaches 4 far, and needs 4 more


def cut(
    labels: np.ndarray,
    seeds: np.ndarray | None,
    *,
    connectivity: int,
    apart: int,
    neck: float | None = None,
) -> None:
    """Cuts components apart, in place, by watershed of the distance to the background.

    Args:
        labels: int32 [H, W], components numbered from 1. They get new numbers, above the old ones;
            a component without a seed keeps its own.
        seeds: int [H, W], 0 = none; equal numbers stay one object. None: the distance's peaks.
        connectivity: 4 or 8.
        apart: pixels, 1 or more: the least distance between two peaks.
        neck: instead of `apart`: parts are joined again where the neck between them is no narrower
            than this share of the narrower part.
    """
    count = int(labels.max(initial=0))
    last = count
    group = np.full(count + 2, -1)  # of each component; -1 for cut ones and background
    whole = 0 if seeds is not None else apart if neck is None else _CLOSEST
    for number, (window, members) in enumerate(_windows(labels, count, whole)):
        group[members] = number
        part = labels[window]
        own = np.where(group[np.minimum(part, count + 1)] == number, part, 0)
        distance = ndimage.distance_transform_edt(part > 0)
        if seeds is None and neck is not None:
            smooth = ndimage.gaussian_filter(distance, 1.0)
            grown = _grow(_peaks(smooth, own, _CLOSEST), smooth, own > 0, connectivity)
            grown = _joined(grown, smooth, neck) + last
            new, last = grown > last, max(last, int(grown.max(initial=0)))
        elif seeds is None:
            markers = _peaks(ndimage.gaussian_filter(distance, 1.0), own, apart)
            grown = _grow(markers, distance, own > 0, connectivity) + last
            new, last = grown > last, max(last, int(grown.max(initial=0)))
        else:
            markers = np.where(own > 0, seeds[window], 0)
            grown = _grow(markers, distance, own > 0, connectivity) + count
            new = grown > count
        part[new] = grown[new]


def _windows(
    labels: np.ndarray, count: int, whole: int
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Parts of the image that hold some components whole, and these components' numbers.

    Components that a square of `whole` pixels holds are left out: two peaks are further apart. An
    untrained network makes thousands of them, and each takes a millisecond.
    """
    if count == 0:
        return
    boxes = np.array(
        [[r.start, c.start, r.stop, c.stop] for r, c in ndimage.find_objects(labels, count)]
    )
    wanted = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).max(axis=1) > whole)
    if wanted.size == 0:
        return
    centres = (boxes[wanted, :2] + boxes[wanted, 2:]) // (2 * WINDOW)
    square = np.unique(centres, axis=0, return_inverse=True)[1]
    order = np.argsort(square, kind="stable")
    for members in np.split(wanted[order], np.flatnonzero(np.diff(square[order])) + 1):
        low = np.maximum(boxes[members, :2].min(axis=0) - _MARGIN, 0)
        high = boxes[members, 2:].max(axis=0) + _MARGIN
        yield (slice(low[0], high[0]), slice(low[1], high[1])), members + 1


def _peaks(smooth: np.ndarray, components: np.ndarray, apart: int) -> np.ndarray:
    """Markers at the peaks of the distance, smoothed against jagged outlines."""
    places = peak_local_max(smooth, min_distance=apart, labels=components, exclude_border=False)
    markers = np.zeros(components.shape, np.int32)
    markers[tuple(places.T)] = np.arange(1, len(places) + 1)
    return markers


def _grow(
    markers: np.ndarray, distance: np.ndarray, inside: np.ndarray, connectivity: int
) -> np.ndarray:
    """Watershed as Meyer (1991) has it: the neighbours of all markers wait from the beginning.

    Markers get levels of their own, in reading order. In scikit-image those of equal level come in
    an order that depends on everything else in the image.
    """
    level = -distance
    marked = markers > 0
    level[marked] = np.arange(np.count_nonzero(marked)) - 1e9
    return watershed(level, markers, connectivity=connectivity // 4, mask=inside)


def _joined(parts: np.ndarray, height: np.ndarray, neck: float) -> np.ndarray:
    """Parts joined again where what divides them is no neck; the widest passage first.

    A passage is as wide as the greatest `height` that a path from one part to the other keeps; the
    part itself is as wide as its peak. This is the dynamics of a peak (Grimaud 1992, SPIE 1769:292)
    as a share of its height, so that it means the same for small and large objects.

    Args:
        parts: int32 [H, W], numbered from 1. height: the smoothed distance, pixels.
    """
    count = int(parts.max(initial=0))
    peak = np.zeros(count + 1)
    np.maximum.at(peak, parts.ravel(), height.ravel())
    root = np.arange(count + 1)

    def of(part: int) -> int:
        while root[part] != part:
            root[part] = root[root[part]]
            part = root[part]
        return part

    for one, other, passage in _passages(parts, height):
        low, high = sorted((of(one), of(other)), key=peak.__getitem__)
        if low != high and peak[low] - passage < max((1 - neck) * peak[low], _SHALLOW):
            root[low] = high
    return np.array([of(part) for part in range(count + 1)], parts.dtype)[parts]


def _passages(parts: np.ndarray, height: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """(part, other part, the passage's height) of parts that share a side, the highest first."""
    ones, others, heights, places = [], [], [], []
    index = np.arange(parts.size).reshape(parts.shape)
    for before, after in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        a, b = parts[before], parts[after]
        meet = (a != b) & (a > 0) & (b > 0)
        ones.append(np.minimum(a, b)[meet])
        others.append(np.maximum(a, b)[meet])
        heights.append(np.minimum(height[before], height[after])[meet])
        places.append(index[before][meet])
    one, other, passage, place = map(np.concatenate, (ones, others, heights, places))
    order = np.lexsort((place, -passage))  # ties in reading order, whatever else the image holds
    pairs = np.stack([one, other], axis=1)[order]
    first = np.sort(np.unique(pairs, axis=0, return_index=True)[1])
    return zip(*pairs[first].T.tolist(), passage[order][first].tolist(), strict=True)


def to_instances(
    mask: np.ndarray,
    *,
    threshold: float = 0.5,
    connectivity: Literal[4, 8] = 4,
    fill_holes: bool | int = False,
    min_size: int = 0,
    split: Literal["neck", "distance"] | None = None,
    neck: float = 0.9,
    seed_distance: int = 5,
    seeds: np.ndarray | None = None,
) -> np.ndarray:
    """Labels the objects of a mask, in this order: threshold, holes, components, split, sizes.

    A network with a border class: `to_instances(classes > 0, seeds=classes == 1)` grows the
    interiors (class 1) into the borders (class 2).

    Args:
        mask: [H, W]; bool or integer: not 0 is object; float: a probability, above `threshold`.
        threshold: in [0, 1], for float masks only.
        connectivity: 4: pixels that touch at a corner belong to different objects; or 8. Holes
            are connected the other way round.
        fill_holes: True fills background that objects enclose; a number fills only holes of up to
            so many pixels.
        min_size: objects of fewer pixels are dropped.
        split: "neck" cuts touching objects apart at necks: watershed of the distance to the
            background, and parts without a neck between them are joined again; it means the same
            for small and large objects. "distance": watershed from peaks at `seed_distance`.
        neck: in (0, 1], for "neck": how narrow it must be, as a share of the narrower part's width.
            Lower joins more, 1 keeps every part.
        seed_distance: pixels, 1 or more, for "distance": the least distance between two peaks;
            about the radius of the smallest object.
        seeds: [H, W], instead of `split`; bool, whose components are the seeds, or integer labels,
            each a seed (0 = none). A component without a seed stays one object.

    Returns:
        int32 [H, W]: 0 = background, objects 1, 2, … without gaps, in reading order of their first
        pixels.

    Raises:
        DataError: shape or type does not fit. ConfigError: a setting is out of range.
    """
    _check_settings(threshold, connectivity, min_size, split, neck, seed_distance, seeds)
    inside = _foreground(mask, threshold)
    if fill_holes is not False:
        inside = _filled(inside, connectivity, None if fill_holes is True else int(fill_holes))
    labels = ndimage.label(inside, _structure(connectivity))[0]
    if split is not None or seeds is not None:
        markers = None if seeds is None else _seed_labels(seeds, inside, connectivity)
        narrow = neck if split == "neck" else None
        cut(labels, markers, connectivity=connectivity, apart=seed_distance, neck=narrow)
    return numbered(labels, min_size)


def to_objects(
    classes: np.ndarray, *, border: int | None = None, **settings: Any
) -> tuple[np.ndarray, dict[int, int]]:
    """Objects of a mask with several classes: the regions of each class by itself.

    Args:
        classes: integer class numbers [H, W]; 0 is background.
        border: the class of the lines that separate touching objects. The other classes' regions
            grow into it; a piece of border that touches none counts as the lowest other class.
        settings: of `to_instances`, except `seeds`; `split` not together with `border`. Holes are
            background only, never another class.

    Returns:
        int32 [H, W] as `to_instances` gives it, and the class of each object.

    Raises:
        DataError, ConfigError: as `to_instances`.
    """
    classes = np.asarray(classes)
    if classes.ndim != 2 or classes.dtype.kind not in "biu":
        raise DataError(f"classes must be integers [H, W], got {classes.dtype} {classes.shape}")
    kinds = [int(kind) for kind in np.unique(classes) if kind not in (0, border)]
    if border is not None:
        if settings.get("split") is not None:
            raise ConfigError("give split or border, not both")
        structure = _structure(settings.get("connectivity", 4))
        seeds = np.zeros(classes.shape, np.int32)
        for kind in kinds:
            regions = ndimage.label(classes == kind, structure)[0]
            seeds[regions > 0] = regions[regions > 0] + seeds.max(initial=0)
        labels = to_instances(classes != 0, seeds=seeds, **settings)
    elif len(kinds) < 2:
        labels = to_instances(classes != 0, **settings)
    else:
        labels = np.zeros(classes.shape, np.int32)
        for kind in kinds:
            own = to_instances(classes == kind, **settings)
            free = (own > 0) & ((classes == kind) | ((classes == 0) & (labels == 0)))
            labels[free] = own[free] + labels.max(initial=0)
        labels = numbered(labels)
    kind_of = np.full(int(labels.max(initial=0)) + 1, kinds[0] if kinds else 1)
    for rows in row_bands(labels.shape):
        certain = (labels[rows] > 0) & (classes[rows] != 0)
        if border is not None:
            certain &= classes[rows] != border
        kind_of[labels[rows][certain]] = classes[rows][certain]
    return labels, dict(enumerate(kind_of[1:].tolist(), 1))


def _foreground(mask: np.ndarray, threshold: float) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "biuf":
        raise DataError(
            f"mask must be bool, integer or float [H, W], got {mask.dtype} {mask.shape}"
        )
    if mask.dtype.kind != "f":
        return mask != 0
    if np.isnan(mask).any():
        raise DataError("mask has NaN, expected probabilities")
    return mask > threshold


def _filled(inside: np.ndarray, connectivity: int, largest: int | None) -> np.ndarray:
    """Without holes; pieces of background at the image's edge are none."""
    padded = np.pad(~inside, 1, constant_values=True)  # joins what reaches the edge
    pieces = ndimage.label(padded, _structure(12 - connectivity))[0]
    sizes = np.zeros(int(pieces.max()) + 1, np.int64)
    for rows in row_bands(pieces.shape):
        sizes += np.bincount(pieces[rows].ravel(), minlength=sizes.size)
    hole = np.ones(sizes.size, bool) if largest is None else sizes <= largest
    hole[[0, pieces[0, 0]]] = False
    return inside | hole[pieces[1:-1, 1:-1]]


def _seed_labels(seeds: np.ndarray, inside: np.ndarray, connectivity: int) -> np.ndarray:
    """int32 [H, W], numbers without gaps; 0 outside the mask."""
    seeds = np.asarray(seeds)
    if seeds.shape != inside.shape or seeds.dtype.kind not in "biu":
        raise DataError(
            f"seeds must be bool or integer {inside.shape}, got {seeds.dtype} {seeds.shape}"
        )
    if seeds.dtype.kind == "b":
        return ndimage.label(seeds & inside, _structure(connectivity))[0]
    if seeds.size and int(seeds.min()) < 0:
        raise DataError(f"seeds has label {int(seeds.min())}, expected 0 or more")
    found = [np.unique(seeds[rows][inside[rows]]) for rows in row_bands(seeds.shape)]
    numbers = np.unique(np.concatenate([[0], *found]))
    markers = np.zeros(seeds.shape, np.int32)
    for rows in row_bands(seeds.shape):
        used = inside[rows] & (seeds[rows] > 0)
        markers[rows][used] = np.searchsorted(numbers, seeds[rows][used])
    return markers


def numbered(labels: np.ndarray, min_size: int = 0) -> np.ndarray:
    """Without small objects, numbered in reading order; in place, which saves a large copy."""
    runs = all_runs(labels)
    present, first, place = np.unique(runs.label, return_index=True, return_inverse=True)
    kept = np.bincount(place, runs.length, present.size) >= min_size
    order = np.argsort(first)
    numbers = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    numbers[present[order]] = np.cumsum(kept[order]) * kept[order]
    for rows in row_bands(labels.shape):
        labels[rows] = numbers[labels[rows]]
    return labels.astype(np.int32, copy=False)


def _structure(connectivity: int) -> np.ndarray:
    return ndimage.generate_binary_structure(2, connectivity // 4)


def _check_settings(
    threshold: float,
    connectivity: int,
    min_size: int,
    split: str | None,
    neck: float,
    seed_distance: int,
    seeds: np.ndarray | None,
) -> None:
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold must be in [0, 1], got {threshold}")
    if connectivity not in (4, 8):
        raise ConfigError(f"connectivity must be 4 or 8, got {connectivity}")
    if min_size < 0:
        raise ConfigError(f"min_size must be 0 or more, got {min_size}")
    if split not in (None, "neck", "distance"):
        raise ConfigError(f'split must be None, "neck" or "distance", got {split!r}')
    if not 0 < neck <= 1:
        raise ConfigError(f"neck must be in (0, 1], got {neck}")
    if seed_distance < 1:
        raise ConfigError(f"seed_distance must be 1 or more, got {seed_distance}")
    if split is not None and seeds is not None:
        raise ConfigError("give split or seeds, not both")


class ObjectSettings(Frozen):
    """The settings of `to_instances`, and what the values of a mask file mean.

    instances: the values are object numbers already.
    border: the value of a border class, whose pixels go to the nearest object.
    names: mask value -> class name. Without a name, 1 and 255 are "cell", 3 is "class 3".
    threshold: foreground is what exceeds it; for files of probabilities.
    """

    threshold: float | None = Field(None, ge=0, le=1)
    connectivity: Literal[4, 8] = 4
    fill_holes: bool | int = False
    min_size: int = Field(0, ge=0)
    split: Literal["neck", "distance"] | None = None
    neck: float = Field(0.9, gt=0, le=1)
    seed_distance: int = Field(5, ge=1)
    border: int | None = Field(None, ge=1)
    instances: bool = False
    names: dict[int, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> ObjectSettings:
        ways = {
            "threshold": self.threshold is not None,
            "border class": self.border is not None,
            "instances": self.instances,
        }
        chosen = [name for name, on in ways.items() if on]
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} exclude each other: give one")
        if self.split is not None and (self.border is not None or self.instances):
            raise ValueError(f"split={self.split} does not go with a border class or instances")
        if self.instances and (self.min_size or self.fill_holes is not False):
            raise ValueError("instances are taken as they are: give no min_size or fill_holes")
        return self

    def find(self, mask: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """The objects of a mask and the class of each.

        Args:
            mask: [H, W]: a foreground probability (float) if there is a threshold, else integers;
                below 0 is background.

        Returns:
            int32 [H, W]: 0 = background, numbers without gaps (with `instances` as they were), and
            {object: class name}.

        Raises:
            DataError: more values than there can be classes.
        """
        shape: dict[str, Any] = {"connectivity": self.connectivity, "min_size": self.min_size}
        shape |= {"fill_holes": self.fill_holes}
        cut: dict[str, Any] = {"split": self.split, "neck": self.neck}
        cut |= {"seed_distance": self.seed_distance}
        if self.threshold is not None:
            labels = to_instances(mask, threshold=self.threshold, **shape, **cut)
            return labels, self._classes(dict.fromkeys(range(1, int(labels.max()) + 1), 1))
        mask = np.maximum(mask, 0)
        if self.instances:
            return mask, self._classes({int(n): 1 for n in np.unique(mask) if n})
        values = np.unique(mask)
        most = max(MOST_UNSTATED, len(self.names) + 1)
        if values.size > most:
            raise DataError(
                f"has {values.size} different values from {values[0]} to {values[-1]}; expected a "
                f"mask of up to {most} classes: if they are object numbers, say instances "
                "(--instances); if they are classes, name them (--name 2=axon)"
            )
        if self.border is not None:
            return self._named(to_objects(mask, border=self.border, **shape))
        return self._named(to_objects(mask, **shape, **cut))

    def _named(self, found: tuple[np.ndarray, dict[int, int]]) -> tuple[np.ndarray, dict[int, str]]:
        return found[0], self._classes(found[1])

    def _classes(self, kinds: dict[int, int]) -> dict[int, str]:
        def name(kind: int) -> str:
            if kind in self.names:
                return self.names[kind]
            return "cell" if kind in (1, 255) else f"class {kind}"

        return {label: name(kind) for label, kind in kinds.items()}


def make_settings(**given: object) -> ObjectSettings:
    """`ObjectSettings`, with errors that a person can read.

    Raises:
        ConfigError: unknown, out of range, or settings that exclude each other.
    """
    return validated(ObjectSettings, given)


def parse_names(texts: list[str]) -> dict[int, str]:
    """{value: name} from "value=name".

    Raises:
        ConfigError: no number before the sign, or no sign.
    """
    names: dict[int, str] = {}
    for text in texts:
        value, mark, name = text.partition("=")
        if not mark or not value.strip().isdecimal() or not name.strip():
            raise ConfigError(f"expected a mask value and its name, such as 2=axon; got {text!r}")
        names[int(value)] = name.strip()
    return names
