"""Inputs of a prediction: image files, stacks and Zarr arrays, opened window by window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_unet.data.images import PictureFile, is_zarr, open_windows
from keras_unet.data.pairs import (
    images_folder,
    is_image_name,
    left_out,
    match_files,
    natural_key,
    stem_of,
)
from keras_unet.data.stored_pixels import PixelSize, WindowedFile
from keras_unet.errors import DataError
from keras_unet.remote_path import local_path


@dataclass(frozen=True)
class Header:
    """What a file holds, its pixels unread; attributes as those of `WindowedFile`."""

    path: Path
    shapes: Sequence[tuple[int, int, int]]
    pixel_size: PixelSize | None = None
    left_out: tuple[str, ...] = ()


def find_inputs(images: str | Path, say: Callable[[str], None] | None = None) -> list[Path]:
    """The files to segment, in natural order.

    Args:
        images: an image, a TIFF stack, a Zarr array or OME-Zarr image (a folder), a folder of
            such, or a folder that holds them in `images/`.
        say: called with what is left out of the folder.

    Raises:
        DataError: nothing there, or two files whose results would have the same name.
    """
    images = local_path(images)
    if is_zarr(images):
        return [images]
    folder, notes = images_folder(images)
    arrays = [p for p in folder.iterdir() if is_zarr(p)] if folder.is_dir() else []
    files: Sequence[Path] = ()
    others = set(folder.iterdir()) - set(arrays) if arrays else set()
    if arrays and not any(map(is_image_name, others)):
        notes += left_out(folder, others)
    else:
        matched = match_files(folder, skip=arrays)
        if matched.problems:
            raise DataError("\n".join(map(str, matched.problems)))
        files = [image for image, _ in matched.files]
        notes += matched.notes
    for note in notes:
        if say is not None:
            say(f"note: {note}")
    found: dict[str, Path] = {}
    for path in sorted([*files, *arrays], key=lambda path: (natural_key(path.name), path.name)):
        stem = name_of(path)
        if stem in found:
            raise DataError(
                f"{path}: has the same name as {found[stem].name}; expected each name once"
            )
        found[stem] = path
    return list(found.values())


def name_of(path: Path) -> str:
    """What the results are called by: `cells` for cells.ome.tif, `plate_0` for plate.zarr/0."""
    parent = path.parent
    if path.suffix == "" and parent.suffix == ".zarr":
        return f"{stem_of(parent)}_{path.name}"
    return stem_of(path)


def open_images(path: Path, channels: int) -> WindowedFile:
    """Opens a file for reading window by window, in a `with` block.

    Args:
        path: what `find_inputs` gave.
        channels: of the model.

    Raises:
        DataError: unreadable, or its images don't have `channels` channels; names the axes.
    """
    return _of_channels(open_windows(path, channels), channels)


def _of_channels(file: WindowedFile, channels: int) -> WindowedFile:
    """The file itself; closed, and refused, if an image has another number of channels."""
    for number, shape in enumerate(file.shapes):
        if shape[2] != channels:
            counted = "".join(f"{name} {size}, " for name, size in file.axes)
            where = f"image {number} of " if len(file) > 1 else ""
            file.close()
            raise DataError(
                f"{file.path}: {where}axes {counted}Y {shape[0]}, X {shape[1]}, C {shape[2]}: "
                f"{shape[2]} channel{'s' * (shape[2] != 1)}; this model expects {channels}"
            )
    return file


def read_header(path: Path, channels: int) -> Header:
    """What a file of `find_inputs` holds.

    Args:
        channels: of the model.

    Raises:
        DataError: unreadable; for TIFF and Zarr also: not as many channels as the model has.
    """
    with open_windows(path, channels) as images:
        if isinstance(images, PictureFile):
            return Header(path, [(*images.shapes[0][:2], channels)])
        _of_channels(images, channels)
        return Header(path, images.shapes, images.pixel_size, images.left_out)
