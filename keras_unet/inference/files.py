"""`predict` for files: one image, a folder, or a stack in; masks and overlays out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from keras_unet.data.images import read_image
from keras_unet.data.label_rule import LabelMapping
from keras_unet.data.pairs import find_pairs, stem_of
from keras_unet.errors import DataError
from keras_unet.evaluation import pictures
from keras_unet.inference.prediction import predict, to_classes
from keras_unet.models.bundle import load_model


def predict_files(
    model: str | Path,
    images: str | Path,
    output: str | Path,
    *,
    probabilities: bool = False,
    threshold: float | None = None,
    tile: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Segments image files and returns the masks written, one a file.

    For `cells.png` it writes `cells_mask.png` (the values the training labels had; 0 and 255 for
    two classes), `cells_overlay.png` and, if asked for, `cells_probabilities.tif` (float32
    [K, H, W]). For a TIFF stack, mask and probabilities are stacks too: [Z, H, W], and
    [Z * K, H, W] with the K classes of the first page first. Each file appears under its name
    when it is complete.

    Args:
        model: a run folder or `.keras` file.
        images: an image file, a folder of images (or one that holds `images/`), or a stack.
        output: folder, made if absent.
        probabilities: also write them.
        threshold: foreground where its probability is above this; for two classes only.
        tile: largest input tile, see `predict`.
        progress: called with (images done, images in all).

    Raises:
        DataError: an image cannot be read or does not fit the model; names the file. What was
            written for the files before it stays.
    """
    images = Path(images)
    inside = images / "images"
    pairs = find_pairs(inside if inside.is_dir() else images)
    if pairs.problems:
        raise DataError("\n".join(map(str, pairs.problems)))
    trained = load_model(model)
    if threshold is not None and len(trained.card.classes) != 2:
        raise DataError(
            f"a threshold needs a model of two classes, this one has {len(trained.card.classes)}"
        )
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    done = 0
    for file, group in groupby(pairs, key=lambda pair: pair.image):
        pages = list(group)
        stack = len(pages) > 1
        stem = stem_of(file)
        mask = output / f"{stem}_mask.{'tif' if stack else 'png'}"
        with ExitStack() as files:
            if stack:
                masks = files.enter_context(_tiff(mask))
            if probabilities:
                chances = files.enter_context(_tiff(output / f"{stem}_probabilities.tif"))
            for page in pages:
                image = read_image(page.image, page.image_page)
                try:
                    given = predict(trained, image, tile=tile)
                except DataError as error:
                    raise DataError(f"{page.image}: {error}") from error
                classes = to_classes(given) if threshold is None else _above(given, threshold)
                picture = f"{page.name.replace(':', '_')}_overlay.png"
                pictures.save_png(output / picture, pictures.overlay(image, classes))
                values = to_label_values(classes, trained.card.labels)
                if stack:
                    masks.write(values, **_GREY)
                else:
                    pictures.save_png(mask, values)
                if probabilities:
                    chances.write(np.moveaxis(given, -1, 0), **_GREY)
                done += 1
                if progress is not None:
                    progress(done, len(pairs))
        written.append(mask)
    return written


# Without these, TIFF writers take three or four pages for the channels of a colour image.
_GREY: Any = {"photometric": "minisblack", "compression": "zlib", "metadata": None}


def to_label_values(classes: np.ndarray, labels: LabelMapping) -> np.ndarray:
    """Class numbers [H, W] to the values that the training labels used: uint8, uint16 or int32.

    Two classes 0 and 1 become 0 and 255: visible in any viewer, and read back as 0 and 1.
    """
    values = labels.values if labels.kind == "semantic" else (0, 255)
    if tuple(values) == (0, 1):
        values = (0, 255)
    kinds = (np.uint8, np.uint16, np.int32)
    fits = [k for k in kinds if min(values) >= np.iinfo(k).min and max(values) <= np.iinfo(k).max]
    return np.asarray(values, fits[0])[classes]


@contextmanager
def _tiff(path: Path) -> Iterator[tifffile.TiffWriter]:
    """A TIFF file written beside and renamed when it is complete."""
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with tifffile.TiffWriter(beside, bigtiff=True) as writer:
            yield writer
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _above(given: np.ndarray, threshold: float) -> np.ndarray:
    return (given[..., -1] > threshold).astype(np.int32)
