"""Pixel weights of the U-Net paper's loss (Ronneberger et al. 2015, section 3, equation 2).

    w(x) = w_c(x) + w0 · exp(−(d1(x) + d2(x))² / (2σ²))

w_c balances the classes; d1 and d2 are the distances to the nearest and second nearest cell, so
that the thin background between touching cells weighs most. NumPy and SciPy only.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from keras_unet.cell_distances import two_nearest
from keras_unet.errors import ConfigError, DataError

# The border term is left out where it is below this share of w0.
_NEGLIGIBLE = 1e-5


def weight_map(
    labels: np.ndarray,
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weights: str | Sequence[float] | None = "balanced",
    separation: int = 2,
    classes: np.ndarray | None = None,
) -> np.ndarray:
    """Equation 2 for one image: what Keras takes as a pixel's sample weight.

    Args:
        labels: instance labels, integers [H, W] >= 0, 0 = background. A mask (bool, or integers
            that are all 0 or 1, or all 0 or 255) is split into its 4-connected components.
        w0: weight of the border term, >= 0; 0 leaves it out.
        sigma: its width in pixels, > 0.
        class_weights: w_c. "balanced": `balanced_class_weights` of this image's pixel counts, so
            that the mean of w_c is 1; None: 1 everywhere; or one weight for each class.
        separation: width in pixels of the background line between cells that touch, see
            `separate_cells`; 0 for none.
        classes: integers [H, W], the class of each pixel that w_c looks up. A negative class is not
            counted: its weight is 0. Default: 1 on cells (after separation), 0 on background.

    Returns:
        float32 [H, W]. The border term is on background pixels only (label 0 after separation),
        and 0 where the image has fewer than two cells; it is exact to 1e-5 · w0.

    Raises:
        DataError: labels or classes have the wrong type, shape or values.
        ConfigError: a setting is out of range, or `class_weights` lacks a class that occurs.
    """
    width = _whole("separation", separation)
    cells = separate_cells(_instances(labels), width)
    if classes is None:
        classes = cells > 0
    else:
        classes = np.asarray(classes)
        if classes.shape != cells.shape or classes.dtype.kind not in "biu":
            raise DataError(
                f"classes must be integers of the labels' shape {cells.shape}, "
                f"got {classes.dtype} {classes.shape}"
            )
    weight = _class_weight(classes, class_weights)
    weight += border_weights(cells, w0, sigma)
    if classes.dtype.kind == "i":
        weight[classes < 0] = 0.0
    return weight


def border_weights(labels: np.ndarray, w0: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """The second term of equation 2 alone, w0 · exp(−(d1 + d2)² / (2σ²)).

    Args:
        labels: as in `weight_map`; touching cells are not separated here.
        w0: >= 0.
        sigma: pixels, > 0.

    Returns:
        float32 [H, W]: 0 on cells, and where the term is below 1e-5 · w0.

    Raises:
        DataError, ConfigError: as `weight_map`.
    """
    w0, sigma = _finite("w0", w0), _finite("sigma", sigma)
    if w0 < 0:
        raise ConfigError(f"w0 must be 0 or more, got {w0}")
    if sigma <= 0:
        raise ConfigError(f"sigma must be more than 0 pixels, got {sigma}")
    labels = _instances(labels)
    border = np.zeros(labels.shape, np.float32)
    if w0 == 0 or labels.size == 0:
        return border
    d1, d2 = two_nearest(labels, sigma * math.sqrt(-2 * math.log(_NEGLIGIBLE)))
    found = np.isfinite(d1)
    border[found] = w0 * np.exp(-((d1[found] + d2[found]) ** 2) / (2 * sigma**2))
    return border


def separate_cells(labels: np.ndarray, width: int = 2) -> np.ndarray:
    """Background lines between touching cells (the paper, section 3: "morphological operations").

    Two cells touch where their pixels share a side (4-neighbours), so the components of a mask
    never do. Each loses the pixels at the contact, `width` in all: half on either side for an even
    width; for an odd one the cell with the greater label gives the pixel more. Cells with
    background between them, or that meet at a corner only, stay as they are. A cell that is nowhere
    thicker than its share of the line vanishes.

    Args:
        labels: as in `weight_map`.
        width: pixels, 0 or more.

    Returns:
        Instance labels [H, W], a copy; integer input keeps its type.

    Raises:
        DataError, ConfigError: as `weight_map`.
    """
    width = _whole("width", width)
    labels = _instances(labels)
    result = labels.copy()
    if width == 0:
        return result
    lesser, greater = _contacts(labels)
    for start, steps in ((lesser, width // 2), (greater, width - width // 2)):
        pixels = start
        for step in range(steps):
            if step:
                pixels = _grow(labels, pixels)
            result[pixels] = 0
    return result


def balanced_class_weights(counts: Sequence[int] | np.ndarray) -> tuple[float, ...]:
    """w_c = N / (K · n_c): each class gets the same total, and the mean over all pixels is 1.

    Args:
        counts: n_c, the number of pixels of each class, over an image or a whole training set.

    Returns:
        One weight a class. N is the sum of the counts, K the number of classes that occur; a class
        that does not occur gets 1.

    Raises:
        DataError: the counts are not one-dimensional, or one is negative or not finite.
    """
    n = np.array(counts, np.float64)
    if n.ndim != 1 or not n.size or not np.isfinite(n).all() or (n < 0).any():
        raise DataError(f"counts must be one number >= 0 for each class, got {counts!r}")
    present = n > 0
    balanced = n.sum() / (max(int(present.sum()), 1) * np.where(present, n, 1.0))
    return tuple(np.where(present, balanced, 1.0).tolist())


def _class_weight(classes: np.ndarray, class_weights: str | Sequence[float] | None) -> np.ndarray:
    """w_c of every pixel, float32 [H, W]; negative classes get a number without meaning."""
    if class_weights is None or classes.size == 0:
        return np.ones(classes.shape, np.float32)
    index = classes.astype(np.intp)
    if classes.dtype.kind == "i":
        counts = np.bincount(index[index >= 0], minlength=1)
        index = np.maximum(index, 0)
    else:
        counts = np.bincount(index.ravel(), minlength=1)
    if isinstance(class_weights, str):
        if class_weights != "balanced":
            raise ConfigError(
                f'class_weights must be "balanced", None or one number for each class, '
                f"got {class_weights!r}"
            )
        table = np.array(balanced_class_weights(counts), np.float64)
    else:
        table = np.asarray(class_weights, np.float64)
        if table.ndim != 1 or not np.isfinite(table).all() or (table < 0).any():
            raise ConfigError(
                f"class_weights must be one number >= 0 for each class, got {class_weights!r}"
            )
        if len(table) < len(counts):
            raise ConfigError(
                f"class_weights has {len(table)} weights, but class {len(counts) - 1} occurs"
            )
    return table.astype(np.float32)[index]


def _contacts(labels: np.ndarray) -> tuple[tuple, tuple]:
    """Where different cells are 4-neighbours: indices on the lesser and on the greater label."""
    width = labels.shape[1]
    flat = labels.ravel()
    lesser, greater = [], []
    for here, there, step in (
        (labels[:, :-1], labels[:, 1:], 1),
        (labels[:-1], labels[1:], width),
    ):
        y, x = np.nonzero(here != there)
        one = y * width + x
        other = one + step
        both = (flat[one] != 0) & (flat[other] != 0)
        one, other = one[both], other[both]
        swap = flat[one] > flat[other]
        lesser.append(np.where(swap, other, one))
        greater.append(np.where(swap, one, other))
    return (
        np.unravel_index(np.concatenate(lesser), labels.shape),
        np.unravel_index(np.concatenate(greater), labels.shape),
    )


def _grow(labels: np.ndarray, pixels: tuple) -> tuple:
    """`pixels` and those of their 8-neighbours that belong to the same cell."""
    shift = np.array([(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    y = pixels[0][:, None] + shift[:, 0]
    x = pixels[1][:, None] + shift[:, 1]
    inside = (y >= 0) & (y < labels.shape[0]) & (x >= 0) & (x < labels.shape[1])
    y, x = np.where(inside, y, pixels[0][:, None]), np.where(inside, x, pixels[1][:, None])
    same = labels[y, x] == labels[pixels][:, None]
    flat = np.unique(y[same] * labels.shape[1] + x[same])
    return np.unravel_index(flat, labels.shape)


def _instances(labels: np.ndarray) -> np.ndarray:
    """Checked instance labels; a mask becomes its 4-connected components."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "biu":
        raise DataError(f"labels must be integers or bool, got {labels.dtype}")
    if labels.ndim != 2:
        raise DataError(f"labels must be [height, width], got shape {labels.shape}")
    if labels.size == 0:
        return labels.astype(np.int32)
    if labels.dtype.kind == "i" and int(labels.min()) < 0:
        raise DataError(f"labels must be 0 (background) or more, found {int(labels.min())}")
    top = int(labels.max())
    if top <= 1 or (top == 255 and not ((labels != 0) & (labels != 255)).any()):
        return ndimage.label(labels)[0]
    return labels


def _finite(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise ConfigError(f"{name} must be a whole number of pixels, 0 or more, got {value!r}")
    return int(value)
