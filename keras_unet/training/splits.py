"""Split of a data set: which images are held out, by share, by name, or fold by fold."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from keras_unet.data.samples import Sample
from keras_unet.errors import ConfigError
from keras_unet.training.config import DataConfig

DRAWS = 100  # of held-out images, until training and validation have the same classes


def group_of(name: str, pattern: str | None) -> str:
    """Images of one group stay together: those whose names match the pattern in equal text.

    The text is that of the pattern's first bracket, if it has one. A name that does not match is a
    group of its own.
    """
    found = re.search(pattern, name) if pattern is not None else None
    if found is None:
        return f"/{name}"  # no name of a file: never equal to a match
    return found.group(1 if found.re.groups else 0) or ""


def divide(
    samples: Sequence[Sample], data: DataConfig, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """(training, validation) of one set of images, by name or by share.

    Raises:
        ConfigError: see `split` and `hold_out`.
    """
    if data.held_out is not None:
        return hold_out(samples, data.held_out)
    assert not isinstance(data.validation, Path)
    return split(samples, data.validation, seed, data.groups)


def split(
    samples: Sequence[Sample], share: float, seed: int, groups: str | None = None
) -> tuple[list[Sample], list[Sample]]:
    """Holds out a share of the images, at least one: (training, validation).

    Pages of a stack lie next to each other and look alike, so they are held out in one block;
    other images, or groups of them, at random. A set of both gives its share of each. Where one
    side lacks a class, the next of `DRAWS` draws that gives it to both is taken.
    """
    if not 0 < share < 1:
        raise ConfigError(f"data.validation must be a folder or a share in (0, 1), got {share}")
    if len(samples) < 2:
        raise ConfigError("one labelled image cannot be split: give a validation folder")
    count = min(max(1, round(share * len(samples))), len(samples) - 1)
    rng = np.random.default_rng(seed)
    names = [s.name for s in samples]
    keys = None if groups is None else [group_of(name, groups) for name in names]
    kinds = [classes_of([s]) for s in samples]

    def rest_of(held: set[int]) -> set[int]:
        return set(range(len(samples))) - held

    def fair(held: set[int]) -> bool:
        sides = [set().union(*(kinds[i] for i in side)) for side in (held, rest_of(held))]
        return sides[0] == sides[1]

    draws = (
        _held_images(names, count, rng) if keys is None else _held_groups(keys, count, rng)
        for _ in range(DRAWS)
    )
    first = next(draws)
    held = next(filter(fair, itertools.chain([first], draws)), first)
    return [samples[i] for i in sorted(rest_of(held))], [samples[i] for i in sorted(held)]


def classes_of(samples: Sequence[Sample]) -> set[int]:
    """The classes that labelled images have a pixel of."""
    found: set[int] = set()
    for sample in samples:
        if sample.classes is not None:  # -1 and up; counting is faster than sorting
            found.update((np.flatnonzero(np.bincount(sample.classes.ravel() + 1)) - 1).tolist())
    return found - {-1}


def require_classes(
    training: Sequence[Sample], held_out: Sequence[Sample], values: Sequence[int] = ()
) -> None:
    """Both have a pixel of each class.

    Args:
        values: the stored label value of each class; for messages.

    Raises:
        ConfigError: says which class is only in one of them, and what can help.
    """
    known, scored = classes_of(training), classes_of(held_out)
    lone = lone_holder(known ^ scored, [*training, *held_out], values)
    if known - scored:
        raise ConfigError(
            f"the {len(held_out)} validation images have no pixel of class "
            f"{sorted(known - scored)}, so they can't tell a good model from a bad one: "
            + (
                lone
                or "give data.validation a folder with all classes, hold out more "
                "(data.validation=0.3) or others (another seed)"
            )
        )
    if scored - known:
        raise ConfigError(
            f"the {len(training)} training images have no pixel of class {sorted(scored - known)}, "
            "which the validation images have and a model cannot learn: "
            + (lone or "label it in images for training, or hold out others (another seed)")
        )


def lone_holder(
    classes: Iterable[int], samples: Sequence[Sample], values: Sequence[int] = ()
) -> str | None:
    """What to do about a class that only one image holds, which no split puts on both sides.

    Args:
        classes: to look at. samples: of training and validation.
        values: the stored label value of each class, if that is known.
    """
    kinds = [classes_of([sample]) for sample in samples]
    for number in sorted(classes):
        names = [s.name for s, held in zip(samples, kinds, strict=True) if number in held]
        if len(names) == 1:
            value = values[number] if number < len(values) else number
            leave = f", or leave the class out (data.label_ignore={value})" if number else ""
            return (
                f"{names[0]} alone holds class {number} (label value {value}), and one image can't "
                "be both trained on and held out. Label the class in another image; or cut this "
                "image into two, with the class in both; or put a copy of it and its labels, under "
                f"a second name, on the other side (its scores will flatter){leave}"
            )
    return None


def hold_out(samples: Sequence[Sample], names: Sequence[str]) -> tuple[list[Sample], list[Sample]]:
    """Holds out the named images: (training, validation).

    Raises:
        ConfigError: a name that no image has, or no image is left.
    """
    wanted = {unicodedata.normalize("NFC", name) for name in names}  # as `stem_of` gives them
    absent = sorted(wanted - {s.name for s in samples})
    if absent or not wanted or len(wanted) == len(samples):
        raise ConfigError(
            f"data.held_out names {len(wanted)} of {len(samples)} images; expected at least one "
            "name of an image, and not all of them"
            + (f". No image is called {', '.join(absent[:5])}" if absent else "")
        )
    return (
        [s for s in samples if s.name not in wanted],
        [s for s in samples if s.name in wanted],
    )


def make_folds(
    names: Sequence[str], folds: int, seed: int, groups: str | None = None
) -> list[list[str]]:
    """The names that are held out in each fold: every image once.

    Pages of fewer stacks than folds are dealt out in blocks of neighbours; of more stacks, whole
    stacks; other images one by one, or by `groups` (see `group_of`), at random and in even numbers
    as far as groups allow.

    Raises:
        ConfigError: fewer images, or groups, than folds.
    """
    if not 2 <= folds <= len(names):
        raise ConfigError(f"{folds} folds of {len(names)} images: expected 2 to {len(names)}")
    if groups is not None:
        keys = [group_of(name, groups) for name in names]
    else:
        keys = [_stack_of(name) or f"/{name}" for name in names]
    members: dict[str, list[str]] = {}
    for key, name in zip(keys, names, strict=True):
        members.setdefault(key, []).append(name)
    if len(members) < folds:
        if groups is not None:
            raise ConfigError(
                f"{folds} folds need as many groups; data.groups={groups!r} gives {len(members)}"
            )
        return [list(block) for block in np.array_split(np.array(names), folds)]
    order = list(members)
    np.random.default_rng(seed).shuffle(order)
    held: list[list[str]] = [[] for _ in range(folds)]
    for key in sorted(order, key=lambda k: -len(members[k])):  # large groups first; stable
        min(held, key=len).extend(members[key])
    place = {name: number for number, name in enumerate(names)}
    return [sorted(fold, key=place.__getitem__) for fold in held]


def _stack_of(name: str) -> str | None:
    """The stack that the image is a page of, "cells" for "cells:003"; None for other images."""
    found = re.fullmatch(r"(.+):\d+", name)
    return found and found.group(1)


def _held_images(names: Sequence[str], count: int, rng: np.random.Generator) -> set[int]:
    pages = [i for i, name in enumerate(names) if _stack_of(name)]
    others = [i for i, name in enumerate(names) if not _stack_of(name)]
    of_pages = round(count * len(pages) / len(names))
    held: set[int] = set()
    if of_pages:
        first = int(rng.integers(len(pages) - of_pages + 1))
        held.update(pages[first : first + of_pages])
    held.update(others[i] for i in rng.permutation(len(others))[: count - of_pages])
    return held


def _held_groups(keys: Sequence[str], count: int, rng: np.random.Generator) -> set[int]:
    members: dict[str, list[int]] = {}
    for number, key in enumerate(keys):
        members.setdefault(key, []).append(number)
    if len(members) < 2:
        raise ConfigError(
            "data.groups puts all images into one group, which cannot be split: give a validation "
            "folder or another pattern"
        )
    order = list(members)
    rng.shuffle(order)
    held: set[int] = set()
    for key in order[:-1]:  # at least one group stays for training
        if len(held) < count:
            held.update(members[key])
    return held
