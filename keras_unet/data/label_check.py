"""Label values of a whole data set held against the rule for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from keras_unet.data.label_rule import INSTANCES, MOST_UNSTATED, LabelMapping, LabelRule, as_setting
from keras_unet.data.reading import RawPair
from keras_unet.data.report import Problem, listed
from keras_unet.errors import DataError


def settle(raws: Sequence[RawPair], rule: LabelRule) -> tuple[LabelMapping | None, list[Problem]]:
    """What the label values found in a whole set mean, or what does not fit the rule.

    Returns:
      (mapping, no problems), or (None, problems): one for each file with values out of range, or
      one for the set where the rule leaves its meaning open. (None, no problems) without labels.
    """
    labelled = [raw for raw in raws if raw.labels is not None]
    if not labelled:
        return None, []
    holders = Counter(value for raw in labelled for value in raw.values)
    try:
        mapping = rule.resolve(holders)
    except DataError as error:
        found, _, expected = str(error).partition("; expected ")
        stated = rule.stated()
        allowed: set[int | None] = {*(stated or ()), rule.ignore}
        if rule.kind == "instances":
            allowed |= {value for value in holders if value >= 0}
        if stated is not None or rule.kind == "instances":
            named = [(raw, sorted(set(raw.values) - allowed)) for raw in labelled]
            return None, [
                Problem(
                    file=raw.pair.label_shown,
                    found=f"holds label values out of range: {listed(strange)}",
                    expected=listed(stated) if stated else expected,
                )
                for raw, strange in named
                if strange
            ]
        return None, [Problem(file="", found=found + _rare(labelled, holders), expected=expected)]
    if _like_objects(labelled, mapping, rule):
        return None, [
            Problem(
                file="",
                found=f"labels hold the numbers {listed(mapping.values)}, and each is one single "
                "region in every image, as numbers of objects are",
                expected=f"{INSTANCES} if they are, or "
                f"{as_setting('num_classes', mapping.num_classes)} if each number is a class",
            )
        ]
    return mapping, []


def _like_objects(labelled: Sequence[RawPair], mapping: LabelMapping, rule: LabelRule) -> bool:
    """Whether classes that nobody stated look like numbers of objects."""
    if mapping.kind != "semantic" or rule.stated() is not None:
        return False
    if not 3 <= mapping.num_classes <= MOST_UNSTATED:
        return False
    return all(
        count_regions(raw.labels) <= len(set(raw.values) - {0})
        for raw in labelled
        if raw.labels is not None
    )


def count_regions(labels: np.ndarray) -> int:
    """How many 4-connected regions of equal, non-zero value there are."""
    from skimage.measure import label as components  # slow to import, and seldom needed

    return int(components(labels, connectivity=1, background=0).max())


def _rare(labelled: Sequence[RawPair], holders: Counter[int]) -> str:
    """Names the files with values that most files do without: likely the bad ones."""
    rare = {value for value, files in holders.items() if files <= 0.2 * len(labelled)}
    names = [raw.pair.label_shown for raw in labelled if rare & set(raw.values)]
    if not names or len(names) > 3 or len(rare) > 4:
        return ""
    return f" (found {listed(sorted(rare))} only in {listed(names)})"
