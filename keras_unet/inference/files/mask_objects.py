"""From files of masks to files of objects: what `keras-unet objects` does."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_unet.data.pixel_size import PixelSize
from keras_unet.data.report import listed
from keras_unet.data.windows import WindowedFile
from keras_unet.errors import DataError
from keras_unet.evaluation.pictures import save_png
from keras_unet.inference.files.claims import (
    read_written,
    recorded,
    refuse_taken,
    require_own_names,
)
from keras_unet.inference.files.inputs import find_inputs, name_of
from keras_unet.inference.files.mask_files import (
    class_pages,
    find_masks,
    foreground_pages,
    open_file,
    pages_of,
    whole,
)
from keras_unet.inference.objects.measured import ObjectSlice
from keras_unet.inference.objects.measurements import Table, to_micrometres
from keras_unet.inference.objects.picture import LEGEND, object_picture
from keras_unet.inference.objects.polygons import outlines
from keras_unet.inference.objects.settings import ObjectSettings
from keras_unet.inference.objects.tables import stacked, write_csv
from keras_unet.inference.objects.writing import DEFAULT_FORMATS, FORMATS, ObjectWriter
from keras_unet.remote_path import local_path

_SUMMARY = "summary.csv"


class FoundObjects(NamedTuple):
    """What was found in all files.

    images: how many, slices of stacks counted each. objects: how many. diameter_px, diameter_um:
    medians of the equivalent diameter; None without objects, or where a pixel size is unknown.
    paths: the files written.
    """

    images: int
    objects: int
    diameter_px: float | None
    diameter_um: float | None
    paths: list[Path]

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
    given = to_micrometres(pixel_size)
    probable = settings.threshold is not None
    files = find_masks(masks, probable)
    partners = {} if images is None else _partners(files, Path(images))
    stated = {stem: pages_of(file, probable) for stem, file in files.items()}
    total = sum(count for count, _ in stated.values())
    output = local_path(output)
    wanted = {stem: _names(stem, count, formats) for stem, (count, _) in stated.items()}
    if total > 1:
        wanted["the summary"] = [_SUMMARY]
    require_own_names(wanted)
    names = [name for owned in wanted.values() for name in owned]
    before = read_written(output)
    allowed = {name: [before[name]] if name in before else [] for name in names}
    refuse_taken(output, allowed, [*files.values(), *partners.values()], overwrite=overwrite)
    with recorded(output, names):
        return _all_objects(files, partners, stated, output, settings, given, formats, progress)


def _all_objects(
    files: Mapping[str, Path],
    partners: Mapping[str, Path],
    stated: Mapping[str, tuple[int, PixelSize | None]],
    output: Path,
    settings: ObjectSettings,
    given: tuple[float, float] | None,
    formats: Sequence[str],
    progress: Callable[[int, int], None] | None,
) -> FoundObjects:
    probable = settings.threshold is not None
    total = sum(count for count, _ in stated.values())
    paths: list[Path] = []
    summary: list[Table] = []
    diameters: list[np.ndarray] = []
    for stem, file in files.items():
        count, size = stated[stem]
        masks_of = foreground_pages if probable else class_pages
        with ExitStack() as opened:
            image: WindowedFile | None = None
            if stem in partners:
                image = opened.enter_context(open_file(partners[stem]))
                if len(image) != count:
                    raise DataError(
                        f"{partners[stem]}: has {len(image)} pages; expected {count}, as in {file}"
                    )
                size = image.pixel_size or size
            writer = ObjectWriter(
                output, stem, pixel_size=given or size, formats=formats, stack=count > 1
            )
            opened.enter_context(writer)
            for number, mask in enumerate(masks_of(file)):
                pixels = None if image is None else whole(image, number)
                try:
                    instances, classes = settings.find(mask)
                    objects = writer.add(instances, pixels, classes)
                except DataError as error:
                    raise DataError(f"{file}: {error}") from error
                paths.append(output / _picture(stem, number, count))
                drawn = objects.outlines or list(outlines(instances))
                picture = object_picture(instances, drawn, objects.table, pixels)
                save_png(paths[-1], picture, LEGEND)
                summary.append(_line(stem, number, objects))
                diameters.append(_diameters(objects.table))
                if progress is not None:
                    progress(len(summary), total)
        paths += writer.paths
    if len(summary) > 1:
        paths.append(output / _SUMMARY)
        beside = paths[-1].with_name(f".{_SUMMARY}-{os.getpid()}")
        try:
            write_csv(beside, stacked(summary))
            beside.replace(paths[-1])
        finally:
            beside.unlink(missing_ok=True)
    across = np.concatenate(diameters)
    return FoundObjects(len(summary), len(across), *_medians(across), paths)


def _picture(stem: str, number: int, count: int) -> str:
    return f"{stem}{f'_{number:03d}' if count > 1 else ''}_objects.png"


def _names(stem: str, count: int, formats: Sequence[str]) -> list[str]:
    """The names of a mask's files, as far as the formats are known."""
    pictures = [_picture(stem, number, count) for number in range(count)]
    return pictures + [stem + FORMATS[name] for name in dict.fromkeys(formats) if name in FORMATS]


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
