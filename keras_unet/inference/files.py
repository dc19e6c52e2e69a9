"""`predict` for files: one image, a folder, or a stack in; masks and overlays out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import numpy as np
import tifffile

from keras_unet.data.images import read_image
from keras_unet.data.label_rule import LabelMapping
from keras_unet.data.pairs import find_pairs
from keras_unet.errors import DataError
from keras_unet.evaluation import pictures
from keras_unet.inference.prediction import DEFAULT_TILE, predict, to_classes
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
    [K, H, W]). For a TIFF stack, mask and probabilities are stacks too ([Z, H, W], [Z, K, H, W]).

    Args:
        model: a run folder or `.keras` file.
        images: an image file, a folder of images, or a multi-page TIFF.
        output: folder, made if absent.
        probabilities: also write them.
        threshold: foreground where its probability is above this; for two classes only.
        tile: largest input tile, see `predict`.
        progress: called with (images done, images in all).

    Raises:
        DataError: an image cannot be read or does not fit the model; names the file. What was
            written for the images before it stays.
    """
    trained = load_model(model)
    if threshold is not None and len(trained.card.classes) != 2:
        raise DataError(
            f"a threshold needs a model of two classes, this one has {len(trained.card.classes)}"
        )
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    pairs = find_pairs(images)
    written: list[Path] = []
    done = 0
    for file, pages in groupby(pairs, key=lambda pair: pair.image):
        masks, chances = [], []
        stem = file.name.split(".")[0] if file.name.lower().endswith(".ome.tif") else file.stem
        for page in pages:
            image = read_image(page.image, page.image_page)
            try:
                given = predict(trained, image, tile=tile or DEFAULT_TILE)
            except DataError as error:
                raise DataError(f"{page.image}: {error}") from error
            classes = to_classes(given) if threshold is None else _above(given, threshold)
            name = page.name.replace(":", "_").replace(file.stem, stem, 1)
            pictures.save_png(output / f"{name}_overlay.png", pictures.overlay(image, classes))
            masks.append(to_label_values(classes, trained.card.labels))
            if probabilities:
                chances.append(np.moveaxis(given, -1, 0))
            done += 1
            if progress is not None:
                progress(done, len(pairs))
        written.append(_write(output / f"{stem}_mask", masks))
        if chances:
            stack = chances[0] if len(chances) == 1 else np.stack(chances)
            tifffile.imwrite(output / f"{stem}_probabilities.tif", stack, compression="zlib")
    return written


def to_label_values(classes: np.ndarray, labels: LabelMapping) -> np.ndarray:
    """Class numbers [H, W] to the values that the training labels used, uint8 or uint16.

    Two classes 0 and 1 become 0 and 255: visible in any viewer, and read back as 0 and 1.
    """
    values = labels.values if labels.kind == "semantic" else (0, 255)
    if tuple(values) == (0, 1):
        values = (0, 255)
    kind = np.uint8 if max(values) < 256 else np.uint16
    return np.asarray(values, kind)[classes]


def _above(given: np.ndarray, threshold: float) -> np.ndarray:
    return (given[..., -1] > threshold).astype(np.int32)


def _write(path: Path, masks: list[np.ndarray]) -> Path:
    if len(masks) == 1:
        path = path.with_name(f"{path.name}.png")
        pictures.save_png(path, masks[0])
    else:
        path = path.with_name(f"{path.name}.tif")
        tifffile.imwrite(path, np.stack(masks), compression="zlib")
    return path
