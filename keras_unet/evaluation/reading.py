"""Labelled images one after the other, checked beforehand, never all in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from keras_unet.data.label_check import settle
from keras_unet.data.label_rule import LabelRule
from keras_unet.data.pairs import find_pairs
from keras_unet.data.reading import PairReader, RawPair, Sample
from keras_unet.data.report import Problem, shown
from keras_unet.errors import DataError


class LabelledImages:
    """The samples of a data set, read anew in each loop over it.

    All files are read and checked once when it is made. A set of background alone is accepted.

    Args:
        images, labels: as for `keras_unet.train`.
        rule: what label values mean.
        channels: of the images; others are refused.

    Raises:
        DataError: images or labels cannot be used; names every bad file.
    """

    def __init__(
        self, images: str | Path, labels: str | Path | None, rule: LabelRule, channels: int
    ) -> None:
        self._pairs, self._rule = find_pairs(images, labels), rule
        problems = list(self._pairs.problems)
        seen: list[RawPair] = []
        with PairReader() as reader:
            for pair in self._pairs:
                raw = reader.read(pair, rule)
                problems += raw.problems
                name = shown(pair.image, pair.image_page)
                if pair.label is None:
                    problems.append(_problem(name, "has no labels", "labels for each image"))
                if raw.image is not None and raw.image.shape[2] != channels:
                    found = f"has {raw.image.shape[2]} channels"
                    problems.append(_problem(name, found, f"{channels}, as the model was trained"))
                if raw.labels is not None:  # only the values are kept
                    seen.append(replace(raw, image=None, labels=np.empty((0, 0), np.int32)))
        mapping, strange = settle(seen, rule)
        problems += strange
        if problems or mapping is None:
            lines = "".join(f"\n  - {problem}" for problem in problems)
            raise DataError(
                f"the data check found {len(problems)} "
                f"problem{'s' * (len(problems) != 1)} in {len(self._pairs)} images:{lines}"
            )
        self._mapping = mapping

    def __len__(self) -> int:
        return len(self._pairs)

    def __iter__(self) -> Iterator[Sample]:
        with PairReader() as reader:
            for pair in self._pairs:
                raw = reader.read(pair, self._rule)
                if raw.image is None or raw.labels is None:
                    raise DataError("\n".join(map(str, raw.problems)))  # changed since the check
                yield Sample(
                    pair.name,
                    raw.image,
                    self._mapping.classes(raw.labels),
                    self._mapping.instances(raw.labels),
                )


def _problem(file: str, found: str, expected: str) -> Problem:
    return Problem(file=file, found=found, expected=expected)
