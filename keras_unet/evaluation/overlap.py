"""How many pixels each pair of segments shares: the table that segmentation scores start from."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array, csr_array

from keras_unet.errors import DataError


def overlap_table(truth: np.ndarray, predicted: np.ndarray) -> csr_array:
    """Pixels by truth label (row) and predicted label (column).

    Args:
        truth, predicted: integer labels >= 0 of one shape, any rank.

    Returns:
        int64 sparse [max(truth) + 1, max(predicted) + 1], without stored zeros.

    Raises:
        DataError: shapes differ, or labels are no integers or negative.
    """
    truth, predicted = check_labels(truth, predicted)
    if not truth.size:
        return csr_array((1, 1), dtype=np.int64)
    ones = np.ones(truth.size, np.int64)
    cells = (truth.ravel().astype(np.int64), predicted.ravel().astype(np.int64))
    return csr_array(coo_array((ones, cells)).tocsr())  # sums what falls into one cell


def check_labels(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays, or a DataError that says what does not fit."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise DataError(
            f"truth and prediction must have one shape, got {truth.shape} and {predicted.shape}"
        )
    for name, labels in (("truth", truth), ("prediction", predicted)):
        if labels.dtype.kind not in "biu":
            raise DataError(f"{name} must hold integer labels, got {labels.dtype}")
        if labels.size and int(labels.min()) < 0:
            raise DataError(f"{name} has label {int(labels.min())}, expected 0 or more")
    return truth, predicted
