"""Objects of mask files, found, measured, written and drawn: what `keras-unet objects` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from keras_unet.data.images import ImageFile, is_zarr, open_windows
from keras_unet.data.stored_pixels import PixelSize, WindowedFile
from keras_unet.disk import replacing
from keras_unet.errors import ConfigError, DataError, listed
from keras_unet.inference.inputs import find_inputs, name_of
from keras_unet.inference.objects.finding import ObjectSettings, make_settings
from keras_unet.inference.objects.measurements import Table, to_pixel_size
from keras_unet.inference.objects.object_formats import (
    DEFAULT_FORMATS,
    OBJECT_FORMATS,
    ObjectSlice,
    require_formats,
    stacked,
    write_csv,
)
from keras_unet.inference.objects.object_writer import ObjectWriter
from keras_unet.inference.objects.polygons import Outline, outlines
from keras_unet.inference.ownership import (
    PREDICTED,
    read_written,
    recorded,
    refuse_taken,
    require_own_names,
)
from keras_unet.pictures import NEIGHBOURS, Entry, object_colors, save_png, to_rgb
from keras_unet.remote_path import local_path

_SUMMARY = "summary.csv"


class FoundObjects(NamedTuple):
    """What was found in all files.

    images: how many, slices of stacks counted each. objects: how many. diameter_px, diameter_um:
    medians of the equivalent diameter; None without objects, or where a pixel size is unknown.
    paths: the files written. numbered: the files held object numbers that a model had answered.
    """

    images: int
    objects: int
    diameter_px: float | None
    diameter_um: float | None
    paths: list[Path]
    numbered: bool = False

    def describe(self) -> str:
        """One line: how many, how large."""
        many = f"{self.objects:,} object{'s' * (self.objects != 1)}"
        text = f"{many} in {self.images} image{'s' * (self.images != 1)}"
        if self.diameter_px is not None:
            text += f", median diameter {self.diameter_px:.1f} px"
        if self.diameter_um is not None:
            text += f" ({self.diameter_um:.3g} µm)"
        return text


def objects_from_masks(
    masks: str | Path,
    output: str | Path,
    *,
    images: str | Path | None = None,
    settings: ObjectSettings | None = None,
    pixel_size: float | tuple[float, float] | PixelSize | None = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> FoundObjects:
    """Finds the objects of mask files, measures them and writes them, a set of files a mask.

    Numbered objects, which `predict` writes by a model of instance labels, are taken as they are.
    For `cells_mask.png` it writes what `write_objects` lists, and `cells_objects.png`: the outlines
    with the objects' numbers (in stacks `cells_000_objects.png`, …). For several images also
    `summary.csv`: a line an image with the number of objects, their median diameter and the share
    of the image that they cover.

    Args:
        masks: a mask, a stack, an OME-Zarr image, or a folder of these, as `predict` writes them;
            files of probabilities if the settings have a threshold.
        output: folder, made if absent.
        images: the image or the folder of images of equal names, for intensities and pictures.
        settings: how masks become objects.
        pixel_size: micrometres; None: what the image or the mask states.
        formats: see `write_objects`.
        overwrite: replace whatever has a result's name, but no input. Otherwise only what an
            earlier call left there, unchanged since, is replaced.
        progress: called with (images done, images in all).

    Raises:
        DataError: a file can't be read or doesn't fit; names it. What was written before stays.
            Or, before anything is written: results would replace files of yours, or each other.
        ConfigError: see `write_objects`.
    """
    settings = settings or ObjectSettings()
    require_formats(formats)
    given = to_pixel_size(pixel_size)
    probable = settings.threshold is not None
    files = find_masks(masks, probable, settings.instances)
    if numbered := _numbered(files.values()) == set(files.values()):
        settings = _as_numbered(settings, next(iter(files.values())))
    partners = {} if images is None else _partners(files, Path(images))
    jobs = [_job(stem, file, partners.get(stem), probable) for stem, file in files.items()]
    total = sum(job.images for job in jobs)
    output = local_path(output)
    wanted = {job.stem: job.names(formats) for job in jobs}
    if total > 1:
        wanted["the summary"] = [_SUMMARY]
    require_own_names(wanted)
    names = [name for owned in wanted.values() for name in owned]
    before = read_written(output)
    allowed = {name: [before[name]] if name in before else [] for name in names}
    refuse_taken(output, allowed, [*files.values(), *partners.values()], overwrite=overwrite)
    lines: list[Table] = []
    diameters: list[np.ndarray] = []
    with recorded(output, names):
        for job in jobs:
            writer = ObjectWriter(
                output,
                job.stem,
                pixel_size=given or job.pixel_size,
                formats=formats,
                stack=job.images > 1,
            )
            with writer:
                for number, (mask, image) in enumerate(job.pages()):
                    try:
                        instances, classes = settings.find(mask)
                        objects = writer.add(instances, image, classes)
                    except DataError as error:
                        raise DataError(f"{job.mask}: {error}") from error
                    drawn = objects.outlines or list(outlines(instances))
                    picture = object_picture(instances, drawn, objects.table, image)
                    save_png(output / job.picture(number), picture, LEGEND)
                    lines.append(_line(job.stem, number, objects))
                    diameters.append(_diameters(objects.table))
                    if progress is not None:
                        progress(len(lines), total)
        if total > 1:
            with replacing(output / _SUMMARY) as beside:
                write_csv(beside, stacked(lines))
    across = np.concatenate(diameters)
    paths = [output / name for name in names]
    return FoundObjects(len(lines), len(across), *_medians(across), paths, numbered)


@dataclass(frozen=True)
class _Job:
    """A file of masks, and what its objects are measured in.

    image: of equal name, for intensities and pictures. images: how many the mask holds. planes:
    pages of the file for each, where they are a class's probability each; None: no probabilities.
    pixel_size: as the image states it, or else the mask.
    """

    stem: str
    mask: Path
    image: Path | None
    images: int
    planes: int | None
    pixel_size: PixelSize | None

    def picture(self, number: int) -> str:
        """The name of the picture of an image's objects."""
        return f"{self.stem}{f'_{number:03d}' if self.images > 1 else ''}_objects.png"

    def names(self, formats: Sequence[str]) -> list[str]:
        """The names of all files that are written."""
        suffixes = [OBJECT_FORMATS[name].suffix for name in dict.fromkeys(formats)]
        pictures = [self.picture(number) for number in range(self.images)]
        return [*pictures, *(self.stem + suffix for suffix in suffixes)]

    def pages(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Each mask [H, W], classes or the foreground's probability, and its image [H, W, C]."""
        if self.planes is None:
            masks = class_pages(self.mask)
        else:
            masks = foreground_pages(self.mask, self.planes)
        with ExitStack() as opened:
            image = None
            if self.image is not None:
                image = opened.enter_context(open_windows(self.image))
            for number, mask in enumerate(masks):
                yield mask, None if image is None else whole(image, number)


def _job(stem: str, mask: Path, image: Path | None, probable: bool) -> _Job:
    with open_windows(mask) as file:
        planes = _classes_by_page(file) if probable else None
        count, size = len(file) // (planes or 1), file.pixel_size
    if image is not None:
        with open_windows(image) as file:
            if len(file) != count:
                raise DataError(f"{image}: has {len(file)} pages; expected {count}, as in {mask}")
            size = file.pixel_size or size
    return _Job(stem, mask, image, count, planes, size)


def _partners(files: dict[str, Path], images: Path) -> dict[str, Path]:
    """The image of each mask.

    Raises:
        DataError: a mask without one; names all of them.
    """
    found = {name_of(path): path for path in find_inputs(images)}
    if len(files) == len(found) == 1:
        return dict(zip(files, found.values(), strict=True))
    lacking = [str(path) for stem, path in files.items() if stem not in found]
    if lacking:
        raise DataError(
            f"{images}: no image for {listed(lacking)}; expected names such as {next(iter(files))}"
        )
    return {stem: found[stem] for stem in files}


def _diameters(table: Table) -> np.ndarray:
    """float64 [objects, 2]: equivalent diameters in px and µm, NaN where unknown."""
    pixels = table["equivalent_diameter_px"]
    unknown = np.full(pixels.size, np.nan)
    return np.stack([pixels, table.get("equivalent_diameter_um", unknown)], axis=1)


def _medians(diameters: np.ndarray) -> tuple[float | None, float | None]:
    if not len(diameters):
        return None, None
    pixels, micrometres = np.median(diameters, axis=0).tolist()  # NaN if one is
    return pixels, None if np.isnan(micrometres) else micrometres


def _line(stem: str, number: int, objects: ObjectSlice) -> Table:
    pixels, micrometres = _medians(_diameters(objects.table))
    covered = objects.table["area_px"].sum() / objects.instances.size
    values = {"median_diameter_px": pixels, "median_diameter_um": micrometres, "covered": covered}
    counts = {"slice": number, "objects": len(objects.table["label"])}
    return {
        "image": np.array([stem]),
        **{name: np.array([count]) for name, count in counts.items()},
        **{name: np.array([value], np.float64) for name, value in values.items()},
    }


_LABELS = "_labels"
_ENDS = {False: "_mask", True: "_probabilities"}
_OTHERS = ("_mask", "_probabilities", "_overlay", "_labels", "_objects")


def find_masks(path: str | Path, probabilities: bool, instances: bool = False) -> dict[str, Path]:
    """The files to read by the name of their image, in natural order.

    A folder as `predict` leaves it holds several files for an image; of these only the
    probabilities are taken, or else the numbered objects where a model answered them, or else the
    masks. A folder without such names is taken as a whole.

    Args:
        instances: take labels whoever wrote them.

    Raises:
        DataError: nothing there, or only files of the other kind.
    """
    files = find_inputs(path)
    ends, answers = [_ENDS[probabilities]], set()
    if not probabilities:
        answers = set(files) if instances else _numbered(files)
        ends = [_LABELS, *ends]
    for end in ends:
        chosen = [file for file in files if name_of(file).endswith(end)]
        if end == _LABELS:
            chosen = [file for file in chosen if file in answers]
        if chosen:
            return {name_of(file).removesuffix(end): file for file in chosen}
    others = [file for file in files if name_of(file).endswith(_OTHERS)]
    if others and len(files) > 1:
        expected = "probabilities, for a threshold" if probabilities else "masks"
        if name_of(others[0]).endswith(_LABELS):
            expected += ", or --instances for numbered objects"
        raise DataError(
            f"{path}: no file NAME{_ENDS[probabilities]}, but {others[0].name}; expected {expected}"
        )
    return {name_of(file).removesuffix(_ENDS[probabilities]): file for file in files}


def _numbered(files: Iterable[Path]) -> set[Path]:
    """Those that `predict` wrote of numbered objects; the name alone says too little.

    `objects` writes files of that name too, perhaps beside the masks, and keeps a list of them.
    """
    named = [file for file in files if name_of(file).endswith(_LABELS)]
    folders = {file.parent for file in named}
    others = {folder: read_written(folder) for folder in folders if (folder / PREDICTED).is_dir()}
    return {file for file in named if file.name not in others.get(file.parent, {file.name: None})}


def _as_numbered(settings: ObjectSettings, file: Path) -> ObjectSettings:
    given = settings.model_dump(exclude_defaults=True, exclude={"names", "instances"})
    if given:
        raise ConfigError(
            f"{file}: objects are numbered already, so {', '.join(given)} would change nothing; "
            "predict again with these options"
        )
    return make_settings(instances=True, names=settings.names)


def whole(file: WindowedFile, page: int) -> np.ndarray:
    """A page's pixels [H, W, C]."""
    height, width, _ = file.shapes[page]
    return file.page(page).read(slice(0, height), slice(0, width))


def class_pages(path: Path) -> Iterator[np.ndarray]:
    """Class values int32 [H, W] of each page of a mask file."""
    if is_zarr(path):
        with open_windows(path) as file:
            for page in range(len(file)):
                pixels = whole(file, page)
                if pixels.shape[2] != 1 or pixels.dtype.kind == "f":
                    raise DataError(
                        f"{path}: holds {pixels.shape[2]} channels of {pixels.dtype}; expected a "
                        "mask: one channel of integers"
                    )
                limits = np.iinfo(np.int32)
                low, high = int(pixels.min()), int(pixels.max())
                if low < limits.min or high > limits.max:
                    raise DataError(
                        f"{path}: holds labels from {low} to {high}; expected at most {limits.max}"
                    )
                yield pixels[..., 0].astype(np.int32)
        return
    with ImageFile(path) as file:
        for page in range(len(file)):
            yield file.labels(page)


def foreground_pages(path: Path, planes: int | None = None) -> Iterator[np.ndarray]:
    """The foreground's probability, float32 [H, W], of each image in a file of probabilities.

    That is 1 - the background's, the first class. The classes are the channels, or else the pages:
    as many as sum up to 1. A single channel whose pages don't is the foreground's own.
    Integers are read as fractions of their largest value (255, 65,535).

    Args:
        planes: pages of the file for an image; None: as many as sum up to 1.

    Raises:
        DataError: values outside 0 to 1.
    """
    with open_windows(path) as file:
        planes = planes or _classes_by_page(file)
        for first in range(0, len(file), planes):
            page = _fractions(file, first)
            single = page.shape[2] == 1 and planes == 1
            yield page[..., 0] if single else np.float32(1) - page[..., 0]


def _classes_by_page(file: WindowedFile) -> int:
    """How many pages make up an image: the fewest whose probabilities sum up to 1; else 1."""
    if len(file) == 1 or file.shapes[0][2] > 1:
        return 1
    total = _fractions(file, 0)
    for page in range(1, len(file)):
        if file.shapes[page] != file.shapes[0]:
            return 1
        total = total + _fractions(file, page)
        # each class is off by half a step, of 1/255 in the coarsest kind of file
        if np.all(np.abs(total - 1) <= 0.002 * (page + 1) + 1e-3):
            return page + 1 if len(file) % (page + 1) == 0 else 1
    return 1


def _fractions(file: WindowedFile, page: int) -> np.ndarray:
    pixels = whole(file, page)
    if pixels.dtype.kind != "f":
        return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also for NaN
        raise DataError(
            f"{file.path}: holds values from {low:g} to {high:g}; expected probabilities "
            "from 0 to 1"
        )
    return pixels


_SMALLEST_NUMBERED = 14  # pixels across in the picture: smaller objects get no number
_BACKGROUND, _INSIDE = 16, 80  # grey values without an image
LEGEND = (
    Entry(None, "one outline: one object, numbered as in the tables"),
    NEIGHBOURS,
)


def object_picture(
    instances: np.ndarray,
    outlines: Sequence[Outline],
    table: Table,
    image: np.ndarray | None = None,
    *,
    longest: int = 2048,
    enlarged: int = 1024,
) -> np.ndarray:
    """Draws outlines in the colours of `object_colors`, so that touching objects are told apart.

    Args:
        instances: [H, W]. outlines, table: of them, in equal order.
        image: [H, W] or [H, W, C]; without it the objects are grey on black.
        longest: pixels of the longer side at most; larger images are scaled down.
        enlarged: smaller ones are enlarged by a whole number, up to so many pixels.

    Returns:
        uint8 [h, w, 3].
    """
    height, width = instances.shape
    step = -(-max(height, width) // longest)
    if image is None:
        grey = np.where(instances[::step, ::step] > 0, np.uint8(_INSIDE), np.uint8(_BACKGROUND))
        pixels = np.repeat(grey[..., None], 3, axis=2)
    else:
        pixels = to_rgb(np.asarray(image)[::step, ::step])
    times = 1 if step > 1 else max(1, min(8, enlarged // max(height, width)))
    picture = Image.fromarray(pixels.repeat(times, axis=0).repeat(times, axis=1))
    scale = times / step
    draw = ImageDraw.Draw(picture)
    colors = object_colors(instances)
    for outline in outlines:
        color = colors[outline.label]
        for polygon in outline.polygons:
            for ring in polygon:
                points = (np.vstack([ring, ring[:1]]) * scale).ravel().tolist()
                draw.line(points, fill=color, width=1 + (times > 2))
    _write_numbers(draw, table, colors, scale)
    return np.asarray(picture)


def _write_numbers(
    draw: ImageDraw.ImageDraw, table: Table, colors: Mapping[int, tuple[int, ...]], scale: float
) -> None:
    across = table["equivalent_diameter_px"] * scale
    shown = np.flatnonzero(across >= _SMALLEST_NUMBERED)
    if not shown.size:
        return
    size = float(np.clip(0.45 * np.median(across[shown]), 9, 22))
    font = ImageFont.load_default(size)
    for row in shown.tolist():
        label = int(table["label"][row])
        at = tuple((table[f"centroid_{axis}_px"][row] + 0.5) * scale for axis in "xy")
        draw.text(
            at,
            str(label),
            fill=colors[label],
            font=font,
            anchor="mm",
            stroke_width=1,
            stroke_fill=(0, 0, 0),
        )
