"""From labels to what the loss needs: class map and weight map, computed once and cached."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from keras_unet.data.samples import Sample
from keras_unet.errors import ConfigError, DataError
from keras_unet.weight_maps import balanced_class_weights, border_weights, separate_cells

ClassWeights = Literal["balanced", "none"] | tuple[float, ...]

VERSION = 2  # of the border weights in the cache: another number when they change


class Target(NamedTuple):
    """Class of each pixel [H, W], unsigned, and its weight [H, W] float32; 0 where ignored."""

    classes: np.ndarray
    weight: np.ndarray


def targets(
    samples: Sequence[Sample],
    num_classes: int,
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weights: ClassWeights = "balanced",
    separation: int = 2,
    cache: Path | None = None,
) -> list[Target]:
    """Targets of a training set (paper, equation 2).

    Touching cells of instance labels get a separating background line. In semantic labels, a cell
    is a connected component of the foreground. `class_weights="balanced"` balances frequencies
    over the whole set, not image by image. A sample's own border term is used where it was
    computed with this `sigma` and `separation`.

    Args:
        samples: with `classes`. num_classes: K.
        w0, sigma: height and width (pixels) of the border weight; w0 = 0 for none.
        class_weights: w_c, or how to choose it.
        separation: width of the separating line in pixels.
        cache: folder that keeps border weights from one run to the next; None keeps none.
    """
    if isinstance(class_weights, tuple) and len(class_weights) != num_classes:
        raise ConfigError(
            f"class_weights has {len(class_weights)} entries, the data has {num_classes} classes"
        )
    separated = [_separated(sample, separation) for sample in samples]
    per_class = _class_weights(separated, num_classes, class_weights)
    kind = np.min_scalar_type(num_classes - 1)
    found = []
    for sample, classes in zip(samples, separated, strict=True):
        weight = per_class[np.maximum(classes, 0)]
        if w0 > 0:
            weight = weight + np.float32(w0) * _border(sample, classes, sigma, separation, cache)
        weight = np.where(classes < 0, 0.0, weight).astype(np.float32)
        found.append(Target(np.maximum(classes, 0).astype(kind), weight))
    return found


def scored_classes(sample: Sample, separation: int) -> np.ndarray:
    """Classes [H, W] int32 to score a prediction against; pixels that do not count are -1.

    The line between touching cells does not count: the labels give it to the cells, the training
    (`targets`) to the background.
    """
    if sample.classes is None:
        raise DataError(f"{sample.name}: has no labels")
    return np.where(_separated(sample, separation) == sample.classes, sample.classes, -1)


def border_term(sample: Sample, sigma: float, separation: int) -> np.ndarray:
    """The border term of equation 2 for w0 = 1, float32 [H, W], as `targets` adds it w0 times.

    Raises:
        DataError: the sample has no labels.
    """
    return border_weights(_cells(sample, _separated(sample, separation)), 1.0, sigma)


def _border(
    sample: Sample, classes: np.ndarray, sigma: float, separation: int, cache: Path | None
) -> np.ndarray:
    own = sample.border
    # a record holds sigma as float32
    if own is not None and (np.float32(own.sigma), own.separation) == (
        np.float32(sigma),
        separation,
    ):
        return own.weights
    return _cached_border(_cells(sample, classes), sigma, cache)


def _cells(sample: Sample, classes: np.ndarray) -> np.ndarray:
    """What `border_weights` takes, of the classes after separation."""
    cells = classes > 0
    return cells if sample.instances is None else np.where(cells, sample.instances, 0)


def _separated(sample: Sample, width: int) -> np.ndarray:
    if sample.classes is None:
        raise DataError(f"{sample.name}: has no labels")
    if sample.instances is None:
        return sample.classes
    kept = separate_cells(sample.instances, width) > 0
    return np.where(sample.classes > 0, kept, sample.classes).astype(np.int32)


def _class_weights(
    classes: Sequence[np.ndarray], num_classes: int, chosen: ClassWeights
) -> np.ndarray:
    if chosen == "none":
        return np.ones(num_classes, np.float32)
    if chosen == "balanced":
        counts = np.sum([np.bincount(c[c >= 0], minlength=num_classes) for c in classes], axis=0)
        chosen = balanced_class_weights(counts)
    return np.asarray(chosen, np.float32)


def _cached_border(cells: np.ndarray, sigma: float, cache: Path | None) -> np.ndarray:
    if cache is None:
        return border_weights(cells, 1.0, sigma)
    key = hashlib.sha256(repr((VERSION, cells.shape, cells.dtype.str, sigma)).encode())
    key.update(np.ascontiguousarray(cells).data)
    path = cache / f"{key.hexdigest()[:32]}.npy"
    if path.is_file():
        try:
            stored = np.load(path, allow_pickle=False)
            if stored.shape == cells.shape:
                return stored
        except (ValueError, OSError, EOFError):
            pass  # a torn cache entry is only computed again
    weight = border_weights(cells, 1.0, sigma)
    beside = cache / f".{path.stem}-{os.getpid()}.npy"
    with contextlib.suppress(OSError):  # a cache that can't be written is only slower
        cache.mkdir(parents=True, exist_ok=True)
        np.save(beside, weight)
        beside.replace(path)
    return weight
