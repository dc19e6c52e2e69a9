"""From a mask to objects: each gets a number of its own."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from scipy import ndimage

from keras_unet.errors import ConfigError, DataError
from keras_unet.inference.objects.runs import all_runs, row_bands
from keras_unet.inference.objects.splitting import cut


def to_instances(
    mask: np.ndarray,
    *,
    threshold: float = 0.5,
    connectivity: Literal[4, 8] = 4,
    fill_holes: bool | int = False,
    min_size: int = 0,
    split: Literal["distance"] | None = None,
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
        split: "distance" cuts touching convex objects apart: watershed of the distance to the
            background from its peaks.
        seed_distance: pixels, 1 or more: the least distance between two such peaks; about the
            radius of the smallest object.
        seeds: [H, W], instead of `split`; bool, whose components are the seeds, or integer labels,
            each a seed (0 = none). A component without a seed stays one object.

    Returns:
        int32 [H, W]: 0 = background, objects 1, 2, … without gaps, in reading order of their first
        pixels.

    Raises:
        DataError: shape or type does not fit. ConfigError: a setting is out of range.
    """
    _check_settings(threshold, connectivity, min_size, split, seed_distance, seeds)
    inside = _foreground(mask, threshold)
    if fill_holes is not False:
        inside = _filled(inside, connectivity, None if fill_holes is True else int(fill_holes))
    labels = ndimage.label(inside, _structure(connectivity))[0]
    if split is not None or seeds is not None:
        markers = None if seeds is None else _seed_labels(seeds, inside, connectivity)
        cut(labels, markers, connectivity=connectivity, apart=seed_distance)
    return _numbered(labels, min_size)


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
        labels = _numbered(labels, 0)
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


def _numbered(labels: np.ndarray, min_size: int) -> np.ndarray:
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
    seed_distance: int,
    seeds: np.ndarray | None,
) -> None:
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold must be in [0, 1], got {threshold}")
    if connectivity not in (4, 8):
        raise ConfigError(f"connectivity must be 4 or 8, got {connectivity}")
    if min_size < 0:
        raise ConfigError(f"min_size must be 0 or more, got {min_size}")
    if split not in (None, "distance"):
        raise ConfigError(f'split must be None or "distance", got {split!r}')
    if seed_distance < 1:
        raise ConfigError(f"seed_distance must be 1 or more, got {seed_distance}")
    if split is not None and seeds is not None:
        raise ConfigError("give split or seeds, not both")
