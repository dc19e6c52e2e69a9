"""Check of a data set before training: all that is wrong reported at once, and the samples.

Label values of the whole set are held against the rule for them, which settles what they mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_unet.data.label_rule import INSTANCES, MOST_UNSTATED, LabelMapping, LabelRule, as_setting
from keras_unet.data.pairs import (
    Pair,
    Problem,
    Records,
    Source,
    beside_images,
    find_source,
    natural_key,
)
from keras_unet.data.samples import PairReader, RawPair, Sample, diameters, object_areas, size
from keras_unet.data.stored_pixels import NODATA
from keras_unet.errors import DataError, listed
from keras_unet.settings import Frozen

VOID = (-1, 127, 254, 255, 32767, 65535)  # usual for pixels that do not count
FEW = 250  # pixels of a class; 500 were enough for bright nuclei, see docs/labelling.md
CONTRAST = 0.3  # standard deviations of the image that foreground and background lie apart


class Loaded(NamedTuple):
    """A data set as it was read: its samples, and the report on them."""

    samples: list[Sample]
    report: DataReport

    def __repr__(self) -> str:
        return f"Loaded({len(self.samples)} samples)"


def load_samples(
    images: str | Path,
    labels: str | Path | None = None,
    rule: LabelRule | None = None,
    *,
    need_labels: bool = False,
    for_scoring: bool = False,
) -> Loaded:
    """Finds, reads and checks a data set; each file is read once.

    Args:
      images, labels: as in `find_pairs`: a folder with `images/` and `labels/`, two folders, two
        stacks, or images alone. Or records, as in `find_records`, without `labels`.
      rule: what label values mean; default `LabelRule()`: classes.
      need_labels: images alone are refused.
      for_scoring: not for training: a set of background alone is accepted.

    Returns:
      The samples in natural order of their names, and the report (its `notes` are worth showing).
      For instance labels, `classes` is `instances > 0`; touching cells are not separated here.

    Raises:
      DataError: the check found problems; the message lists all of them.
    """
    samples, report = check_and_read(
        find_source(images, labels), rule, need_labels=need_labels, for_scoring=for_scoring
    )
    report.raise_if_bad()
    return Loaded(samples, report)


def read_source(source: Source | Iterable[Pair], rule: LabelRule) -> Iterator[RawPair]:
    """Every image and its labels, in turn; what fails is in their `problems`."""
    if isinstance(source, Records):
        from keras_unet.data.records import read_records

        yield from read_records(source, rule)
        return
    with PairReader() as reader:
        for pair in source:
            yield reader.read(pair, rule)


def check_data(
    pairs: Source | Iterable[Pair], rule: LabelRule | None = None, *, need_labels: bool = False
) -> DataReport:
    """Reads every file once and reports; raises nothing. See `check_and_read`."""
    return check_and_read(pairs, rule, need_labels=need_labels)[1]


def check_and_read(
    pairs: Source | Iterable[Pair],
    rule: LabelRule | None = None,
    *,
    need_labels: bool = False,
    for_scoring: bool = False,
) -> tuple[list[Sample], DataReport]:
    """The samples that could be read, and the report on all of them.

    Problems (to be mended): unreadable, truncated or oversized files, missing partners, image and
    labels of unequal size, label values that do not fit the rule, NaN, unequal channel counts,
    labels that JPEG or smooth resizing went over, labels with one class only. Notes (to be
    looked at): constant images, single images without cells, equal images, mixed dtypes, how
    label values are read.

    Args:
      pairs: from `find_source` or `find_pairs`, whose problems and notes are taken over.
      rule: what label values mean; default `LabelRule()`: classes.
      need_labels: a set without any labels is a problem.
      for_scoring: labels with one class only are a note, not a problem: a negative control.
    """
    rule = rule or LabelRule()
    problems = list(pairs.problems) if isinstance(pairs, Source) else []
    notes = list(pairs.notes) if isinstance(pairs, Source) else []
    raws = list(read_source(pairs, rule))
    if isinstance(pairs, Records):  # in the order of a folder, however they are spread over shards
        raws.sort(key=lambda raw: natural_key(raw.pair.name))
    problems += [problem for raw in raws for problem in raw.problems]
    problems += _missing(raws, need_labels)
    problems += _channels(raws)
    mapping, strange = settle_labels(raws, rule)
    problems += strange
    samples = [sample for raw in raws if (sample := raw.sample(mapping)) is not None]
    summary = _summary(raws, samples, mapping)
    if mapping is not None:
        notes += mapping.notes
        content = single_class(raws, mapping)
        if for_scoring:
            notes += [str(problem) for problem in content]
        else:
            problems += content
        notes += label_notes(raws, mapping)
        notes += _object_notes(raws, mapping)
    notes += file_notes(raws, rule.ignore)
    notes += _image_notes(raws, summary)
    report = DataReport(
        problems=tuple(problems),
        notes=tuple(notes),
        summary=summary,
        mapping=mapping,
        digests={raw.pair.name: raw.digest for raw in raws if raw.digest},
    )
    return samples, report


def _missing(raws: Sequence[RawPair], need_labels: bool) -> list[Problem]:
    bare = [raw for raw in raws if raw.pair.label is None]
    if len(bare) < len(raws):  # some have labels, so all should
        return [
            Problem(
                file=raw.pair.image_shown, found="has no labels", expected="labels for each image"
            )
            for raw in bare
        ]
    if need_labels:
        return [
            Problem(
                file="",
                found="there are no labels",
                expected="a folder labels/ beside images/ with equal names, or a labels path",
            )
        ]
    return []


def _channels(raws: Sequence[RawPair]) -> list[Problem]:
    counts = Counter(raw.image.shape[2] for raw in raws if raw.image is not None)
    if len(counts) < 2:
        return []
    usual, many = counts.most_common(1)[0]
    return [
        Problem(
            file=raw.pair.image_shown,
            found=f"has {raw.image.shape[2]} channels",
            expected=f"{usual}, as {many} of {counts.total()} images",
        )
        for raw in raws
        if raw.image is not None and raw.image.shape[2] != usual
    ]


def _summary(
    raws: Sequence[RawPair], samples: Sequence[Sample], mapping: LabelMapping | None
) -> DataSummary:
    images = [raw.image for raw in raws if raw.image is not None]
    values = sorted({value for raw in raws for value in raw.values})
    fractions = cells = total = diameter = None
    if mapping is not None:
        counts = np.zeros(mapping.num_classes, np.int64)
        objects, across = [], []
        for sample in samples:
            if sample.classes is not None:
                counts += np.bincount(
                    sample.classes[sample.classes >= 0], minlength=mapping.num_classes
                )
            if sample.instances is not None:
                found = diameters(object_areas(sample.instances))
                objects.append(len(found))
                across += found.tolist()
        fractions = tuple((counts / max(1, counts.sum())).tolist())
        if mapping.kind == "instances":
            cells, total, diameter = _spread(objects), sum(objects), _spread(across)
    return DataSummary(
        images=len(raws),
        labelled=sum(raw.labels is not None for raw in raws),
        sizes=dict(Counter(map(size, images))),
        channels=dict(Counter(str(image.shape[2]) for image in images)),
        dtypes=dict(Counter(str(image.dtype) for image in images)),
        grey=_spread([float(image.mean(dtype=np.float64)) for image in images]),
        label_values=tuple(values[:32]),
        label_values_count=len(values),
        class_fractions=fractions,
        cells=cells,
        cells_total=total,
        diameter=diameter,
    )


def _object_notes(raws: Sequence[RawPair], mapping: LabelMapping) -> list[str]:
    if mapping.kind != "instances" or mapping.split:
        return []
    numbers = sum(len(set(raw.values) - {0, mapping.ignore}) for raw in raws)
    regions = sum(regions_of(raw, mapping.ignore) for raw in raws)
    if regions <= 1.5 * numbers:
        return []
    return [
        f"{numbers} objects lie in {regions} separate regions: if the numbers are classes, "
        'set data.label_kind = "semantic"'
    ]


def _image_notes(raws: Sequence[RawPair], summary: DataSummary) -> list[str]:
    notes = []
    read = [(raw.pair.image_shown, raw.image, raw.digest) for raw in raws if raw.image is not None]
    constant = [name for name, image, _ in read if image.min() == image.max()]
    if constant:
        notes.append(f"{len(constant)} images are of one grey value: {listed(constant)}")
    if len(summary.dtypes) > 1:
        usual = max(summary.dtypes, key=lambda dtype: summary.dtypes[dtype])
        others = [name for name, image, _ in read if str(image.dtype) != usual]
        odd = listed(sorted(set(summary.dtypes) - {usual}))
        notes.append(f"most images are {usual}, others {odd}: {listed(others)}")
    copies: dict[str, list[str]] = {}
    for name, _, digest in read:
        copies.setdefault(digest, []).append(name)
    notes += [f"equal pixels in {listed(names)}" for names in copies.values() if len(names) > 1]
    return notes


def _spread(numbers: Sequence[float]) -> Spread | None:
    if not len(numbers):
        return None
    low, middle, high = np.min(numbers), np.median(numbers), np.max(numbers)
    return Spread(
        min=round(float(low), 2), median=round(float(middle), 2), max=round(float(high), 2)
    )


def settle_labels(
    raws: Sequence[RawPair], rule: LabelRule
) -> tuple[LabelMapping | None, list[Problem]]:
    """What the label values found in a whole set mean, or what does not fit the rule.

    Returns:
      (mapping, no problems), or (None, problems): one for each file with values out of range, or
      one for the set where the rule leaves its meaning open. (None, no problems) without labels.
    """
    labelled = [raw for raw in raws if raw.labels is not None]
    if not labelled:
        return None, []
    holders = Counter(value for raw in labelled for value in raw.values)
    if mixed := _mixed_masks(labelled, rule):
        return None, [mixed]
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
            stray = sorted(set(holders) - allowed)
            if stated and rule.ignore is None and len(stray) == 1 and stray[0] in VOID:
                expected = (
                    f"{listed(stated)} (a training with data.label_ignore = {stray[0]} leaves out "
                    "pixels of that value)"
                )
            elif stated:
                expected = listed(stated)
            return None, [
                Problem(
                    file=raw.pair.label_shown,
                    found=f"holds label values out of range: {listed(strange)}",
                    expected=expected,
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


def _mixed_masks(labelled: Sequence[RawPair], rule: LabelRule) -> Problem | None:
    """What is wrong with a set of masks, some of 0 and 1, others of 0 and 255."""
    if rule.kind != "semantic" or rule.values is not None or rule.ignore in (1, 255):
        return None
    values = [set(raw.values) - {0, rule.ignore} for raw in labelled]
    if not (
        {1} in values and {255} in values and all(each in ({1}, {255}, set()) for each in values)
    ):
        return None
    small, large = (
        [raw.pair.label_shown for raw, each in zip(labelled, values, strict=True) if each == {top}]
        for top in (1, 255)
    )
    return Problem(
        file="",
        found=f"{len(small)} masks are of 0 and 1 ({listed(small, 3)}), {len(large)} of 0 and 255 "
        f"({listed(large, 3)})",
        expected="one of the two in the whole set: save them alike (where 255 marks pixels that "
        f"shall not count, set {as_setting('label_ignore', 255)})",
    )


def single_class(raws: Sequence[RawPair], mapping: LabelMapping) -> list[Problem]:
    """What is wrong with a set whose labels hold one class only; nothing is, with more."""
    counts = _class_counts(raws, mapping)
    held = np.flatnonzero(counts.sum(axis=0))
    if len(held) > 1 or not len(counts):
        return []
    what = f"a single class ({listed(held)})" if len(held) else "no pixel that counts"
    what = "nothing but background" if held.tolist() == [0] else what
    ignored = sum(raw.values.get(mapping.ignore, 0) for raw in raws if mapping.ignore is not None)
    if ignored:
        share = ignored / (ignored + counts.sum())
        what += (
            f", and {share:.1%} of the pixels hold {mapping.ignore}, which does not count: was "
            f"{mapping.ignore} meant as a class here, as in a mask of 0 and 255"
        )
    needed = "at least two classes in the set" if mapping.kind == "semantic" else "cells"
    if ignored and mapping.kind == "semantic":
        needed += f", stored as {listed(mapping.values)}"
    return [
        Problem(
            file="", found=f"the labels of all {len(counts)} images hold {what}", expected=needed
        )
    ]


def label_notes(raws: Sequence[RawPair], mapping: LabelMapping) -> list[str]:
    """What is worth a look in the labels of a whole set; needs their values, not their pixels."""
    notes = []
    labelled = [raw for raw in raws if raw.values]
    counts = _class_counts(raws, mapping)
    empty = (counts[:, 1:].sum(axis=1) == 0) & (counts[:, 0] > 0)
    if empty.any():
        names = _names(labelled, empty)
        notes.append(f"{len(names)} of {len(labelled)} images are all background: {listed(names)}")
    if mapping.ignore is not None:
        ignored = np.array([raw.values.get(mapping.ignore, 0) for raw in labelled])
        if ignored.any():
            share = ignored.sum() / (ignored.sum() + counts.sum())
            notes.append(f"{share:.1%} of the pixels do not count (value {mapping.ignore})")
            for number, pixels in enumerate(counts.sum(axis=0).tolist()):
                if 0 < pixels < FEW:
                    notes.append(
                        f"class {number} has {pixels} labelled pixels in all images, hardly "
                        "enough to learn it from: label more, in several images"
                    )
        bare = counts.sum(axis=1) == 0
        if bare.any():
            names = _names(labelled, bare)
            notes.append(
                f"{len(names)} of {len(labelled)} images hold no pixel that counts: {listed(names)}"
            )
        strange = empty & (ignored > 0)
        if strange.any() and not empty.all():
            names = _names(labelled, strange)
            notes.append(
                f"{len(names)} of {len(labelled)} label images hold {mapping.ignore}, which does "
                "not count, and background, but no other class, as a mask of 0 and "
                f"{mapping.ignore} would: {listed(names)}"
            )
    if mapping.num_classes == 2:
        notes += _polarity(labelled, counts, flipped=mapping.values == (255, 0))
    return notes


def file_notes(raws: Sequence[RawPair], ignore: int | None = None) -> list[str]:
    """What is worth a look in what the files of a whole set state, their pixels apart.

    Args:
      ignore: the label value that does not count.
    """
    return [
        *_nodata_notes({raw.pair.image_shown: raw.share_missing for raw in raws}),
        *_palette_notes(raws, ignore),
        *_orientation_notes(raws),
        *beside_images({raw.pair.image: raw.left_out for raw in raws}),
    ]


def _orientation_notes(raws: Sequence[RawPair]) -> list[str]:
    """A note on images that are turned to be displayed while their labels are not, or otherwise."""
    apart = [raw.pair.image_shown for raw in raws if raw.turned_apart]
    if not apart:
        return []
    return [
        f"{len(apart)} of {len(raws)} images state another orientation (EXIF) than their labels, "
        "and each is turned as it states: do the labels lie over the image as displayed? If they "
        f"were drawn on the pixels as stored, remove the orientation: {listed(apart)}"
    ]


def _nodata_notes(shares: Mapping[str, float]) -> list[str]:
    """A note on images, by name, of which a share of the pixels was never measured."""
    found = {name: share for name, share in shares.items() if share}
    if not found:
        return []
    share = np.mean(list(found.values()))
    many = "1 image" if len(found) == 1 else f"{len(found)} images"
    return [
        f"{share:.1%} of the pixels of {many} were never measured ({NODATA}) and do not count: "
        f"{listed(found)}"
    ]


def _palette_notes(raws: Sequence[RawPair], ignore: int | None) -> list[str]:
    """Notes on palettes under which the numbers do not look like what they mean."""
    shown = [raw for raw in raws if raw.colours]
    notes = _inverted_notes(raws)
    white = [raw for raw in shown if _background_elsewhere(raw.colours, ignore)]
    if white:
        colours = white[0].colours
        order = sorted(set(colours) - {ignore}, key=lambda value: colours[value])
        examples = ", ".join(f"{value} {_named(colours[value])}" for value in sorted(colours)[:4])
        cure = f": if bright is foreground, set data.label_values = {order}" * (len(order) == 2)
        notes.append(
            f"labels are the numbers stored, but by their palette or MinIsWhite {len(white)} of "
            f"{len(raws)} label images show {examples} "
            f"({listed(raw.pair.label_shown for raw in white)}){cure}"
        )
    first: dict[int, RawPair] = {}
    for raw in shown:
        for value, colour in raw.colours.items():
            other = first.setdefault(value, raw)
            if other.colours[value] != colour:
                notes.append(
                    f"palettes differ: {value} is {_named(other.colours[value])} in "
                    f"{other.pair.label_shown}, {_named(colour)} in {raw.pair.label_shown}; labels "
                    "are the numbers stored: do they mean the same in all files?"
                )
                return notes
    return notes


def _inverted_notes(raws: Sequence[RawPair]) -> list[str]:
    """A note on masks of one bit that show mostly white, though few of their bits are set."""
    inverted = [raw for raw in raws if raw.inverted]
    white = sum(raw.values.get(255, 0) for raw in inverted)
    total = sum(sum(raw.values.values()) for raw in inverted)
    if white <= 0.5 * total:
        return []
    return [
        f"{len(inverted)} of {len(raws)} label images are of one bit and stored white as 0 "
        f"(MinIsWhite): read as they are shown, {white / total:.1%} of their pixels are white, 255 "
        f"({listed(raw.pair.label_shown for raw in inverted)}): if they were saved from boolean "
        "arrays, as tifffile does it, foreground is what is black: set data.label_values = [255, 0]"
    ]


def _background_elsewhere(colours: Mapping[int, tuple[int, ...]], ignore: int | None) -> bool:
    """Whether a palette, as far as it is used, shows another value than 0 as background is shown.

    That is black, or in a palette of grey alone any value if 0 is the brightest.
    """
    others = [colour for value, colour in colours.items() if value not in (0, ignore)]
    if 0 not in colours or not others:
        return False
    grey = all(len(set(colour)) == 1 for colour in (colours[0], *others))
    return (grey and colours[0] > max(others)) or (any(colours[0]) and not any(min(others)))


def _named(colour: tuple[int, ...]) -> str:
    code = "#" + "".join(f"{part:02x}" for part in colour)
    return {"#000000": "black", "#ffffff": "white"}.get(code, code)


def _names(raws: Sequence[RawPair], chosen: np.ndarray) -> list[str]:
    return [raw.pair.name for raw, taken in zip(raws, chosen, strict=True) if taken]


def _class_counts(raws: Sequence[RawPair], mapping: LabelMapping) -> np.ndarray:
    """Pixels of each class in each labelled image, int64 [images, K]; ignored ones in none."""
    rows = []
    for values in (raw.values for raw in raws if raw.values):
        if mapping.kind == "semantic":
            rows.append([values.get(value, 0) for value in mapping.values])
        else:
            objects = sum(n for v, n in values.items() if v > 0 and v != mapping.ignore)
            rows.append([values.get(0, 0), objects])
    return np.array(rows, np.int64).reshape(-1, mapping.num_classes)


def _polarity(raws: Sequence[RawPair], counts: np.ndarray, flipped: bool) -> list[str]:
    """A note where some masks seem to have foreground and background exchanged.

    In such a mask the foreground is what is background in the others: most of the image rather
    than the lesser part, and dark where theirs is bright, or the reverse. Where foreground and
    background are equally bright in all images, shares far from one half must do.
    """
    both = counts.min(axis=1) > 0
    share = np.where(both, counts[:, 1] / np.maximum(counts.sum(axis=1), 1), 0.5)
    contrast = np.array([raw.contrast for raw in raws]) * (-1 if flipped else 1)
    found = np.zeros(len(raws), bool)
    for sign in (1, -1):
        usual = (share < 0.5) & (sign * contrast > CONTRAST)
        turned = (share > 0.5) & (sign * contrast < -CONTRAST)
        if usual.any() and turned.any() and (usual | turned).sum() > found.sum():
            found = turned if turned.sum() <= usual.sum() else usual
    if np.all(np.abs(contrast[both]) <= CONTRAST):
        low, high = both & (share < 0.35), both & (share > 0.65)
        if low.any() and high.any() and np.all(low | high | ~both):
            found = high if high.sum() <= low.sum() else low
    if not found.any():
        return []
    names = _names(raws, found)
    mostly = "foreground" if share[found][0] > 0.5 else "background"
    return [
        f"{len(names)} of {len(raws)} masks are mostly {mostly}, unlike the others, and what is "
        "foreground in them looks like background in the others: are the two exchanged (white for "
        f"black) in {listed(names)}?"
    ]


def _like_objects(labelled: Sequence[RawPair], mapping: LabelMapping, rule: LabelRule) -> bool:
    """Whether classes that nobody stated look like numbers of objects."""
    if mapping.kind != "semantic" or rule.stated() is not None:
        return False
    if not 3 <= mapping.num_classes <= MOST_UNSTATED:
        return False
    if any(rule.ignore in raw.values for raw in labelled):  # a stroke a class is no object
        return False
    return all(regions_of(raw) <= len(set(raw.values) - {0}) for raw in labelled)


def regions_of(raw: RawPair, ignore: int | None = None) -> int:
    """How many regions the labels of a pair have, those of the value `ignore` apart; 0 without."""
    if raw.regions is not None:
        return raw.regions
    if raw.labels is None:
        return 0
    ignored = ignore is not None and ignore in raw.values
    return count_regions(np.where(raw.labels == ignore, 0, raw.labels) if ignored else raw.labels)


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


class Spread(Frozen):
    """Smallest, middle and largest of some numbers."""

    min: float
    median: float
    max: float

    def __str__(self) -> str:
        return f"{self.median:g} ({self.min:g} to {self.max:g})"


class DataSummary(Frozen):
    """Figures of the files that could be read."""

    images: int  # found, readable or not
    labelled: int  # of these, with labels that could be read
    sizes: dict[str, int]  # "512x512" (height x width) -> images
    channels: dict[str, int]  # "1" -> images
    dtypes: dict[str, int]  # "uint8" -> images
    grey: Spread | None  # mean grey values of the images
    label_values: tuple[int, ...]  # as stored; the first 32
    label_values_count: int
    class_fractions: tuple[float, ...] | None  # of the pixels that count, class by class
    cells: Spread | None  # objects in an image (instances)
    cells_total: int | None
    diameter: Spread | None  # of a circle of the object's area, px (instances)


class DataReport(Frozen):
    """The outcome of `check_data`: one that `ok` may be trained on."""

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    summary: DataSummary
    mapping: LabelMapping | None  # how label values became classes; None without labels
    digests: dict[str, str]  # image name -> hash of its pixels, to find copies in other sets

    @property
    def ok(self) -> bool:
        return not self.problems

    def raise_if_bad(self) -> DataReport:
        """Returns itself.

        Raises:
          DataError: there are problems; the message lists all of them.
        """
        refuse(self.problems, self.summary.images)
        return self

    def to_json(self) -> str:
        """Everything, as indented JSON."""
        return self.model_dump_json(indent=2)

    def to_text(self) -> str:
        """A few lines for a person."""
        s = self.summary
        lines = [
            f"{s.images} images, {s.labelled} with labels",
            f"size {_counts(s.sizes)}, channels {_counts(s.channels)}, {_counts(s.dtypes)}",
        ]
        if s.label_values_count:
            shown = ", ".join(map(str, s.label_values[:8]))
            more = f", … ({s.label_values_count} values)" if s.label_values_count > 8 else ""
            lines.append(f"label values {shown}{more}")
        if s.class_fractions is not None:
            shares = ", ".join(f"{k}: {share:.1%}" for k, share in enumerate(s.class_fractions))
            lines.append(f"classes {shares}")
        if s.cells is not None:
            lines.append(
                f"cells {s.cells_total} in all, {s.cells} an image, "
                f"{'?' if s.diameter is None else s.diameter} px across"
            )
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"PROBLEM: {problem}" for problem in self.problems]
        return "\n".join(lines)


def refuse(problems: Sequence[Problem], images: int) -> None:
    """Raises DataError with all the problems that the check of so many images found, if any."""
    if problems:
        many = "problem" if len(problems) == 1 else "problems"
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise DataError(f"the data check found {len(problems)} {many} in {images} images:{lines}")


def shared_images(first: DataReport, second: DataReport) -> tuple[tuple[str, str], ...]:
    """Pairs of names of images with equal pixels in two sets (say, training and validation)."""
    names: dict[str, str] = {digest: name for name, digest in second.digests.items()}
    return tuple((name, names[digest]) for name, digest in first.digests.items() if digest in names)


def _counts(found: dict[str, int]) -> str:
    if len(found) == 1:
        return next(iter(found))
    return listed(f"{value} ({count})" for value, count in found.items()) or "none"
