"""Synthesis of a data set: a trained diffusion model draws images for labels, see `synthesize`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tifffile
from pydantic import ValidationError
from skimage.segmentation import relabel_sequential

import keras_unet.diffusion.unet  # noqa: F401  the layers that a file names
from keras_unet import __version__, run_layout
from keras_unet.data.check import load_samples
from keras_unet.data.label_rule import LabelRule
from keras_unet.data.samples import Sample
from keras_unet.diffusion.config import DiffusionCard, make_diffusion_config
from keras_unet.diffusion.model import DiffusionModel
from keras_unet.diffusion.samplers import Sampler
from keras_unet.diffusion.training import condition_classes, contact_sheet
from keras_unet.disk import replacing, write_text
from keras_unet.errors import ConfigError, DataError
from keras_unet.models.keras_file import CARD
from keras_unet.pictures import save_png
from keras_unet.training import run_folder

SHOWN = 8  # images in the contact sheet
PROVENANCE = "provenance.json"


class TrainedDiffusion(NamedTuple):
    """A diffusion model and its card."""

    model: DiffusionModel
    card: DiffusionCard


def load_diffusion(path: str | Path) -> TrainedDiffusion:
    """A model that `train_diffusion` wrote.

    Args:
        path: a run folder, or its `model.keras`.

    Raises:
        DataError: no such file, or not a model of this kind.
    """
    file = Path(path) / run_layout.DIFFUSION_MODEL if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise DataError(
            f"{file}: no diffusion model here; expected a run folder or its "
            f"{run_layout.DIFFUSION_MODEL}"
        )
    try:
        with zipfile.ZipFile(file) as archive:
            card = DiffusionCard.model_validate_json(archive.read(CARD))
    except (OSError, KeyError, zipfile.BadZipFile, ValidationError) as error:
        raise DataError(f"{file}: not a diffusion model of keras_unet ({error})") from error
    try:
        model = keras.saving.load_model(file, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{file}: Keras cannot load it safely ({error})") from error
    return TrainedDiffusion(model, card)


def synthesize(
    run: str | Path,
    output: str | Path,
    masks: str | Path | None = None,
    *,
    count: int = 16,
    steps: int = 50,
    guidance: float = 1.0,
    seed: int = 0,
    sampler: str | Sampler = "ddim",
    size: tuple[int, int] | None = None,
    batch_size: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draws images into a new folder: `images/`, `labels/`, `contact_sheet.png`, `provenance.json`.

    The folder is complete or it is not there. `keras-unet train` takes it as it is.

    Args:
        run: what `train_diffusion` wrote.
        output: the new folder.
        masks: label images to draw images for, of the kind that the run was trained with: a data
            set's folder, or a folder of labels. None: tiles of the labels it was trained with.
        count: how many images; the masks are used in turn.
        steps, guidance, sampler: see `DiffusionModel.sample`.
        seed: of places and noise: the same gives the same images, of another none the same.
        size: (height, width), where there are no masks of their own size; None: the run's tile.
        batch_size: images drawn at once.
        progress: called with (images done, images in all).

    Raises:
        ConfigError: arguments do not fit the run, or the folder is there already.
        DataError: the run, or masks, cannot be used.
    """
    output = Path(output)
    if output.exists():
        raise ConfigError(f"{output}: is there already; expected the name of a new folder")
    if count < 1:
        raise ConfigError(f"count {count}: expected at least 1")
    trained = load_diffusion(run)
    card = trained.card
    if masks is not None and card.condition != "labels":
        raise ConfigError(f"{run}: was trained without masks (condition={card.condition})")
    size = size or (card.tile, card.tile)
    given = _given(trained, Path(masks) if masks else None, count, size, seed, Path(run))
    records: list[dict[str, str]] = []
    shown: list[tuple[np.ndarray, Any]] = []
    with replacing(output) as beside:
        (beside / "images").mkdir(parents=True)
        if card.condition == "labels":
            (beside / "labels").mkdir()
        for first in range(0, count, batch_size):
            part = given[first : first + batch_size]
            for number, same in _alike(part):
                condition = None
                if card.condition == "labels":
                    condition = np.stack([one.condition for one in same])
                elif card.condition == "class":
                    condition = np.array([int(one.condition) for one in same], np.int32)
                images = trained.model.sample(
                    condition,
                    steps,
                    guidance,
                    _seed_of(seed, first + number),
                    count=len(same),
                    size=None if card.condition == "labels" else size,
                    sampler=sampler,
                )
                for one, image in zip(same, images, strict=True):
                    name = _write(beside, one, _stored(image, card))
                    records.append({"image": f"images/{name}", "from": one.source})
                    if len(shown) < SHOWN:
                        shown.append((image, one.condition))
            if progress is not None:
                progress(min(first + batch_size, count), count)
        shown = [pair for pair in shown if pair[0].shape == shown[0][0].shape]
        sheet = contact_sheet(
            [image for image, _ in shown],
            [mask for _, mask in shown] if card.condition == "labels" else None,
        )
        save_png(beside / "contact_sheet.png", sheet)
        note = {
            "synthetic": True,
            "made_by": f"keras_unet {__version__}",
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "model": str(run),
            "model_trained_on": card.config.get("data", {}).get("images"),
            "sampler": sampler if isinstance(sampler, str) else repr(sampler),
            "steps": steps,
            "guidance": guidance,
            "seed": seed,
            "batch_size": batch_size,
            "images": records,
        }
        write_text(beside / PROVENANCE, json.dumps(note, indent=1) + "\n")
    return output


