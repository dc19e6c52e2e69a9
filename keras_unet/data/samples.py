"""Samples: an image and its labels, read once, with what is wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from keras_unet.data.images import ImageFile
from keras_unet.data.label_rule import IGNORED, LabelMapping, LabelRule
from keras_unet.data.pairs import Pair, Problem
from keras_unet.data.stored_pixels import NODATA, PixelSize, as_nan, filled
from keras_unet.errors import DataError


@dataclass(frozen=True, eq=False)
class Border:
    """The border term of equation 2 for w0 = 1, computed beforehand: float32 [H, W].

    sigma and separation, both in pixels, are those that it was computed with.
    """

    weights: np.ndarray
    sigma: float
    separation: int


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its labels, ready for training.

    image: [H, W, C] in the dtype it was stored in; classes: int32 [H, W], -1 where pixels do not
    count, None without labels; instances: int32 [H, W] object numbers, 0 = none, for labels of
    kind "instances" (touching objects keep their numbers and touch). A record may state which group
    (animal, plate …) it is of, "" if none, and hold the border term. missing: bool [H, W], pixels
    that were never measured (see `stored_pixels`), None without any: in `image` they have the
    mean of the others, to be looked at, in `measured` they are NaN; their class is -1.
    pixel_size: what the image's file states, None if nothing; records don't hold it.
    """

    name: str
    image: np.ndarray
    classes: np.ndarray | None = None
    instances: np.ndarray | None = None
    group: str = ""
    border: Border | None = None
    missing: np.ndarray | None = None
    pixel_size: PixelSize | None = None

    @property
    def measured(self) -> np.ndarray:
        """[H, W, C]: `image`, or float32 with NaN in pixels that were never measured."""
        return as_nan(self.image, self.missing)

    @property
    def ignored(self) -> np.ndarray:
        """bool [H, W]: pixels that were measured, but do not count."""
        if self.classes is None:
            raise DataError(f"{self.name}: has no labels")
        ignored = self.classes < 0
        return ignored if self.missing is None else ignored & ~self.missing


@dataclass(frozen=True, eq=False)
class RawPair:
    """What the files or the record of a pair hold; an array is None if it is missing or unfit."""

    pair: Pair
    image: np.ndarray | None  # [H, W, C], stored dtype
    labels: np.ndarray | None  # int32 [H, W], stored values
    values: dict[int, int]  # label value -> pixels
    digest: str
    problems: tuple[Problem, ...]
    border: Border | None = None
    contrast: float = 0.0  # see `_contrast`
    left_out: tuple[str, ...] = ()  # see `TiffStack`
    missing: np.ndarray | None = None  # see `Sample`; `values` are those of the other pixels
    colours: Mapping[int, tuple[int, ...]] = field(default_factory=dict)  # of values, by a palette
    inverted: bool = False  # labels of one bit, see `ImageFile.inverted`
    turned_apart: bool = False  # image and labels state different orientations
    share_missing: float = 0.0  # of the pixels
    regions: int | None = None  # of equal labels, where they were counted; see `count_regions`
    pixel_size: PixelSize | None = None  # see `Sample`

    def sample(self, mapping: LabelMapping | None) -> Sample | None:
        """The sample whose labels mean what `mapping` states; None if the image is unfit.

        Raises:
          DataError: a label value that is no class.
        """
        if self.image is None:
            return None
        name, group = self.pair.name, self.pair.group
        told: dict[str, Any] = {
            "group": group,
            "missing": self.missing,
            "pixel_size": self.pixel_size,
        }
        if self.labels is None or mapping is None:
            return Sample(name, self.image, **told)
        labels = self.labels
        if self.missing is not None:  # whatever is stored there means nothing
            labels = np.where(self.missing, (mapping.values or (0,))[0], labels)
        classes, instances = mapping.classes(labels), mapping.instances(labels)
        if self.missing is not None:
            classes[self.missing] = IGNORED
        return Sample(name, self.image, classes, instances, border=self.border, **told)


