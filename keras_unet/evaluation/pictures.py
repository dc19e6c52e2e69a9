"""Pictures for people who look before they read: overlays and training curves, as PNG."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from skimage.segmentation import find_boundaries

# Okabe & Ito 2008: told apart by colour-blind readers too
COLORS = np.array(
    [(0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0)],
    np.uint8,
)
# what is marked in a picture of errors; where one pixel must stand for many, the largest wins
OUTLINE, CONFUSED, FALSE, MISSED = 1, 2, 3, 4
MARKS: tuple[tuple[int, tuple[int, int, int], float], ...] = (  # kind, colour, strength
    (OUTLINE, (0, 158, 115), 0.5),
    (CONFUSED, (240, 228, 66), 0.7),
    (FALSE, (213, 94, 0), 0.7),
    (MISSED, (0, 114, 178), 0.7),
)


def overlay(image: np.ndarray, classes: np.ndarray, truth: np.ndarray | None = None) -> np.ndarray:
    """Draws a segmentation over its image.

    Without `truth`, each class but the background is tinted and outlined. With it, only errors
    are coloured: blue where foreground was missed, red where background was taken for it, yellow
    where two foreground classes were confused; the truth's outlines are green.

    Args:
        image: [H, W, C], any number type. classes: [H, W] int. truth: [H, W] int, -1 = ignored.

    Returns:
        [H, W, 3] uint8.
    """
    canvas = to_rgb(image).astype(np.float32)
    if truth is None:
        tint = COLORS[1 + (classes - 1) % (len(COLORS) - 1)].astype(np.float32)
        foreground = classes > 0
        canvas[foreground] = 0.65 * canvas[foreground] + 0.35 * tint[foreground]
        edge = find_boundaries(classes, mode="inner") & foreground
        canvas[edge] = tint[edge]
        return canvas.astype(np.uint8)
    marks = error_marks(classes, truth)
    for kind, color, strength in MARKS:
        at = marks == kind
        canvas[at] = (1 - strength) * canvas[at] + strength * np.array(color)
    return canvas.astype(np.uint8)


def error_marks(classes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What `overlay` colours: uint8 [H, W], OUTLINE, CONFUSED, FALSE, MISSED, or 0 for nothing.

    Args:
        classes: [H, W] int. truth: [H, W] int, -1 = ignored.
    """
    marks = np.zeros(truth.shape, np.uint8)
    marks[(truth > 0) & (classes > 0) & (truth != classes)] = CONFUSED
    marks[(truth == 0) & (classes > 0)] = FALSE
    marks[(truth > 0) & (classes == 0)] = MISSED
    marks[find_boundaries(truth, mode="inner") & (truth >= 0) & (marks == 0)] = OUTLINE
    return marks


def to_rgb(image: np.ndarray) -> np.ndarray:
    """[H, W, C] of any number type -> [H, W, 3] uint8, contrast from the 0.5 and 99.5 percent."""
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    image = image[..., :3] if image.shape[-1] >= 3 else image[..., :1]
    values = image.astype(np.float32)
    low, high = np.percentile(values, [0.5, 99.5])
    values = np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255
    return np.broadcast_to(values, (*values.shape[:2], 3)).astype(np.uint8)


def save_png(path: Path, pixels: np.ndarray) -> None:
    """Writes uint8 or uint16 pixels [H, W] or [H, W, 3] as a PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        Image.fromarray(pixels).save(beside, format="PNG")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def curves(history: Path, picture: Path) -> None:
    """Draws losses and validation scores over the epochs from the run's history.csv."""
    with history.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return
    columns = {
        name: [float(row[name]) if row[name] else np.nan for row in rows] for name in rows[0]
    }
    step = columns["step"]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in ("loss", "val_loss"):
        if name in columns:
            left.plot(step, columns[name], label=name.replace("_", " "))
    left.set(xlabel="optimiser step", ylabel="cross-entropy", yscale="log")
    for name in ("val_mean_dice", "val_mean_iou", "val_pixel_accuracy"):
        if name in columns:
            right.plot(step, columns[name], label=name.removeprefix("val_").replace("_", " "))
    right.set(xlabel="optimiser step", ylabel="validation score", ylim=(None, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    figure.savefig(picture, dpi=130)
