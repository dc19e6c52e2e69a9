"""Reading images and labels, checking them, normalisation, and the synthetic data set.

Names are imported when they are first used: a label rule costs no image library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_unet._lazy import attach

_NAMES = {
    "DataReport": "report",
    "LabelMapping": "label_rule",
    "LabelRule": "label_rule",
    "Normalization": "normalization",
    "Pair": "pairs",
    "Pairs": "pairs",
    "Sample": "samples",
    "check_data": "check",
    "count_pages": "images",
    "find_pairs": "pairs",
    "load_dataset": "pipeline",
    "load_samples": "check",
    "make_cells": "synthetic",
    "read_image": "images",
    "read_labels": "images",
    "shared_images": "report",
    "write_dataset": "synthetic",
}

__getattr__, __dir__, __all__ = attach(__name__, _NAMES)

if TYPE_CHECKING:
    from keras_unet.data.check import check_data as check_data
    from keras_unet.data.check import load_samples as load_samples
    from keras_unet.data.images import count_pages as count_pages
    from keras_unet.data.images import read_image as read_image
    from keras_unet.data.images import read_labels as read_labels
    from keras_unet.data.label_rule import LabelMapping as LabelMapping
    from keras_unet.data.label_rule import LabelRule as LabelRule
    from keras_unet.data.normalization import Normalization as Normalization
    from keras_unet.data.pairs import Pair as Pair
    from keras_unet.data.pairs import Pairs as Pairs
    from keras_unet.data.pairs import find_pairs as find_pairs
    from keras_unet.data.pipeline import load_dataset as load_dataset
    from keras_unet.data.report import DataReport as DataReport
    from keras_unet.data.report import shared_images as shared_images
    from keras_unet.data.samples import Sample as Sample
    from keras_unet.data.synthetic import make_cells as make_cells
    from keras_unet.data.synthetic import write_dataset as write_dataset
