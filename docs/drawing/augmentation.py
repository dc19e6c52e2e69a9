"""Draws of the `paper` preset on synthetic cells, with the warped lattice and label outlines."""

from __future__ import annotations

from matplotlib.figure import Figure

from keras_unet.augment.picture import draw_samples
from keras_unet.augment.settings import preset_settings
from keras_unet.data import make_cells


def draw_augmentation(preset: str = "paper") -> Figure:
    """The picture that `keras-unet augment` writes, of a synthetic image of 320 × 320 pixels."""
    image, labels = make_cells(320, seed=5, coverage=0.7)
    image = image if image.ndim == 3 else image[..., None]
    return draw_samples(image, labels, preset_settings(preset), seed=1, rows=2, columns=4)
