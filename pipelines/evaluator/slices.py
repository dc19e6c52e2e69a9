"""Slices of a set of images: by group, and by how densely the cells lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from keras_unet.data import Sample
from keras_unet.evaluation import (
    Counts,
    Evaluation,
    Samples,
    counts_as_arrays,
    flat,
    plain,
    score,
    stack,
)
from keras_unet.inference import to_instances

AREA = 10_000  # pixels that a density is given for


class Trait(NamedTuple):
    """What an image is sliced by. density: cells per `AREA` pixels."""

    group: str
    density: float


class Observed:
    """Hands samples on and notes their traits: the evaluation reads each image once.

    Cells are the labelled objects, or connected regions of the classes above 0.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self.traits: dict[str, Trait] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        for sample in self._samples:
            objects = sample.instances
            if objects is None and sample.classes is not None:
                objects = to_instances(sample.classes > 0)
            cells = 0 if objects is None else len(np.unique(objects[objects > 0]))
            density = cells * AREA / (sample.image.shape[0] * sample.image.shape[1])
            name = sample.name.encode(errors="backslashreplace").decode()  # as evaluations do
            self.traits[name] = Trait(sample.group, density)
            yield sample


class Slice(NamedTuple):
    """A part of the images: `group=mouse7`, `density=high`; "" is all of them."""

    name: str
    images: tuple[str, ...]
    limits: str = ""  # of densities, for people


def slices(traits: Mapping[str, Trait], density: int | Sequence[float]) -> list[Slice]:
    """All images, then each group (where there are groups), then each range of densities.

    Args:
        traits: by image name.
        density: how many ranges of equally many images, or the edges between ranges.
    """
    found = [Slice("", tuple(traits))]
    groups = sorted({trait.group for trait in traits.values()} - {""})
    for group in groups:
        inside = tuple(name for name, trait in traits.items() if trait.group == group)
        found.append(Slice(f"group={group}", inside))
    values = np.array([trait.density for trait in traits.values()])
    if isinstance(density, int):
        edges = np.quantile(values, np.arange(1, density) / density).tolist()
    else:
        edges = list(density)
    numbers = np.searchsorted(edges, values, side="right")
    for number, title in enumerate(titles(len(edges) + 1)):
        inside = tuple(name for name, where in zip(traits, numbers, strict=True) if where == number)
        if inside:
            low = f"{edges[number - 1]:.3g}" if number else "0"
            high = f"{edges[number]:.3g}" if number < len(edges) else "∞"
            limits = f"{low} to {high} cells per {AREA:,} px"
            found.append(Slice(f"density={title}", inside, limits))
    return found


def scores(evaluation: Evaluation, images: Sequence[str]) -> dict[str, Any]:
    """Scores of some of an evaluation's images, by path: {"iou.cell": 0.9}; None is undefined."""
    each: list[Counts] = [counts_as_arrays(evaluation.counts[name]) for name in images]
    total = {name: block.sum(axis=0) for name, block in stack(each).items()}
    return named(total, evaluation.classes)


def named(total: Counts, classes: Sequence[str]) -> dict[str, Any]:
    """Scores of a sum of counts, by path, as `scores` gives them."""
    return {
        ".".join(path): value
        for path, value in flat(plain(score(total, classes))).items()
        if not isinstance(value, list)
    }


def titles(number: int) -> list[str]:
    """What so many ranges of densities are called, from the sparsest on."""
    few = {1: ["all"], 2: ["low", "high"], 3: ["low", "middle", "high"]}
    return few.get(number, [f"q{i + 1}" for i in range(number)])
