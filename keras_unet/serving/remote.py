"""Segments files on a server: what `keras-unet predict --server` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from keras_unet.data.images import ImageFile, count_pages
from keras_unet.data.nodata import WHAT
from keras_unet.data.pairs import match_files
from keras_unet.errors import DataError
from keras_unet.inference.files.claims import read_written, recorded, refuse_taken
from keras_unet.remote_path import local_path
from keras_unet.serving.client import Client


def segment_files(
    client: Client,
    model: str,
    images: str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """Writes <output>/<name>_mask.png for each image; pages of a stack are numbered.

    The server's `segment_bytes` does all of it, so the masks have the training labels' values.

    Args:
        images: a PNG, JPEG or TIFF file, or a folder of them; 8 bits, or 16 bits grey.
        overwrite: replace whatever has a mask's name, but no input; otherwise only masks that an
            earlier call left there, unchanged since.

        say: called with what is left out of a folder.

    Returns:
        What was written.

    Raises:
        DataError: no image there, one of another kind, two that would share a mask's name, or
            masks that would replace files of yours; names them.
        ServingError: the server's refusal.
    """
    images, output = Path(images), local_path(output)
    found = match_files(images)
    if found.problems:
        raise DataError("\n".join(map(str, found.problems)))
    for note in found.notes:
        if say is not None:
            say(f"note: {note}")
    files = [image for image, _ in found.files]
    jobs: dict[str, tuple[Path, int | None]] = {}
    for file in files:
        pages = count_pages(file)
        for number in range(pages):
            page = None if pages == 1 else number
            name = file.stem if page is None else f"{file.stem}_{page:04d}"
            if name in jobs:
                raise DataError(f"{file} and {jobs[name][0]} would share the mask {name}_mask.png")
            jobs[name] = file, page
    names = [f"{name}_mask.png" for name in jobs]
    before = read_written(output)
    allowed = {name: [before[name]] if name in before else [] for name in names}
    refuse_taken(output, allowed, files, overwrite=overwrite)
    with recorded(output, names):
        for done, (name, (file, page)) in enumerate(zip(names, jobs.values(), strict=True), 1):
            with ImageFile(file) as opened:
                pixels, missing = opened.measured(page)
            if missing is not None:
                raise DataError(
                    f"{file}: {missing.mean():.1%} of the pixels are {WHAT}, which a server knows "
                    "nothing of; predict without --server"
                )
            (mask,) = client.segment(model, [pixels])
            beside = output / f".{name}"
            Image.fromarray(mask).save(beside)
            beside.replace(output / name)
            if progress is not None:
                progress(done, len(jobs))
    return [output / name for name in names]
