"""Class numbers to the values that label images use."""

from __future__ import annotations

import numpy as np

from keras_unet.data.label_rule import LabelMapping


def label_values(labels: LabelMapping) -> np.ndarray:
    """The value of each class, as the training labels had it: uint8, uint16 or int32 [classes].

    Two classes 0 and 1 become 0 and 255: visible in any viewer, and read back as 0 and 1.
    """
    values = labels.values if labels.kind == "semantic" else (0, 255)
    if tuple(values) == (0, 1):
        values = (0, 255)
    kinds = (np.uint8, np.uint16, np.int32)
    fits = [k for k in kinds if min(values) >= np.iinfo(k).min and max(values) <= np.iinfo(k).max]
    return np.asarray(values, fits[0])


def to_label_values(classes: np.ndarray, labels: LabelMapping) -> np.ndarray:
    """Class numbers [H, W] to label values [H, W], see `label_values`."""
    return label_values(labels)[classes]
