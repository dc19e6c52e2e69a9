"""Confusion matrices of classes, scores that follow from them, and overlap tables of segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array

from keras_unet.errors import ConfigError, DataError


def confusion_matrix(
    truth: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_class: int | None = None
) -> np.ndarray:
    """Pixels by true class (row) and predicted class (column).

    Args:
        truth, prediction: integers or bool of one shape, any rank, in 0 … num_classes − 1.
        num_classes: K >= 2.
        ignore_class: truth label that is not counted; any integer.

    Returns:
        int64 [K, K]. Matrices of several images add up.

    Raises:
        DataError: types, shapes or labels do not fit.
        ConfigError: num_classes is less than 2.
    """
    if num_classes < 2:
        raise ConfigError(f"num_classes must be 2 or more, got {num_classes}")
    truth, prediction = integers_of_one_shape(truth, prediction)
    if ignore_class is not None:
        counted = truth != ignore_class
        truth, prediction = truth[counted], prediction[counted]
    require_within(0, num_classes - 1, truth=truth, prediction=prediction)
    pairs = truth.astype(np.int64).ravel() * num_classes + prediction.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(confusion: np.ndarray) -> dict[str, Any]:
    """Scores of a confusion matrix (rows: truth), or of each of a stack of them.

    A class that is neither in truth nor in the prediction has IoU and Dice NaN and is left out of
    the means; one that is in either of them counts. `precision` is NaN for a class that was not
    predicted, `recall` for one that is not in truth. Without any pixel, everything is NaN.

    Args:
        confusion: [..., K, K], counts or sums of weights.

    Returns:
        pixel_accuracy, pixel_error, mean_iou, mean_dice: numbers; iou, dice, precision, recall:
        one for each class. As lists [...] and [..., K].

    Raises:
        DataError: the matrix is not square.
    """
    return {name: values.tolist() for name, values in rates(confusion).items()}


def rates(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """`scores` as arrays [...] and [..., K]."""
    matrix = np.asarray(confusion, np.float64)
    if matrix.ndim < 2 or matrix.shape[-2] != matrix.shape[-1]:
        raise DataError(f"a confusion matrix is square, got shape {matrix.shape}")
    hits = np.diagonal(matrix, axis1=-2, axis2=-1)
    predicted, true = matrix.sum(axis=-2), matrix.sum(axis=-1)
    sizes = predicted + true
    iou = ratio(hits, sizes - hits)
    dice = ratio(2 * hits, sizes)
    accuracy = ratio(hits.sum(axis=-1), sizes.sum(axis=-1) / 2)
    return {
        "pixel_accuracy": accuracy,
        "pixel_error": 1.0 - accuracy,
        "iou": iou,
        "dice": dice,
        "precision": ratio(hits, predicted),
        "recall": ratio(hits, true),
        "mean_iou": mean_of_defined(iou),
        "mean_dice": mean_of_defined(dice),
    }


def ratio(part: np.ndarray | float, whole: np.ndarray | float) -> np.ndarray:
    """part / whole, NaN where whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    present = ~np.isnan(values)
    return ratio(np.where(present, values, 0.0).sum(axis=-1), present.sum(axis=-1))


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
    """Both as arrays, or a DataError that names what does not fit: integers >= 0 of one shape."""
    truth, predicted = integers_of_one_shape(truth, predicted)
    for name, labels in (("truth", truth), ("prediction", predicted)):
        if labels.size and int(labels.min()) < 0:
            raise DataError(f"{name} has label {int(labels.min())}, expected 0 or more")
    return truth, predicted


def integers_of_one_shape(
    truth: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays, or a DataError that says what does not fit."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape:
        raise DataError(
            f"truth and prediction must have one shape, got {truth.shape} and {predicted.shape}"
        )
    for name, labels in (("truth", truth), ("prediction", predicted)):
        if labels.dtype.kind not in "biu":
            raise DataError(f"{name} must be integers, got {labels.dtype}; expected integer labels")
    return truth, predicted


def require_within(low: int, high: int, **named: np.ndarray) -> None:
    """Raises DataError for labels, by what they are called, that are not low … high."""
    for name, labels in named.items():
        if labels.size and not (int(labels.min()) >= low and int(labels.max()) <= high):
            raise DataError(
                f"{name} has labels {int(labels.min())} … {int(labels.max())}, expected "
                f"{low} … {high}"
            )


def pairs_of_images(
    truth: np.ndarray | Sequence[np.ndarray], predicted: np.ndarray | Sequence[np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """One image, or several, as pairs of truth and prediction."""
    one = isinstance(truth, np.ndarray)
    if one != isinstance(predicted, np.ndarray):
        raise DataError("truth and prediction must both be an array, or both a list of arrays")
    if one:
        return [(np.asarray(truth), np.asarray(predicted))]
    if len(truth) != len(predicted):
        raise DataError(f"got {len(truth)} true and {len(predicted)} predicted images")
    return list(zip(truth, predicted, strict=True))