class PairReader(AbstractContextManager["PairReader"]):
    """Reads pairs in turn; a stack stays open until a pair comes from another file."""

    def __init__(self) -> None:
        self._open: dict[str, ImageFile] = {}

    def __exit__(self, *unused: object) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    def read(self, pair: Pair, rule: LabelRule) -> RawPair:
        """Reads the image and the labels; what fails is in `problems`, never raised."""
        image = partial(self._image, pair.image, pair.image_page)
        labels = None if pair.label is None else partial(self._labels, pair.label, pair.label_page)
        raw = check_pair(pair, image, labels, rule)
        if raw.image is not None:
            file = self._open["image"]
            raw = replace(raw, left_out=file.left_out, pixel_size=file.pixel_size)
        if raw.labels is None:
            return raw
        file = self._open["label"]
        return replace(
            raw,
            colours=self._colours(pair, raw.values),
            inverted=file.inverted(pair.label_page),
            turned_apart=raw.image is not None
            and self._open["image"].orientation(pair.image_page)
            != file.orientation(pair.label_page),
        )

    def _colours(self, pair: Pair, values: Iterable[int]) -> dict[int, tuple[int, ...]]:
        palette = self._open["label"].palette(pair.label_page)
        if palette is None:
            return {}
        return {
            value: tuple(palette[value].tolist()) for value in values if 0 <= value < len(palette)
        }

    def _image(self, path: Path, page: int | None) -> tuple[np.ndarray, np.ndarray | None]:
        return self._file("image", path).measured(page)

    def _labels(self, path: Path, page: int | None) -> np.ndarray:
        return exact_labels(self._file("label", path), page)

    def _file(self, role: str, path: Path) -> ImageFile:
        current = self._open.get(role)
        if current is None or current.path != path:
            if current is not None:
                del self._open[role]
                current.close()
            self._open[role] = current = ImageFile(path)
        return current


def check_pair(
    pair: Pair,
    read_image: Callable[[], tuple[np.ndarray, np.ndarray | None]],
    read_labels: Callable[[], np.ndarray] | None,
    rule: LabelRule,
    border: Border | None = None,
) -> RawPair:
    """Reads and checks one pair; what fails is in `problems`, never raised.

    Args:
      read_image: gives [H, W, C] in its stored dtype and which pixels were never measured (bool
        [H, W] or None), or raises DataError.
      read_labels: gives int32 [H, W], or raises DataError; None without labels.
      border: what is stored beside the labels.
    """
    problems: list[Problem] = []
    image = labels = missing = None
    values: dict[int, int] = {}
    try:
        image, missing = read_image()
        if missing is not None and missing.all():
            raise DataError(f"holds no measured pixel, all are {NODATA}; expected some")
        measured = image if missing is None else image[~missing]
        if image.dtype.kind == "f" and not np.all(np.isfinite(measured)):
            bad = np.count_nonzero(~np.isfinite(measured))
            raise DataError(f"holds {bad} values that are infinite; expected finite ones")
        image = filled(image, missing)
    except DataError as error:
        image = None
        problems.append(_problem(pair.image, pair.image_shown, error))
    try:
        if read_labels is not None:
            labels = read_labels()
            if missing is not None and missing.shape == labels.shape:
                values = count_values(labels[~missing])
            else:
                values = count_values(labels)
            _require_sharp(values, rule)
            if image is not None and labels.shape != image.shape[:2]:
                across = labels.shape == image.shape[1::-1]
                raise DataError(
                    f"is {size(labels)} (height x width); expected {size(image)}, as its image "
                    f"{pair.image_shown}"
                    + " is displayed, turned by its orientation if it states one (EXIF)"
                    * across
                )
    except DataError as error:
        labels, values = None, {}
        problems.append(_problem(pair.label, pair.label_shown, error))
    digest = "" if image is None else _digest(image)
    contrast = _contrast(image, labels, missing, set(values) - {rule.ignore})
    return RawPair(
        pair,
        image,
        labels,
        values,
        digest,
        tuple(problems),
        border,
        contrast,
        missing=missing,
        share_missing=0.0 if missing is None else float(missing.mean()),
    )


