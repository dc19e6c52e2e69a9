"""Confusion matrices and the scores that follow from them, in NumPy."""

from __future__ import annotations

import numpy as np

from keras_unet.errors import ConfigError, DataError


def confusion_matrix(
    truth: np.ndarray,
    prediction: np.ndarray,
    num_classes: int,
    ignore_class: int | None = None,
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
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape:
        raise DataError(
            f"truth and prediction must have one shape, got {truth.shape} and {prediction.shape}"
        )
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.dtype.kind not in "biu":
            raise DataError(f"{name} must be integers, got {labels.dtype}")
    if ignore_class is not None:
        counted = truth != ignore_class
        truth, prediction = truth[counted], prediction[counted]
    for name, labels in (("truth", truth), ("prediction", prediction)):
        if labels.size and not (int(labels.min()) >= 0 and int(labels.max()) < num_classes):
            raise DataError(
                f"{name} has labels {int(labels.min())} … {int(labels.max())}, expected "
                f"0 … {num_classes - 1}"
            )
    pairs = truth.astype(np.int64).ravel() * num_classes + prediction.astype(np.int64).ravel()
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def scores(confusion: np.ndarray) -> dict[str, float | list[float]]:
    """Scores of a confusion matrix (rows: truth).

    A class that is neither in truth nor in the prediction has IoU and Dice NaN and is left out of
    the means; one that is in either of them counts. Without any pixel, everything is NaN.

    Args:
        confusion: [K, K], counts or sums of weights.

    Returns:
        pixel_accuracy, pixel_error, mean_iou, mean_dice: numbers; iou, dice: one for each class.

    Raises:
        DataError: the matrix is not square.
    """
    matrix = np.asarray(confusion, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise DataError(f"a confusion matrix is square, got shape {matrix.shape}")
    hits = np.diag(matrix)
    sizes = matrix.sum(axis=0) + matrix.sum(axis=1)
    iou = _ratio(hits, sizes - hits)
    dice = _ratio(2 * hits, sizes)
    accuracy = float(_ratio(hits.sum(), matrix.sum()))
    return {
        "pixel_accuracy": accuracy,
        "pixel_error": 1.0 - accuracy,
        "iou": iou.tolist(),
        "dice": dice.tolist(),
        "mean_iou": _mean(iou),
        "mean_dice": _mean(dice),
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")
