"""Pixel weights of the U-Net paper's loss (Ronneberger et al. 2015, section 3, equation 2).

    w(x) = w_c(x) + w0 · exp(−(d1(x) + d2(x))² / (2σ²))

w_c balances the classes; d1 and d2 are the distances to the nearest and second nearest cell, so
that the thin background between touching cells weighs most. NumPy and SciPy only.

Distances are exact, and found in linear time. A distance transform per cell costs cells × pixels.
Here the two nearest *different* labels are found by separable passes over the pixels, so that the
number of cells does not enter:

1. down and up each column: the nearest label (`owner`), its distance g1, and the distance g2 to the
   nearest pixel of any other label;
2. along each row, over the columns within reach, dx pixels away: the nearest cell has the smallest
   dx² + g1²; the second nearest the smallest of dx² + g1² over columns owned by another cell, and
   of dx² + g2² over all columns.

Step 2 is exact: the two nearest labels overall are among the two nearest of their columns, and g2
may be read from every column because g2 >= g1 wherever the owner is another cell.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import ndimage

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
    for here, there, step in ((labels[:, :-1], labels[:, 1:], 1), (labels[:-1], labels[1:], width)):
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


# Rows × columns done at a time: small enough that each array stays in the first caches.
_TILE = (512, 64)


def two_nearest(labels: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Distances d1 <= d2 of each background pixel to the nearest and second nearest cell.

    Args:
        labels: integers [H, W] >= 0, one value a cell, 0 = background.
        reach: pixels; only pixels with d1 + d2 <= reach are looked for.

    Returns:
        (d1, d2), float32 [H, W] in pixels, between pixel centres: a pixel beside a cell has 1. Both
        are infinite on cells and where d1 + d2 > reach.
    """
    height, width = labels.shape
    d1 = np.full((height, width), np.inf, np.float32)
    d2 = np.full((height, width), np.inf, np.float32)
    # No background pixel is nearer to a cell than 1, hence d2 <= reach - 1; and d1 <= reach / 2.
    longest = math.ceil(math.hypot(height, width))
    near, far = (math.floor(min(d, longest)) for d in (reach / 2, reach - 1))
    if near < 1 or far < 1 or not labels.any():
        return d1, d2
    labels = _narrow(labels)
    none = far + 1  # stands for "no cell": more than any distance that is looked for
    first, owner, second = _columns(labels, none)
    side = min(far, width)
    sides = ((0, 0), (side, side))
    first = np.pad(first, sides, mode="constant", constant_values=none)
    second = np.pad(second, sides, mode="constant", constant_values=none)
    owner = np.pad(owner, sides)
    for top in range(0, height, _TILE[0]):
        for left in range(0, width, _TILE[1]):
            rows = slice(top, top + _TILE[0])
            columns = slice(left, left + _TILE[1])
            around = (rows, slice(left, min(left + _TILE[1], width) + 2 * side))
            squares = _rows(first[around].T, owner[around].T, second[around].T, near, side)
            if squares is None:
                continue
            one, two = np.sqrt(squares[0].T, dtype=np.float32), np.sqrt(squares[1].T)
            found = (labels[rows, columns] == 0) & (two < none) & (one + two <= reach)
            d1[rows, columns][found] = one[found]
            d2[rows, columns][found] = two[found]
    return d1, d2


def _narrow(labels: np.ndarray) -> np.ndarray:
    """The same cells, renumbered if need be, in the smaller of uint16 and int32 that holds them."""
    top = int(labels.max())
    if top > np.iinfo(np.int32).max:
        values, inverse = np.unique(labels, return_inverse=True)
        labels = inverse.reshape(labels.shape) + int(values[0] != 0)
        top = len(values)
    return labels.astype(np.uint16 if top <= np.iinfo(np.uint16).max else np.int32, copy=False)


