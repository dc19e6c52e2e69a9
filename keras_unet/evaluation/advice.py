"""Advice on an evaluation: the most telling problem that its scores show, and the cure."""

from __future__ import annotations

import numpy as np

from keras_unet.evaluation import confusion, instances
from keras_unet.evaluation.evaluation import Evaluation, counts_as_arrays

HARDLY = 0.01  # of the pixels of all other classes are predicted: there is one class
RARE = 0.05  # share of the pixels below which a class needs weight
AGREE = 0.8  # share of right pixels with exchanged classes: the labels are inverted
MANY = 0.05  # share of the objects that makes a kind of error worth a line
MOST = 0.5  # of the false objects are below a size: that is what is wrong with them
LOSS = 0.02  # of the found objects may be below it too
SPECK = 4  # times as large is what people look for, or more
GOOD_PIXELS, POOR_OBJECTS = 0.9, 0.7  # mean Dice, object F1
GAIN = 0.005  # of Dice, by another threshold
GAP = 0.05  # calibration error
_CURES = {  # by `ScoreSettings.split`: of objects that run together, and of such as fall apart
    "none": ("--split neck", "--fill-holes"),
    "neck": ("A higher --neck", "a lower --neck"),
    "distance": ("A smaller --seed-distance", "a larger --seed-distance"),
}


def advise(evaluation: Evaluation) -> list[str]:
    """Sentences, the most telling first; each names the number that it follows from.

    Where labels are inverted, or one class is all that is predicted, nothing else is worth a look,
    and nothing else is said.
    """
    counts = [counts_as_arrays(one) for one in evaluation.counts.values()]
    matrix = np.sum([one["confusion"] for one in counts], axis=0)
    for alone in (_one_class(evaluation, matrix), _exchanged(evaluation, matrix)):
        if alone:
            return [alone]
    rules = (_worst, _kind_of_error, _where, _confused, _threshold, _calibration)
    found = [text for rule in rules if (text := rule(evaluation, matrix))]
    return [*_objects(evaluation), *found]


def _exchanged(evaluation: Evaluation, matrix: np.ndarray) -> str | None:
    """Labels of two classes that would fit the prediction better the other way round."""
    if len(matrix) != 2 or not matrix.sum(axis=1).all():  # a class alone shows nothing of it
        return None
    as_they_are, exchanged = (float(np.trace(m) / m.sum()) for m in (matrix, matrix[::-1]))
    worse = confusion.rates(matrix)["mean_dice"] < confusion.rates(matrix[::-1])["mean_dice"]
    if exchanged < AGREE or not worse:
        return None
    return (
        f"Prediction and labels agree in {as_they_are:.1%} of the pixels; with the two classes of "
        f"the labels exchanged they would in {exchanged:.1%}: are the labels inverted (white for "
        "black)?"
    )


def _one_class(evaluation: Evaluation, matrix: np.ndarray) -> str | None:
    true, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    only = int(predicted.argmax())
    others = true.sum() - true[only]
    if not others or predicted.sum() - predicted[only] >= HARDLY * others:
        return None
    share = others / true.sum()
    weight = "; loss.class_weights=balanced for classes as rare as these" if share < RARE else ""
    return (
        f"Nearly every pixel is predicted to be {evaluation.classes[only]}, and {share:.1%} are "
        "not: the network has not learned to tell the classes apart. Train longer; if the loss in "
        "curves.png does not fall, see that each label belongs to its image, and try another "
        f"learning_rate{weight}."
    )


def _objects(evaluation: Evaluation) -> list[str]:
    """What is wrong with objects, first what concerns most of them."""
    scores = evaluation.total.get("objects")
    if not scores:
        return []
    true = scores["true_positives"] + scores["false_negatives"]
    few = MANY * max(true, 1)
    found: list[tuple[float, str]] = []
    specks = _specks(evaluation, few)
    if specks is not None:
        found.append(specks)
    merged, split = scores["merged"], scores["split"]
    cut_more, cut_less = _CURES[evaluation.settings.split or "none"]
    if merged > few:
        text = (
            f"{merged:,} predicted object{'s hold' if merged > 1 else ' holds'} two or more true "
            f"ones ({true:,} in all): touching objects run together. {cut_more} cuts more of "
            "them apart, a higher loss.w0 in training parts them."
        )
        found.append((2.0 * merged, text))
    if split > few and specks is None:  # a speck beside its object makes it two pieces
        text = (
            f"{split:,} of {true:,} true objects fall apart in the prediction: {cut_less} "
            "may mend it."
        )
        found.append((2.0 * split, text))
    alone = scores["false_negatives"] - 2 * merged
    if alone > 2 * few:
        area = scores.get("missed_area")
        sizes = "" if area is None else f", their median area is about {area:,.0f} px"
        text = (
            f"{scores['false_negatives']:,} of {true:,} true objects are missed{sizes}: longer "
            "training, and more images with such objects, find more; what is blue in the pictures "
            "shows which."
        )
        found.append((float(alone), text))
    texts = [text for _, text in sorted(found, key=lambda one: -one[0])]
    dice, f1 = evaluation.total["mean_dice"], scores["f1"]
    if dice is not None and f1 is not None and dice >= GOOD_PIXELS and f1 < POOR_OBJECTS:
        head = f"Pixels are right (mean Dice {dice:.3f}), objects are not (object F1 {f1:.3f})."
        texts = [" ".join([head, *texts[:1]]), *texts[1:]]
    return texts


def _specks(evaluation: Evaluation, few: float) -> tuple[float, str] | None:
    """How many false objects a least size would remove, and which size; None: not most of them."""
    counts = evaluation.counts.values()
    if not all("object_areas" in one for one in counts):  # of 0.3
        return None
    areas = np.sum([one["object_areas"] for one in counts], axis=0)
    found, false = areas[instances.FOUND], areas[instances.FALSE]
    usual = instances.median_area(found if found.any() else areas[instances.MISSED])
    least = 2 ** np.arange(1, instances.AREAS)
    gone, lost = np.cumsum(false)[:-1], np.cumsum(found)[:-1]  # what is smaller than each
    allowed = (gone >= MOST * false.sum()) & (lost <= LOSS * found.sum()) & (SPECK * least < usual)
    if false.sum() <= few or not allowed.any():
        return None
    best = int(np.where(allowed, gone - lost, -np.inf).argmax())
    text = (
        f"{false.sum():,.0f} predicted objects match no true one; their median area is "
        f"{instances.median_area(false):,.0f} px, that of others about {usual:,.0f} px: specks. "
        f"Drop what is smaller than {least[best]} px: --min-size {least[best]}."
    )
    return float(gone[best]), text


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


def _threshold(evaluation: Evaluation, matrix: np.ndarray) -> str | None:
    if len(evaluation.classes) != 2 or evaluation.settings.threshold is not None:
        return None  # the model's own for its objects was fitted to them, not to pixels
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
    groups = np.sum([c["confidence"] for c in evaluation.counts.values()], axis=0)
    pixels, confidence, right = groups.sum(axis=0)
    sure = "surer than it is right" if confidence > right else "less sure than it could be"
    return (
        f"The network is {sure}: mean confidence {confidence / pixels:.3f}, share of right pixels "
        f"{right / pixels:.3f}. Do not read its probabilities as such."
    )
