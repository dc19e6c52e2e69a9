"""Training of a diffusion model: from a folder of images to a model that draws more of them.

The loop, the checkpoints and the run folder are those of `keras_unet.train`: a run that was killed
goes on to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from skimage.segmentation import find_boundaries

from keras_unet import run_layout
from keras_unet.augment import Augment, preset_settings
from keras_unet.augment.image_bank import ImageBank
from keras_unet.console import console_of, say
from keras_unet.data.check import load_samples
from keras_unet.data.class_names import find_class_names
from keras_unet.data.pairs import natural_key
from keras_unet.data.pipeline import tile_dataset, tile_entries, tile_requests
from keras_unet.data.samples import Sample
from keras_unet.diffusion.config import (
    DiffusionCard,
    DiffusionConfig,
    make_diffusion_config,
)
from keras_unet.diffusion.model import DiffusionModel
from keras_unet.diffusion.noise import NoiseSchedule
from keras_unet.diffusion.unet import build_diffusion_unet
from keras_unet.errors import ConfigError, DataError, TrainingError
from keras_unet.machine import dtype_policy
from keras_unet.models.keras_file import library_versions, write_with_card
from keras_unet.pictures import COLORS, curves, save_png
from keras_unet.settings import to_tree
from keras_unet.training import run_folder
from keras_unet.training.build import environment
from keras_unet.training.callbacks import Budget, History, ShowProgress, StopWhereNotFinite
from keras_unet.training.checkpoint import Checkpoint, Checkpoints
from keras_unet.training.loop import run_steps
from keras_unet.training.step import FusedAdamW

COMMAND = "keras-unet diffusion train"
OBJECTS = ("background", "inside", "outline")
SHOWN = 8  # images in a grid


class Material(NamedTuple):
    """A data set for diffusion: images, what they are conditioned on, and how both are read.

    masks: int [H, W] for each image, its classes; or its class everywhere. low, high: float32 [C],
    grey values that become -1 and 1.
    """

    samples: list[Sample]
    masks: list[np.ndarray]
    classes: tuple[str, ...]
    labels: Any
    low: np.ndarray
    high: np.ndarray


def train_diffusion(
    config: DiffusionConfig | Mapping[str, object] | None = None,
    console: Console | None = None,
    *,
    resume: str | Path | None = None,
    verbose: int = 1,
) -> Path:
    """Trains a diffusion model, or goes on with a run.

    The run folder holds `config.toml`, `run.json`, `checkpoints/`, `history.csv`, `tensorboard/`,
    `samples/` (grids that were drawn on the way) and at its end `model.keras` and `curves.png`.

    Args:
        config: a `DiffusionConfig` or a mapping that makes one. With `resume`: None, or the same.
        console: where progress goes; None prints to the terminal.
        verbose: 0 prints nothing.
        resume: the folder of a run to go on with.

    Returns:
        The run's folder.

    Raises:
        ConfigError: a setting does not fit, or does not fit the data or the resumed run.
        DataError: images or labels cannot be used; names every bad file. Nothing is written then.
        TrainingError: a number stopped being finite, or the disk is full.
    """
    console = console_of(console, verbose)
    if config is not None and not isinstance(config, DiffusionConfig):
        config = make_diffusion_config(config)
    if resume is not None:
        return _resume(Path(resume), config, console)
    if config is None:
        raise ConfigError("train_diffusion: expected a configuration, or a run to resume")
    policy, why = dtype_policy(config.precision)
    console.print(f"Layers compute in {policy} ({why})")
    material = read_material(config, console)
    record = run_folder.RunRecord(
        config=to_tree(config),
        directory=str(Path.cwd()),
        policy=policy,
        environment=environment(),
        training=run_folder.digests(material.samples),
        validation={},
    )
    folder = run_folder.create(config, record, {}, COMMAND)
    with run_folder.locked_run(folder):
        return _run(folder, config, record, material, None, console)


def _resume(folder: Path, config: DiffusionConfig | None, console: Console) -> Path:
    record = run_folder.read_record(folder, make_diffusion_config)
    if config is not None:
        run_folder.require_same_config(folder, record, config, make_diffusion_config)
    if record.finished:
        say(f"{folder}: this run is finished", console=console)
        return folder
    config = make_diffusion_config(record.config)
    with run_folder.locked_run(folder):
        checkpoint = run_folder.resumed(folder, record, environment(), console)
        material = read_material(run_folder.rooted(config, record.directory), console)
        run_folder.require_same_data(folder, record, run_folder.digests(material.samples), {})
        return _run(folder, config, record, material, checkpoint, console)


def read_material(config: DiffusionConfig, console: Console) -> Material:
    """Reads and checks images and conditions.

    Raises:
        DataError: a file cannot be used, or the set does not fit the condition.
    """
    data = config.data
    if config.condition == "class":
        samples, masks, classes, labels = *_by_folder(data.images, console), None
    else:
        samples, report = load_samples(
            data.images, data.labels, data.rule, need_labels=config.condition == "labels"
        )
        say(report.to_text(), "dim", console)
        labels = report.mapping
        if config.condition == "labels":
            assert labels is not None
            masks = [condition_classes(sample) for sample in samples]
            count = len(OBJECTS) if labels.kind == "instances" else labels.num_classes
            given = data.class_names or (OBJECTS if labels.kind == "instances" else ())
            if not given and (found := find_class_names(data.images, data.labels, count=count)):
                say(f"{found}", console=console)
                given = found.names
            classes = tuple(given) or tuple(f"class{k}" for k in range(count))
            if len(classes) != count:
                raise ConfigError(f"data.class_names has {len(classes)} names; expected {count}")
        else:
            masks, classes = [np.zeros(s.image.shape[:2], np.uint8) for s in samples], ()
    flat = [s.image.reshape(-1, s.image.shape[-1]) for s in samples]
    low = np.min([np.percentile(pixels, 0.05, axis=0) for pixels in flat], axis=0)
    high = np.max([np.percentile(pixels, 99.95, axis=0) for pixels in flat], axis=0)
    if np.any(high <= low):
        raise DataError("the images are constant: there is nothing to learn to draw")
    return Material(
        samples, masks, classes, labels, np.asarray(low, np.float32), np.asarray(high, np.float32)
    )


def condition_classes(sample: Sample) -> np.ndarray:
    """What a diffusion model is told of a sample's labels: uint8 [H, W].

    Classes as they are; of objects, whether a pixel is background, inside, or on the outline, so
    that touching objects are told apart. Pixels that do not count are background.
    """
    if sample.instances is None:
        if sample.classes is None:
            raise DataError(f"{sample.name}: has no labels")
        return np.maximum(sample.classes, 0).astype(np.uint8)
    outline = find_boundaries(sample.instances, mode="inner")
    return np.where(outline, 2, np.where(sample.instances > 0, 1, 0)).astype(np.uint8)


def _by_folder(
    images: Path, console: Console
) -> tuple[list[Sample], list[np.ndarray], tuple[str, ...]]:
    folders = [path for path in Path(images).glob("*") if path.is_dir()]
    folders.sort(key=lambda path: natural_key(path.name))
    if len(folders) < 2:
        raise DataError(f"{images}: holds {len(folders)} folder(s); expected one for each class")
    samples: list[Sample] = []
    masks: list[np.ndarray] = []
    for number, folder in enumerate(folders):
        found, report = load_samples(folder)
        say(f"{folder.name}: {report.to_text()}", "dim", console)
        samples += [replace(s, name=f"{folder.name}/{s.name}") for s in found]
        masks += [np.full(s.image.shape[:2], number, np.uint16) for s in found]
    channels = {s.image.shape[-1] for s in samples}
    if len(channels) > 1:
        raise DataError(f"{images}: images of {sorted(channels)} channels; expected all alike")
    return samples, masks, tuple(folder.name for folder in folders)


def _batches(
    config: DiffusionConfig, material: Material
) -> tuple[Callable[[int], tf.data.Dataset], Callable[[int], list[str]]]:
    """Tiles (image, condition) from any batch on, and the names of the images in a batch."""
    middle, half = (material.high + material.low) / 2, (material.high - material.low) / 2
    dtypes = {s.image.dtype for s in material.samples}
    common = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
    if common not in (np.uint8, np.uint16):
        common = np.dtype(np.float32)
    bank = ImageBank.from_arrays(
        [s.image.astype(common, copy=False) for s in material.samples],
        material.masks,
        shift=middle,
        scale=1 / half,
    )
    settings = preset_settings(config.augment)
    augment = Augment(settings, tile=config.tile)
    entries = tile_entries([s.image.shape[:2] for s in material.samples], config.tile)
    options: dict[str, Any] = {"batch_size": config.batch_size, "seed": config.seed}

    def condition(image: Any, mask: Any) -> Any:
        if config.condition == "none":
            return (image,)
        return image, mask if config.condition == "labels" else mask[:, 0, 0]

    def data(start: int) -> tf.data.Dataset:
        return tile_dataset(bank, augment, entries, **options, start=start).map(condition)

    def names(number: int) -> list[str]:
        index = next(iter(tile_requests(entries, **options, start=number)))[0].numpy()
        return list(dict.fromkeys(material.samples[i].name for i in index))

    return data, names


def _build(config: DiffusionConfig, material: Material, policy: str) -> DiffusionModel:
    channels = material.samples[0].image.shape[-1]
    levels, own = len(config.model.filters), config.model
    count = len(material.classes)
    drops = config.condition_dropout if config.condition != "none" else 0.0
    unet = build_diffusion_unet(
        (None, None, channels + (count if config.condition == "labels" else 0)),
        channels,
        filters=own.filters,
        layers_per_block=own.layers_per_block,
        attention=[
            "self" if level >= levels - own.attention_levels else None for level in range(levels)
        ],
        head_dim=own.head_dim,
        norm_groups=own.norm_groups,
        dropout=own.dropout,
        num_classes=count + 1 if config.condition == "class" else None,
        sample_size=config.tile,
        dtype=policy,
    )
    model = DiffusionModel(
        unet,
        schedule=NoiseSchedule(kind=config.schedule),
        prediction=config.prediction,
        condition_dropout=drops,
        unconditional=count if config.condition == "class" else None,
        gamma=config.min_snr,
        average=config.ema_decay,
        seed=config.seed,
    )
    optimizer = FusedAdamW(
        config.learning_rate, config.weight_decay, global_clipnorm=config.gradient_clip
    )
    # XLA's convolutions are several times slower than oneDNN's on a CPU
    model.compile(optimizer, jit_compile=bool(tf.config.list_physical_devices("GPU")))
    optimizer.build(model.trainable_variables)
    return model


def _run(
    folder: Path,
    config: DiffusionConfig,
    record: run_folder.RunRecord,
    material: Material,
    checkpoint: Checkpoint | None,
    console: Console,
) -> Path:
    keras.utils.set_random_seed(config.seed)
    model = _build(config, material, record.policy)
    data, names = _batches(config, material)
    checkpoints = Checkpoints(folder)
    budget = Budget(config.learning_rate, config.steps, config.time_limit, "cosine")
    callbacks: list[keras.callbacks.Callback] = [
        budget,
        StopWhereNotFinite(names, lambda: budget.done, checkpoints.last_good),
        History(folder),
        ShowProgress(budget, console),
        Grids(folder / run_layout.SAMPLES, budget, config, material),
    ]

    def keep() -> None:
        card = _card(folder.name, config, material, {"step": float(budget.done)})
        try:
            write_with_card(model, card, folder / run_layout.DIFFUSION_MODEL)
            picture = folder / run_layout.CURVES
            curves(folder / run_layout.HISTORY, picture, "weighted squared error")
        except OSError as error:
            raise TrainingError(f"{folder}: cannot be written ({error})") from error

    number = run_steps(
        model,
        data,
        callbacks,
        budget,
        checkpoints,
        checkpoint,
        steps_per_epoch=config.steps_per_epoch,
        checkpoint_minutes=config.checkpoint_minutes,
        keep=keep,
        how_to_resume=run_folder.how_to_resume(folder, COMMAND),
        console=console,
    )
    if number is not None:
        raise SystemExit(128 + number)
    run_folder.finish(folder, record)
    return folder


def _card(
    name: str, config: DiffusionConfig, material: Material, metrics: dict[str, float]
) -> DiffusionCard:
    return DiffusionCard(
        name=name,
        condition=config.condition,
        classes=material.classes,
        labels=material.labels,
        low=tuple(material.low.tolist()),
        high=tuple(material.high.tolist()),
        image_dtype=str(material.samples[0].image.dtype),
        tile=config.tile,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=library_versions(),
        config=to_tree(config),
        metrics=metrics,
    )


class Grids(keras.callbacks.Callback):
    """Draws images on the way, always from the same noise: one learns to see what is learned.

    Args:
        folder: where `step-000250.png` goes.
        budget: of the run; the grids are spread evenly over it.
        config, material: of the run.
    """

    def __init__(
        self, folder: Path, budget: Budget, config: DiffusionConfig, material: Material
    ) -> None:
        super().__init__()
        self.folder, self.budget, self.config, self.material = folder, budget, config, material
        self.drawn = 0

    def state(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.drawn = int(state["drawn"])

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.drawn >= self.config.pictures:
            return
        due = (self.drawn + 1) / self.config.pictures
        if self.budget.used < due:
            return
        self.drawn = int(self.budget.used * self.config.pictures)
        tile, classes = self.config.tile, len(self.material.classes)
        masks = None
        condition: Any = None
        if self.config.condition == "labels":
            masks = [_middle(mask, tile) for mask in self.material.masks[:SHOWN]]
            condition = np.stack(masks)
        elif self.config.condition == "class":
            condition = np.arange(SHOWN) % classes
        images = self.model.sample(
            condition, 20, seed=0, count=SHOWN, size=(tile, tile), sampler="dpm++"
        )
        self.folder.mkdir(exist_ok=True)
        grid = contact_sheet(images, masks)
        save_png(self.folder / f"step-{self.budget.done:06d}.png", grid)


def _middle(mask: np.ndarray, tile: int) -> np.ndarray:
    """The tile in the middle of a mask, which is mirrored where it is smaller."""
    pad = [(max(0, tile - n) // 2, max(0, tile - n) - max(0, tile - n) // 2) for n in mask.shape]
    mask = np.pad(mask, pad, mode="symmetric")
    top, left = ((n - tile) // 2 for n in mask.shape)
    return mask[top : top + tile, left : left + tile].astype(np.int32)


def contact_sheet(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray] | None = None
) -> np.ndarray:
    """Images -1 … 1 [H, W, C] in a row, their masks above them, as uint8 [H, W, 3]."""

    def rgb(image: np.ndarray) -> np.ndarray:
        pixels = (np.clip(np.asarray(image) / 2 + 0.5, 0, 1) * 255).astype(np.uint8)
        pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1]
        return np.broadcast_to(pixels, (*pixels.shape[:2], 3))

    def row(pictures: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.pad(p, ((1, 1), (1, 1), (0, 0))) for p in pictures], axis=1)

    rows = [row([rgb(image) for image in images])]
    if masks is not None:
        rows.insert(0, row([COLORS[np.asarray(mask) % len(COLORS)] for mask in masks]))
    return np.concatenate(rows)
