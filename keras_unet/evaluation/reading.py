"""Labelled images one after the other, checked beforehand, never all in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from keras_unet.data.label_check import (
    label_notes,
    nodata_notes,
    orientation_notes,
    palette_notes,
    settle,
    single_class,
)
from keras_unet.data.label_rule import LabelRule
from keras_unet.data.reading import RawPair, Sample
from keras_unet.data.report import Problem, beside_images
from keras_unet.data.sources import find_source, read_source
from keras_unet.errors import DataError

_LABELS = "labels for each image: give the folder that holds images/ and labels/, or --labels"


class LabelledImages:
    """The samples of a data set, read anew in each loop over it.

    All files are read and checked once when it is made. A set of background alone is accepted.

    Args:
        images, labels: as for `keras_unet.train`, records too.
        rule: what label values mean.
        channels: of the images; others are refused.
        classes: of the model; more of them in the labels are refused.

    Attributes:
        notes: what is worth a look in them, such as a set without a pixel of a class.

    Raises:
        DataError: images or labels cannot be used; names every bad file.
    """

    def __init__(
        self,
        images: str | Path,
        labels: str | Path | None,
        rule: LabelRule,
        channels: int,
        classes: int | None = None,
    ) -> None:
        self._source, self._rule = find_source(images, labels), rule
        self.notes: tuple[str, ...] = tuple(self._source.notes)
        problems = list(self._source.problems)
        seen: list[RawPair] = []
        beside: dict[Path, tuple[str, ...]] = {}
        shares: dict[str, float] = {}
        self._count = 0
        for raw in read_source(self._source, rule):
            self._count += 1
            problems += raw.problems
            beside[raw.pair.image] = raw.left_out
            shares[raw.pair.image_shown] = raw.share_missing
            name = raw.pair.image_shown
            if raw.pair.label is None:
                problems.append(_problem(name, "has no labels", _LABELS))
            if raw.image is not None and raw.image.shape[2] != channels:
                found = f"has {raw.image.shape[2]} channels"
                problems.append(_problem(name, found, f"{channels}, as the model was trained"))
            if raw.labels is not None:  # only the values are kept
                seen.append(
                    replace(
                        raw,
                        image=None,
                        labels=np.empty((0, 0), np.int32),
                        border=None,
                        missing=None,
                    )
                )
        mapping, strange = settle(seen, rule)
        problems += strange
        if problems or mapping is None:
            lines = "".join(f"\n  - {problem}" for problem in problems)
            raise DataError(
                f"the data check found {len(problems)} "
                f"problem{'s' * (len(problems) != 1)} in {self._count} images:{lines}"
            )
        if classes is not None and mapping.num_classes > classes:
            raise DataError(
                f"{images}: labels of {mapping.num_classes} classes; expected at most {classes}, "
                "as the model has them"
            )
        self._mapping = mapping
        self.notes += (
            *mapping.notes,
            *map(str, single_class(seen, mapping)),
            *label_notes(seen, mapping),
            *nodata_notes(shares),
            *palette_notes(seen, rule.ignore),
            *orientation_notes(seen),
            *beside_images(beside),
        )

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sample]:
        for raw in read_source(self._source, self._rule):
            sample = None if raw.labels is None else raw.sample(self._mapping)
            if sample is None:
                raise DataError("\n".join(map(str, raw.problems)))  # changed since the check
            yield sample


def _problem(file: str, found: str, expected: str) -> Problem:
    return Problem(file=file, found=found, expected=expected)
