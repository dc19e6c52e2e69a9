"""Picture of what a setting does: draws side by side, with the warped lattice and outlines."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_unet.augment.augment import Augment
from keras_unet.augment.draws import sample_seeds
from keras_unet.augment.settings import AugmentSettings, GeometrySettings
from keras_unet.pictures import contrast

_LATTICE = "#ffb000"
_OUTLINE = "#1fd0ff"


def draw_samples(
    image: np.ndarray,
    label: np.ndarray | None = None,
    settings: AugmentSettings | None = None,
    *,
    seed: int = 0,
    rows: int = 2,
    columns: int = 4,
    spacing: int | None = None,
    title: str | None = None,
) -> Any:
    """A grid of draws; the first panel is the image itself.

    Lattice lines join the points that had equal y, or equal x, in the image. Grey values are shown
    on the scale of the first panel, so that their changes are seen.

    Args:
        image: [H, W, C] of any real dtype; one channel is shown grey, the first three as RGB.
        label: [H, W] integer; its outlines are drawn. None: none.
        settings: see `AugmentSettings`; None does nothing.
        seed: of the draws.
        rows, columns: of the grid.
        spacing: of the lattice in pixels; None: an eighth of the shorter side.
        title: above the grid.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    settings = settings or AugmentSettings()
    count = rows * columns - 1
    height, width = image.shape[:2]
    spacing = spacing or max(4, min(height, width) // 8)
    images, labels, places = _draws(image, label, settings, seed, count)

    shape = height / width
    figure = Figure(
        figsize=(2.6 * columns, 2.6 * rows * shape + 0.3), dpi=160, layout="constrained"
    )
    axes = np.atleast_2d(figure.subplots(rows, columns, squeeze=False)).ravel()
    low, high = contrast(image)
    for number, panel in enumerate(axes):
        shown = np.clip((images[number] - low) / max(high - low, 1e-6), 0, 1)
        shown = shown[..., :3] if shown.shape[-1] >= 3 else shown[..., 0]
        panel.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        for axis, size in ((0, height), (1, width)):
            levels = np.arange(spacing / 2, size - 1, spacing)
            if len(levels):
                place = places[number, ..., axis]
                panel.contour(place, levels, colors=_LATTICE, linewidths=0.6, alpha=0.9)
        if labels is not None:
            _outline(panel, labels[number])
        panel.set_title("the image" if number == 0 else f"draw {number}", fontsize=7, pad=2)
        panel.set_axis_off()
    if title:
        figure.suptitle(title, fontsize=9)
    lines = {"lattice of the image": _LATTICE}
    if label is not None:
        lines["outlines of its labels"] = _OUTLINE
    handles = [Line2D([], [], color=color, label=text) for text, color in lines.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return figure


def _draws(
    image: np.ndarray, label: np.ndarray | None, settings: AugmentSettings, seed: int, count: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """The image and `count` draws of it: images, labels and source coordinates, stacked."""
    height, width = image.shape[:2]
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    place = np.stack([rows, columns], axis=-1).astype(np.float32)
    geometry = AugmentSettings(**settings.model_dump(include=set(GeometrySettings.model_fields)))
    full, moved = Augment(settings), Augment(geometry)
    kept = None if label is None else label.astype(np.int32)
    images, places = [image.astype(np.float32)], [place]
    labels = [] if kept is None else [kept]
    for index in range(count):
        seeds = sample_seeds(seed, 0, index)
        images.append(full(image[None], seeds=seeds).numpy()[0])
        # The same seed moves the coordinates and the label as it moved the image.
        if kept is None:
            places.append(moved(place[None], seeds=seeds).numpy()[0])
            continue
        new_place, new_label = moved(place[None], kept[None], seeds=seeds)
        places.append(new_place.numpy()[0])
        labels.append(new_label.numpy()[0])
    return np.stack(images), np.stack(labels) if labels else None, np.stack(places)


def _outline(panel: Any, label: np.ndarray) -> None:
    """Lines between pixels of different labels, also where two objects touch."""
    from skimage.segmentation import find_boundaries

    edge = find_boundaries(label, mode="inner", background=0)
    layer = np.zeros((*label.shape, 4), np.float32)
    layer[edge] = (*(int(_OUTLINE[i : i + 2], 16) / 255 for i in (1, 3, 5)), 1.0)
    panel.imshow(layer, interpolation="nearest")
