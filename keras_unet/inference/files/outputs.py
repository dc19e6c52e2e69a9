"""Outputs of a prediction: masks, probabilities, overlays and objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from keras_unet.data.label_rule import LabelMapping
from keras_unet.data.stored_pixels import filled
from keras_unet.data.windows import WindowedFile
from keras_unet.data.zarr_windows import import_zarr
from keras_unet.errors import ConfigError
from keras_unet.inference.files.mask_formats import Sheet, write_tiff, write_zarr
from keras_unet.inference.files.state import Scratch, remove
from keras_unet.inference.inputs import Header
from keras_unet.inference.objects.object_writer import OBJECT_FORMATS
from keras_unet.inference.options import PredictOptions
from keras_unet.inference.source import Source, missing_of
from keras_unet.models.keras_file import ModelCard
from keras_unet.pictures import Entry, class_entries, overlay, save_png

Format = Literal["auto", "png", "tiff", "zarr"]
ObjectFormat = Literal["labels", "csv", "geojson", "rois", "parquet"]


class FileOptions(PredictOptions):
    """The options of `predict`, and these.

    probabilities: also write them, in `dtype`.
    threshold: foreground where its probability is above this; for two classes only.
    format: of the masks. "auto": Zarr for Zarr; TIFF for stacks, for images with a known pixel
        size, for more than 2**26 pixels and for label values beyond 65,535; else PNG.
    overlays: draw the masks over the images, scaled down to `preview` pixels.
    preview: longest side of an overlay.
    objects: kinds of files to write of the mask's connected components; see `write_objects`. One
        image at a time is in memory for it.
    border: the class of the lines between touching objects, which these grow into.
    """

    probabilities: bool = False
    threshold: float | None = Field(None, ge=0.0, le=1.0)
    format: Format = "auto"
    overlays: bool = True
    preview: int = Field(2048, ge=16)
    objects: tuple[ObjectFormat, ...] = ()
    border: str | None = None

    @field_validator("objects")
    @classmethod
    def _each_once(cls, value: tuple[ObjectFormat, ...]) -> tuple[ObjectFormat, ...]:
        if len(set(value)) != len(value):
            raise ValueError("expected each kind of file once")
        return value

    def prediction(self, **instead: Any) -> PredictOptions:
        """The options of the prediction itself, in float32: the mask is decided before rounding.

        Args:
            instead: values of other options than those set.
        """
        values = {name: getattr(self, name) for name in PredictOptions.model_fields}
        return PredictOptions(**{**values, "dtype": "float32", **instead})

    def identity(self) -> dict[str, Any]:
        """What a result depends on: all but how much memory and how many tiles at once."""
        found = self.model_dump(mode="json", exclude={"memory", "batch_size"})
        return found if self.probabilities else {k: v for k, v in found.items() if k != "dtype"}


def label_values(labels: LabelMapping) -> np.ndarray:
    """The value of each class, as the training labels had it: uint8, uint16 or int32 [classes].

    Two classes 0 and 1 become 0 and 255: visible in any viewer, and read back as 0 and 1.
    """
    values = labels.values if labels.kind == "semantic" else (0, 255)
    if tuple(values) == (0, 1):
        values = (0, 255)
    kinds = (np.uint8, np.uint16, np.int32)
    fits = [k for k in kinds if min(values) >= np.iinfo(k).min and max(values) <= np.iinfo(k).max]
    return np.asarray(values, fits[0])


def to_label_values(classes: np.ndarray, labels: LabelMapping) -> np.ndarray:
    """Class numbers [H, W] to label values [H, W], see `label_values`."""
    return label_values(labels)[classes]


_STRIP_BYTES = 1 << 26


def preview(
    source: Source, classes: Scratch, page: int, names: Sequence[str], longest: int = 2048
) -> tuple[np.ndarray, list[Entry]]:
    """A mask over its image, scaled down by a whole number, uint8 [h, w, 3], and its legend.

    The image is averaged over squares; of the mask every so many-th pixel is taken.

    Args:
        source: the image.
        classes: class numbers, one plane a page.
        page: of the image.
        names: of the classes.
        longest: pixels of the longer side at most.
    """
    height, width, channels = source.shape
    step = min(-(-max(height, width) // longest), height, width)
    h, w = height // step, width // step
    exact = step == 1 or source.dtype.kind in "iu"  # 8-bit RGB stays what it is
    image = np.empty((h, w, channels), source.dtype if exact else np.float32)
    rows = max(1, _STRIP_BYTES // (width * channels * 4 * step))
    for top in range(0, h, rows):
        bottom = min(top + rows, h)
        window = slice(top * step, bottom * step), slice(0, w * step)
        strip = source.read(*window)
        strip = filled(strip, missing_of(source, *window, strip))
        if step > 1:
            squares = strip.reshape(bottom - top, step, w, step, channels)
            strip = squares.mean((1, 3), dtype=np.float32)
        image[top:bottom] = strip
    mask = classes.read(page, 0, slice(0, h * step), step)[:, :w]
    return overlay(image, mask.astype(np.int32)), class_entries(mask, names)


_LARGE = 1 << 26  # pixels of a mask beyond which PNG, which is read whole, is no good choice


class Results(NamedTuple):
    """What was computed for a file: class numbers, and perhaps probabilities, of each image."""

    stem: str
    key: str  # the same whenever the results are
    images: WindowedFile
    card: ModelCard
    classes: Scratch
    chances: Scratch | None


def choose_format(images: WindowedFile | Header, card: ModelCard, options: FileOptions) -> str:
    """The format of a file's mask: png, tiff or zarr.

    Raises:
        ConfigError: what was asked for can't hold it. DataError: zarr is needed, not installed.
    """
    largest = max(height * width for height, width, _ in images.shapes)
    wide = label_values(card.labels).dtype.itemsize > 2
    form: str = options.format
    if form == "auto":
        told = len(images.shapes) > 1 or images.pixel_size is not None
        form = "tiff" if told or wide or largest > _LARGE else "png"
        form = "zarr" if images.path.is_dir() else form
    count = len(images.shapes)
    if form == "png" and (count > 1 or wide):
        what = f"a stack of {count} images" if count > 1 else "label values over 65,535"
        raise ConfigError(f"{images.path}: PNG can't hold {what}; use tiff, zarr or auto")
    if form == "zarr":
        import_zarr()
        if len({shape[:2] for shape in images.shapes}) > 1:
            raise ConfigError(f"{images.path}: Zarr can't hold images of unequal size; use tiff")
    return form


def result_names(stem: str, pages: int, form: str, options: FileOptions) -> list[str]:
    """The names of a file's results, the mask's first.

    Args:
        stem: of the image. pages: how many images it holds. form: see `choose_format`.
    """
    names = [f"{stem}_mask.{'tif' if form == 'tiff' else form}"]
    if options.probabilities:
        names.append(f"{stem}_probabilities.{'zarr' if form == 'zarr' else 'tif'}")
    if options.overlays:
        numbers = [f"_{number:03d}" for number in range(pages)] if pages > 1 else [""]
        names += [f"{stem}{number}_overlay.png" for number in numbers]
    return names + [stem + OBJECT_FORMATS[name] for name in options.objects]


def write_results(found: Results, form: str, options: FileOptions, folder: Path) -> list[str]:
    """Writes all results into a folder; returns their names, the mask's first."""
    values = label_values(found.card.labels)
    pages = len(found.images)
    names = result_names(found.stem, pages, form, options)
    mask, *others = names
    _save(folder / mask, _sheet(found, found.classes, (), "mask", values))
    if found.chances is not None:
        planes = found.chances.shapes[0][0]
        classes = found.card.classes
        channels = classes if len(classes) == planes else classes[-planes:]
        _save(folder / others.pop(0), _sheet(found, found.chances, channels, "probabilities"))
    if options.overlays:
        for number, name in enumerate(others[:pages]):
            source = found.images.page(number)
            drawn = preview(source, found.classes, number, found.card.classes, options.preview)
            save_png(folder / name, *drawn)
    if options.objects:
        _write_objects(found, options, folder)
    return names


