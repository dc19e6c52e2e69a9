"""From complete scratch files to result files: masks, probabilities, overlays, objects."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_unet.data.nodata import filled
from keras_unet.data.windows import WindowedFile
from keras_unet.data.zarr_windows import import_zarr
from keras_unet.errors import ConfigError
from keras_unet.evaluation.pictures import save_png
from keras_unet.inference.files.file_options import FileOptions
from keras_unet.inference.files.inputs import Header
from keras_unet.inference.files.label_values import label_values
from keras_unet.inference.files.previews import preview
from keras_unet.inference.files.scratch import Scratch
from keras_unet.inference.files.sheets import Sheet
from keras_unet.inference.files.tiff_writer import write_tiff
from keras_unet.inference.files.workplace import remove
from keras_unet.inference.files.zarr_writer import write_zarr
from keras_unet.inference.objects.writing import FORMATS
from keras_unet.models.bundle import ModelCard

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
    return names + [stem + FORMATS[name] for name in options.objects]


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
    from keras_unet.inference.objects.writing import ObjectWriter

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