def _columns(labels: np.ndarray, cap: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Within each column: (g1, owner, g2), distances counted up to `cap`."""
    # uint16 holds the sums of two squares of step 2 for every usual sigma, and is twice as fast.
    number = np.uint16 if 2 * cap * cap < np.iinfo(np.uint16).max else np.uint32
    first = np.empty(labels.shape, number)
    owner = np.empty_like(labels)
    second = np.empty(labels.shape, number)
    for y, (g1, label, g2) in _sweep(labels, cap, number, downwards=True):
        first[y], owner[y], second[y] = g1, label, g2
    for y, (g1, label, g2) in _sweep(labels, cap, number, downwards=False):
        above, below = first[y], g1
        other = np.where(owner[y] != label, np.maximum(above, below), cap)
        np.minimum(second[y], g2, out=second[y])
        np.minimum(second[y], other, out=second[y])
        np.copyto(owner[y], label, where=below < above)
        np.minimum(above, below, out=first[y])
    return first, owner, second


def _sweep(
    labels: np.ndarray, cap: int, number: type, *, downwards: bool
) -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Row by row: distance to the last label of each column, the label, distance to another."""
    rows, width = labels.shape
    g1: np.ndarray = np.full(width, cap, number)
    g2: np.ndarray = np.full(width, cap, number)
    last = np.zeros(width, labels.dtype)
    for y in range(rows) if downwards else range(rows - 1, -1, -1):
        np.minimum(g1 + 1, cap, out=g1)
        np.minimum(g2 + 1, cap, out=g2)
        row = labels[y]
        cell = row != 0
        np.copyto(g2, g1, where=cell & (row != last))
        np.copyto(last, row, where=cell)
        np.copyto(g1, 0, where=cell)
        yield y, (g1, last, g2)


def _rows(
    first: np.ndarray, owner: np.ndarray, second: np.ndarray, near: int, side: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Step 2 for one tile, laid out [x, y] so that a shift along x is a contiguous view.

    Args:
        first, owner, second: [w + 2·side, h], the tile's columns and `side` more on either side.
        near: distances d1 above this are not looked for.

    Returns:
        (d1², d2²), each [w, h] (large where nothing is near), or None if no cell is near.
    """
    owner = np.ascontiguousarray(owner)
    high = int(owner.max())
    if high == 0:
        return None
    width, size = len(owner) - 2 * side, len(owner)
    # `order` counts: NumPy multiplies in the layout of its input, which here is the transposed one.
    g1 = np.multiply(first, first, order="C")
    g2 = np.multiply(second, second, order="C")

    # Distance and label packed into one integer: a minimum then finds both.
    bits = high.bit_length()
    largest = (int(g1.max()) + near * near + 1) << bits
    wide = np.int32 if largest <= np.iinfo(np.int32).max else np.int64
    packed = np.left_shift(g1.astype(wide), bits) | owner
    nearest = packed[side : size - side].copy()
    buffer = np.empty_like(nearest)
    for dx in range(1, min(near, side) + 1):
        for start in (side - dx, side + dx):
            np.add(packed[start : start + width], (dx * dx) << bits, out=buffer)
            np.minimum(nearest, buffer, out=nearest)
    cell = (nearest & ((1 << bits) - 1)).astype(owner.dtype)
    nearest >>= bits
    if not ((nearest > 0) & (nearest <= near * near)).any():
        return None

    best = np.full_like(g2[:width], np.iinfo(g2.dtype).max)
    same = np.empty(best.shape, bool)
    square = np.empty_like(best)
    blocked = square.view(np.int16 if square.dtype == np.uint16 else np.int32)
    for dx in range(-side, side + 1):
        part = slice(side + dx, side + dx + width)
        np.equal(owner[part], cell, out=same)
        np.negative(same.view(np.int8), out=blocked)  # all bits set where the owner is `cell`
        np.bitwise_or(square, g1[part], out=square)
        np.minimum(square, g2[part], out=square)
        square += dx * dx
        np.minimum(best, square, out=best)
    return nearest, best