def exact_labels(file: ImageFile, page: int | None = None) -> np.ndarray:
    """Labels int32 [H, W] of a file that JPEG did not change.

    Raises:
      DataError: see `read_labels`; also a JPEG.
    """
    if file.lossy:
        raise DataError(
            "is compressed by JPEG, which changes label values; expected labels as "
            "PNG or TIFF, made from the original ones"
        )
    return file.labels(page)


def count_values(labels: np.ndarray) -> dict[int, int]:
    """Distinct values of an int array and how many pixels hold each."""
    if not labels.size:
        return {}
    low, high = int(labels.min()), int(labels.max())
    if high - low <= 1 << 16:  # no sorting: several times faster than np.unique
        counts = np.bincount((labels - low).ravel())
        at = np.flatnonzero(counts)
        return dict(zip((at + low).tolist(), counts[at].tolist(), strict=True))
    found, counts = np.unique(labels, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def object_areas(objects: np.ndarray) -> np.ndarray:
    """Pixels of each object of integer labels, 0 = background: int64 [N]."""
    return np.fromiter(count_values(objects[objects > 0]).values(), np.int64)


def diameters(areas: np.ndarray) -> np.ndarray:
    """Of circles of these areas, pixels."""
    return 2 * np.sqrt(areas / np.pi)


def size(array: np.ndarray) -> str:
    return f"{array.shape[0]}x{array.shape[1]}"


def _require_sharp(values: dict[int, int], rule: LabelRule) -> None:
    """Refuses a 0/255 mask whose values were smeared by JPEG or by smooth resizing.

    Such a mask has two heaps of values, at both ends of 8 bits, and strays around them. Numbers
    of objects spread over the whole range instead.
    """
    strays = [v for v in values if v not in (0, 255)]
    if len(strays) < 4 or min(values) < 0 or max(values) > 255 or max(values) < 240:
        return
    stated = rule.stated()
    if stated is not None and set(values) <= {*stated, rule.ignore}:
        return
    total = sum(values.values())
    dark = sum(count for v, count in values.items() if v < 16)
    bright = sum(count for v, count in values.items() if v >= 240)
    # Most of what isn't dark must be bright: object numbers would have their share in between.
    if dark and bright >= 0.75 * (total - dark) and dark + bright >= 0.85 * total:
        raise DataError(
            f"holds {len(values)} label values, nearly all close to 0 or 255: a mask that was "
            "smeared by JPEG or by smooth resizing; expected exact label values, made from the "
            "original mask (or thresholded at 128)"
        )


def _contrast(
    image: np.ndarray | None,
    labels: np.ndarray | None,
    missing: np.ndarray | None,
    values: set[int],
) -> float:
    """How much brighter the larger of two label values is, in standard deviations of the image.

    0 where there are not just two values.
    """
    if image is None or labels is None or len(values) != 2:
        return 0.0
    grey = image.mean(axis=-1, dtype=np.float64)
    if missing is not None:
        grey, labels = grey[~missing], labels[~missing]
    low, high = (grey[labels == value] for value in sorted(values))
    spread = np.concatenate([low, high]).std()
    return float((high.mean() - low.mean()) / spread) if spread > 0 else 0.0


def _digest(image: np.ndarray) -> str:
    digest = hashlib.blake2b(repr((image.shape, image.dtype.str)).encode(), digest_size=12)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _problem(path: Path | None, where: str, error: DataError) -> Problem:
    found, _, expected = str(error).removeprefix(f"{path}: ").partition("; expected ")
    return Problem(file=where, found=found, expected=expected)
