"""From a mask to objects: instance labels, and a table of their measurements."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from keras_unet.errors import ConfigError, DataError


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
        int32 [H, W]: 0 = background, objects 1, 2, … without gaps.

    Raises:
        DataError: shape or type does not fit. ConfigError: a setting is out of range.
    """
    _check_settings(threshold, connectivity, min_size, split, seed_distance, seeds)
    inside = _foreground(mask, threshold)
    if fill_holes is not False:
        inside = _filled(inside, connectivity, None if fill_holes is True else int(fill_holes))
    components = ndimage.label(inside, _structure(connectivity))[0]
    if split is not None or seeds is not None:
        distance = ndimage.distance_transform_edt(inside)
        if seeds is None:
            markers = _peaks(distance, components, seed_distance)
        else:
            markers = _seed_labels(seeds, inside, connectivity)
        components = _grow(markers, distance, components, connectivity)
    return _without_small(components, min_size)


def measure(
    instances: np.ndarray,
    image: np.ndarray | None = None,
    pixel_size: float | tuple[float, float] | None = None,
) -> dict[str, np.ndarray]:
    """A table of the objects: columns of equal length, one entry an object, labels ascending.

    `label`; `area_px`; `centroid_y_px`, `centroid_x_px`: of pixel centres, the upper left one at
    (0, 0); `equivalent_diameter_px`: of the disc of that area. With `image`, `mean_intensity` (one
    channel) or `mean_intensity_0`, … With `pixel_size` also `area_um2`, `centroid_y_um`,
    `centroid_x_um`, `equivalent_diameter_um`.

    Args:
        instances: integer labels [H, W], 0 = background; gaps in the numbers are allowed.
        image: [H, W] or [H, W, C], any number type.
        pixel_size: micrometres a pixel, or (height, width) of one.

    Returns:
        int64 `label` and `area_px`, the rest float64. All columns are empty without objects.

    Raises:
        DataError: shapes or types do not fit. ConfigError: pixel_size is not positive.
    """
    instances = np.asarray(instances)
    if instances.ndim != 2 or instances.dtype.kind not in "biu":
        raise DataError(
            f"instances must be integer labels [H, W], got {instances.dtype} {instances.shape}"
        )
    if instances.size and int(instances.min()) < 0:
        raise DataError(f"instances has label {int(instances.min())}, expected 0 or more")
    ys, xs = np.nonzero(instances)
    labels, place = np.unique(instances[ys, xs].astype(np.int64), return_inverse=True)
    area = np.bincount(place, minlength=labels.size)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(place, values, labels.size) / area

    table = {
        "label": labels,
        "area_px": area,
        "centroid_y_px": mean(ys),
        "centroid_x_px": mean(xs),
        "equivalent_diameter_px": np.sqrt(4 * area / np.pi),
    }
    if pixel_size is not None:
        height, width = _pixel_size(pixel_size)
        table["area_um2"] = area * height * width
        table["centroid_y_um"] = table["centroid_y_px"] * height
        table["centroid_x_um"] = table["centroid_x_px"] * width
        table["equivalent_diameter_um"] = np.sqrt(4 * table["area_um2"] / np.pi)
    if image is not None:
        image = np.asarray(image)
        if image.ndim not in (2, 3) or image.shape[:2] != instances.shape:
            raise DataError(
                f"image must be {instances.shape} or {(*instances.shape, 'C')}, got {image.shape}"
            )
        channels = image[..., None] if image.ndim == 2 else image
        for number in range(channels.shape[2]):
            name = "mean_intensity" if channels.shape[2] == 1 else f"mean_intensity_{number}"
            table[name] = mean(channels[ys, xs, number])
    return table


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
    sizes = np.bincount(pieces.ravel())
    hole = np.ones(sizes.size, bool) if largest is None else sizes <= largest
    hole[[0, pieces[0, 0]]] = False
    return inside | hole[pieces][1:-1, 1:-1]


def _peaks(distance: np.ndarray, components: np.ndarray, apart: int) -> np.ndarray:
    """Markers at the peaks of the distance, which is smoothed against jagged outlines."""
    smooth = ndimage.gaussian_filter(distance, 1.0)
    places = peak_local_max(smooth, min_distance=apart, labels=components, exclude_border=False)
    markers = np.zeros(components.shape, np.int32)
    markers[tuple(places.T)] = np.arange(1, len(places) + 1)
    return markers


def _seed_labels(seeds: np.ndarray, inside: np.ndarray, connectivity: int) -> np.ndarray:
    seeds = np.asarray(seeds)
    if seeds.shape != inside.shape or seeds.dtype.kind not in "biu":
        raise DataError(
            f"seeds must be bool or integer {inside.shape}, got {seeds.dtype} {seeds.shape}"
        )
    if seeds.dtype.kind == "b":
        return ndimage.label(seeds & inside, _structure(connectivity))[0]
    if seeds.size and int(seeds.min()) < 0:
        raise DataError(f"seeds has label {int(seeds.min())}, expected 0 or more")
    markers = np.zeros(seeds.shape, np.int32)
    used = inside & (seeds > 0)
    markers[used] = 1 + np.unique(seeds[used], return_inverse=True)[1]  # numbers without gaps
    return markers


def _grow(
    markers: np.ndarray, distance: np.ndarray, components: np.ndarray, connectivity: int
) -> np.ndarray:
    """Watershed from the markers; components without one keep a label of their own."""
    inside = components > 0
    grown = watershed(-distance, markers, connectivity=connectivity // 4, mask=inside)
    return np.where(inside & (grown == 0), components + int(markers.max(initial=0)), grown)


def _without_small(labels: np.ndarray, min_size: int) -> np.ndarray:
    sizes = np.bincount(labels.ravel())
    kept = (sizes > 0) & (sizes >= min_size)
    kept[:1] = False
    return (np.cumsum(kept) * kept).astype(np.int32)[labels]


def _structure(connectivity: int) -> np.ndarray:
    return ndimage.generate_binary_structure(2, connectivity // 4)


def _pixel_size(pixel_size: float | tuple[float, float]) -> tuple[float, float]:
    height, width = pixel_size if isinstance(pixel_size, tuple) else (pixel_size, pixel_size)
    if not (height > 0 and width > 0):
        raise ConfigError(f"pixel_size must be positive, got {pixel_size}")
    return float(height), float(width)


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
