"""Check of a data set before training: all that is wrong reported at once, and the samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_unet.data.label_check import (
    file_notes,
    label_notes,
    regions_of,
    settle_labels,
    single_class,
)
from keras_unet.data.label_rule import LabelMapping, LabelRule
from keras_unet.data.pairs import Pair, Problem, Records, Source, find_source, natural_key
from keras_unet.data.samples import PairReader, RawPair, Sample, size
from keras_unet.errors import DataError, listed
from keras_unet.settings import Frozen


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
                area = np.unique(sample.instances[sample.instances > 0], return_counts=True)[1]
                objects.append(len(area))
                across += (2 * np.sqrt(area / np.pi)).tolist()
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
    regions = sum(map(regions_of, raws))
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
