"""What to look at next: sentences that follow from the numbers of an evaluation."""

from __future__ import annotations

import numpy as np

from keras_unet.evaluation.record import Evaluation, counts_as_arrays

MANY = 0.05  # share of the objects that makes merging or splitting worth a word
GAIN = 0.005  # of Dice, by another threshold
GAP = 0.05  # calibration error


def advise(evaluation: Evaluation) -> list[str]:
    """Sentences, the most telling first; each rests on a number that it names."""
    matrix = sum(counts_as_arrays(c)["confusion"] for c in evaluation.counts.values())
    rules = (_worst, _kind_of_error, _where, _confused, _objects, _threshold, _calibration)
    return [text for rule in rules if (text := rule(evaluation, np.asarray(matrix)))]


def _worst(evaluation: Evaluation, matrix: np.ndarray) -> str | None:
    wrong = {name: float(counts["wrong"][0]) for name, counts in evaluation.counts.items()}
    total = sum(wrong.values())
    if len(wrong) < 4 or not total:
        return None
    ordered = sorted(wrong, key=lambda name: -wrong[name])
    share = np.cumsum([wrong[name] for name in ordered]) / total
    few = int(np.argmax(share >= 0.5)) + 1
    if few > len(wrong) / 4:
        return None
    named = ", ".join(ordered[: min(few, 3)]) + (", …" if few > 3 else "")
    verb = "holds" if few == 1 else "hold"
    return (
        f"{few} of {len(wrong)} images {verb} {share[few - 1]:.0%} of all wrong pixels: {named}. "
        "Look whether their labels are right, and whether more images like them can be labelled."
    )


def _kind_of_error(evaluation: Evaluation, matrix: np.ndarray) -> str | None:
    missed, false = matrix[1:, 0].sum(), matrix[0, 1:].sum()
    if max(missed, false) < 2 * min(missed, false) or missed + false == 0:
        return None
    share = max(missed, false) / (missed + false)
    if missed > false:
        return f"Of the errors between foreground and background {share:.0%} are missed foreground."
    return f"Of the errors between foreground and background {share:.0%} are false foreground."


def _where(evaluation: Evaluation, matrix: np.ndarray) -> str | None:
    share, tolerance = evaluation.total["wrong_near_outline"], evaluation.settings.tolerance
    if share is None:
        return None
    if share >= 0.7:
        return (
            f"{share:.0%} of the wrong pixels lie within {tolerance:g} px of a true outline, where "
            "two people may differ too: pixel scores can rise little, so rather compare boundary "
            "F1 or objects."
        )
    if share <= 0.3:
        return (
            f"Only {share:.0%} of the wrong pixels lie within {tolerance:g} px of a true outline: "
            "whole regions are missed or made up; the worst pictures show which."
        )
    return None


def _confused(evaluation: Evaluation, matrix: np.ndarray) -> str | None:
    if len(evaluation.classes) < 3:
        return None
    others = matrix - np.diag(np.diag(matrix))
    row, column = np.unravel_index(int(others.argmax()), others.shape)
    if not others[row, column]:
        return None
    share = others[row, column] / others.sum()
    names = evaluation.classes
    return f"The most frequent error ({share:.0%}): {names[row]} taken for {names[column]}."


def _objects(evaluation: Evaluation, matrix: np.ndarray) -> str | None:
    found = evaluation.total.get("objects")
    if not found:
        return None
    true = found["true_positives"] + found["false_negatives"]
    if found["merged"] > MANY * max(true, 1):
        return (
            f"{found['merged']} predicted object{'s hold' if found['merged'] > 1 else ' holds'} "
            f"two or more true ones ({true} in all): "
            "touching objects run together. A higher loss.w0 in training parts them, or "
            "keras-unet objects --split distance afterwards."
        )
    if found["split"] > MANY * max(true, 1):
        return (
            f"{found['split']} of {true} true objects fall apart in the prediction: filling holes "
            "and dropping small pieces (keras-unet objects) may mend it."
        )
    return None


def _threshold(evaluation: Evaluation, matrix: np.ndarray) -> str | None:
    if len(evaluation.classes) != 2:
        return None
    name = evaluation.classes[1]
    threshold, dice = evaluation.curves["best_threshold"][name]
    now = evaluation.total["dice"][name]
    if threshold is None or now is None or dice - now < GAIN:
        return None
    return (
        f"With a threshold of {threshold:g} instead of 0.5 the Dice of {name} would be "
        f"{dice:.3f} instead of {now:.3f} (chosen on these very images, so a little too good): "
        f"keras-unet predict --threshold {threshold:g}."
    )


def _calibration(evaluation: Evaluation, matrix: np.ndarray) -> str | None:
    error = evaluation.total["calibration_error"]
    if error is None or error < GAP:
        return None
    groups = sum(counts_as_arrays(c)["confidence"] for c in evaluation.counts.values())
    pixels, confidence, right = np.asarray(groups).sum(axis=0)
    sure = "surer than it is right" if confidence > right else "less sure than it could be"
    return (
        f"The network is {sure}: mean confidence {confidence / pixels:.3f}, share of right pixels "
        f"{right / pixels:.3f}. Do not read its probabilities as such."
    )