def _sheet(
    found: Results,
    scratch: Scratch,
    channels: tuple[str, ...],
    kind: str,
    values: np.ndarray | None = None,
) -> Sheet:
    return Sheet(
        scratch,
        dtype=scratch.dtype if values is None else values.dtype,
        values=None if values is None else values.__getitem__,
        axes=found.images.axes,
        channels=channels,
        pixel_size=found.images.pixel_size,
        name=found.stem,
        key=f"{kind} {found.key}",
    )


def _save(path: Path, sheet: Sheet) -> None:
    """Writes a sheet in the format that the name tells."""
    remove(path)  # of a run that was killed here
    if path.suffix == ".png":
        save_png(path, sheet.read(0, 0, slice(0, sheet.size[0])))
    elif path.suffix == ".zarr":
        write_zarr(path, sheet)
    else:
        write_tiff(path, sheet)


def _write_objects(found: Results, options: FileOptions, folder: Path) -> None:
    """The connected components of each class, see `ObjectWriter`; one whole image in memory."""
    from keras_unet.inference.objects.finding import to_objects
    from keras_unet.inference.objects.object_writer import ObjectWriter

    images, classes = found.images, found.card.classes
    border = None if options.border is None else classes.index(options.border)
    writer = ObjectWriter(
        folder,
        found.stem,
        pixel_size=images.pixel_size,
        formats=options.objects,
        stack=len(images) > 1,
    )
    with writer:
        for number, (height, width, _) in enumerate(images.shapes):
            page, window = images.page(number), (slice(0, height), slice(0, width))
            image = page.read(*window)
            image = filled(image, page.missing(*window, image))
            mask = found.classes.read(number, 0, slice(0, height))
            instances, kinds = to_objects(mask, border=border)
            names = {label: classes[kind] for label, kind in kinds.items()}
            writer.add(instances, image, names)
