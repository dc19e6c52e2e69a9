"""What the check of a data set found: problems, notes, and figures to look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from keras_unet.data.label_rule import LabelMapping
from keras_unet.errors import DataError

_FROZEN = ConfigDict(extra="forbid", frozen=True)


class Problem(BaseModel):
    """One thing that must be mended before training."""

    model_config = _FROZEN

    file: str  # a path, "stack.tif:003", or "" for the set as a whole
    found: str
    expected: str

    def __str__(self) -> str:
        where = f"{self.file}: " if self.file else ""
        return f"{where}{self.found}" + (f"; expected {self.expected}" if self.expected else "")


class Spread(BaseModel):
    """Smallest, middle and largest of some numbers."""

    model_config = _FROZEN

    min: float
    median: float
    max: float

    def __str__(self) -> str:
        return f"{self.median:g} ({self.min:g} to {self.max:g})"


class DataSummary(BaseModel):
    """Figures of the files that could be read."""

    model_config = _FROZEN

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


class DataReport(BaseModel):
    """The outcome of `check_data`: one that `ok` may be trained on."""

    model_config = _FROZEN

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
        if self.problems:
            many = "problem" if len(self.problems) == 1 else "problems"
            lines = "".join(f"\n  - {problem}" for problem in self.problems)
            raise DataError(
                f"the data check found {len(self.problems)} {many} in "
                f"{self.summary.images} images:{lines}"
            )
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


def shared_images(first: DataReport, second: DataReport) -> tuple[tuple[str, str], ...]:
    """Pairs of names of images with equal pixels in two sets (say, training and validation)."""
    names: dict[str, str] = {digest: name for name, digest in second.digests.items()}
    return tuple((name, names[digest]) for name, digest in first.digests.items() if digest in names)


def shown(path: Path | None, page: int | None = None) -> str:
    """A file, and the page in it, the way that messages name it: counted from 0."""
    return f"{path}" if page is None else f"{path}:{page:03d}"


def beside_images(left_out: Mapping[Path, Sequence[str]]) -> list[str]:
    """A note on files that hold more than their images, such as masks and reduced images."""
    found = {path: held for path, held in left_out.items() if held}
    if not found:
        return []
    many = "1 file holds" if len(found) == 1 else f"{len(found)} files hold"
    each = (f"{path} ({listed(held)})" for path, held in found.items())
    return [f"{many} more than the images that are read: {listed(each)}"]


def _counts(found: dict[str, int]) -> str:
    if len(found) == 1:
        return next(iter(found))
    return listed(f"{value} ({count})" for value, count in found.items()) or "none"


def listed(items: Iterable[object], most: int = 5) -> str:
    """The first few, and how many there are."""
    texts = [str(item) for item in items]
    return ", ".join(texts[:most]) + (f", … ({len(texts)} in all)" if len(texts) > most else "")