class _Given(NamedTuple):
    """What one image is drawn for: its file's name, condition, labels, and where these are from."""

    name: str
    condition: Any
    labels: np.ndarray | None
    source: str


def _given(
    trained: TrainedDiffusion,
    masks: Path | None,
    count: int,
    size: tuple[int, int],
    seed: int,
    run: Path,
) -> list[_Given]:
    card = trained.card
    digits = max(4, len(str(count)))
    if card.condition == "none":
        return [_Given(f"{k:0{digits}d}.png", None, None, "noise") for k in range(count)]
    if card.condition == "class":
        kinds = card.classes
        return [
            _Given(
                f"{k:0{digits}d}_{kinds[k % len(kinds)]}.png",
                k % len(kinds),
                None,
                kinds[k % len(kinds)],
            )
            for k in range(count)
        ]
    samples = _label_samples(trained, masks, run)
    random = np.random.default_rng(seed)
    found = []
    for k in range(count):
        sample = samples[k % len(samples)]
        if masks is None:
            sample = _tile(sample, size, random)
        labels = sample.instances if sample.instances is not None else sample.classes
        found.append(
            _Given(
                f"{k:0{digits}d}_{Path(sample.name).stem}.png",
                condition_classes(sample).astype(np.int32),
                labels,
                sample.name,
            )
        )
    return found


def _label_samples(trained: TrainedDiffusion, masks: Path | None, run: Path) -> list[Sample]:
    """Samples whose labels are to be drawn for."""
    card = trained.card
    if masks is None:
        config = make_diffusion_config(card.config)
        if (run / run_layout.RECORD).is_file():  # its paths start where it was begun
            record = run_folder.read_record(run, make_diffusion_config)
            config = run_folder.rooted(config, record.directory)
        data = config.data
        try:
            return load_samples(data.images, data.labels, data.rule, need_labels=True)[0]
        except DataError as error:
            raise DataError(
                f"the labels that {run} was trained with cannot be read; expected them, or a "
                f"folder of masks ({error})"
            ) from error
    rule = card.labels.as_rule() if card.labels is not None else LabelRule()
    if (masks / "labels").is_dir():
        return load_samples(masks / "labels", masks / "labels", rule, need_labels=True)[0]
    return load_samples(masks, masks, rule, need_labels=True)[0]


def _tile(sample: Sample, size: tuple[int, int], random: np.random.Generator) -> Sample:
    """A random tile of the labels, turned and mirrored by chance."""
    turns, mirror = int(random.integers(4)), bool(random.integers(2))
    place = random.random(2)

    def cut(labels: np.ndarray | None) -> np.ndarray | None:
        if labels is None:
            return None
        labels = np.rot90(labels, turns)
        labels = labels[:, ::-1] if mirror else labels
        short = [(0, max(0, wanted - n)) for wanted, n in zip(size, labels.shape, strict=True)]
        labels = np.pad(labels, short, mode="symmetric")
        top, left = (
            int(at * (n - wanted + 1))
            for at, n, wanted in zip(place, labels.shape, size, strict=True)
        )
        return labels[top : top + size[0], left : left + size[1]]

    return Sample(sample.name, sample.image, cut(sample.classes), cut(sample.instances))


def _alike(part: list[_Given]) -> Iterator[tuple[int, list[_Given]]]:
    """Those of one size together, in order, and the place of the first of them."""
    sizes: dict[Any, tuple[int, list[_Given]]] = {}
    for number, one in enumerate(part):
        sizes.setdefault(np.shape(one.condition), (number, []))[1].append(one)
    yield from sizes.values()


def _seed_of(seed: int, first: int) -> int:
    """The seed of a batch that begins with image `first`."""
    return int(np.random.SeedSequence([seed, first]).generate_state(1, np.uint64)[0])


def _stored(image: np.ndarray, card: DiffusionCard) -> np.ndarray:
    """-1 … 1 as grey values of the images that were learned from, in their dtype."""
    low, high = np.asarray(card.low, np.float32), np.asarray(card.high, np.float32)
    values = (image + 1) / 2 * (high - low) + low
    dtype = np.dtype(card.image_dtype)
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        return np.clip(np.rint(values), bounds.min, bounds.max).astype(dtype)
    return values.astype(np.float32)


def _write(folder: Path, one: _Given, image: np.ndarray) -> str:
    """Writes an image and its labels; returns the name of the image's file."""
    path = folder / "images" / one.name
    if image.dtype == np.uint8 and image.shape[-1] in (1, 3):
        save_png(path, image[..., 0] if image.shape[-1] == 1 else image)
    else:
        path = path.with_suffix(".tif")
        tifffile.imwrite(path, image[..., 0] if image.shape[-1] == 1 else image)
    if one.labels is not None:
        labels = np.maximum(one.labels, 0)
        if labels.max() > np.iinfo(np.uint16).max:  # a PNG holds no larger numbers
            labels = relabel_sequential(labels)[0]
        kind = np.uint8 if labels.max() < 256 else np.uint16
        save_png(folder / "labels" / one.name, labels.astype(kind))
    return path.name
