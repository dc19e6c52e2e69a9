"""From a configuration to what a run starts with: samples, class names, tile, network, loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from keras_unet import geometry, losses
from keras_unet.augment import Augment
from keras_unet.data.bank import ImageBank
from keras_unet.data.label_rule import LabelMapping
from keras_unet.data.pipeline import tile_dataset, tile_requests
from keras_unet.data.reading import Sample
from keras_unet.data.report import DataReport, shared_images
from keras_unet.data.samples import load_samples
from keras_unet.errors import ConfigError
from keras_unet.models.unet import build_unet
from keras_unet.training.config import LossConfig, TrainConfig
from keras_unet.training.on_accelerator import AugmentedTraining


def read_samples(
    config: TrainConfig, console: Console
) -> tuple[list[Sample], list[Sample], DataReport, LabelMapping]:
    """Reads and checks both sets: (training, validation, report, how labels were read)."""
    data = config.data
    samples, report = load_samples(data.images, data.labels, data.rule, need_labels=True)
    mapping = report.mapping
    assert mapping is not None  # there are labels
    console.print(report.to_text(), style="dim", markup=False)
    if isinstance(data.validation, Path):
        held_out, held_report = load_samples(
            data.validation, data.validation_labels, mapping.as_rule(), need_labels=True
        )
        console.print(f"validation: {held_report.to_text()}", style="dim", markup=False)
        for _, other in shared_images(report, held_report):
            said = f"{other} is in the training and in the validation images"
            console.print(said, style="yellow", markup=False)
        channels = [s[0].image.shape[-1] for s in (samples, held_out)]
        if channels[0] != channels[1]:
            raise ConfigError(
                f"{data.validation}: images have {channels[1]} channels, "
                f"the training images {channels[0]}"
            )
    else:
        samples, held_out = split(samples, data.validation, config.seed)
    absent = _classes(samples) - _classes(held_out)
    if absent:
        raise ConfigError(
            f"the {len(held_out)} validation images have no pixel of class {sorted(absent)}, so "
            "they can't tell a good model from a bad one: give data.validation a folder with all "
            "classes, hold out more (data.validation=0.3) or others (another seed)"
        )
    console.print(f"{len(samples)} training and {len(held_out)} validation images")
    return samples, held_out, report, mapping


def split(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Holds out a share of the images, at least one: (training, validation).

    Pages of a stack lie next to each other and look alike, so they are held out in one block;
    other images at random.
    """
    if not 0 < share < 1:
        raise ConfigError(f"data.validation must be a folder or a share in (0, 1), got {share}")
    if len(samples) < 2:
        raise ConfigError("one labelled image cannot be split: give a validation folder")
    count = min(max(1, round(share * len(samples))), len(samples) - 1)
    rng = np.random.default_rng(seed)
    if all(":" in s.name for s in samples):
        first = int(rng.integers(len(samples) - count + 1))
        held = set(range(first, first + count))
    else:
        held = set(rng.permutation(len(samples))[:count].tolist())
    return (
        [s for i, s in enumerate(samples) if i not in held],
        [s for i, s in enumerate(samples) if i in held],
    )


def _classes(samples: Sequence[Sample]) -> set[int]:
    found: set[int] = set()
    for sample in samples:
        assert sample.classes is not None
        found.update(np.unique(sample.classes).tolist())
    return found - {-1}


def class_names(config: TrainConfig, mapping: LabelMapping) -> tuple[str, ...]:
    """The names given, or made up."""
    names = config.data.class_names
    if names is None and mapping.num_classes == 2:
        return ("background", "foreground")
    if names is None:
        return ("background", *(f"class{i}" for i in range(1, mapping.num_classes)))
    if len(names) != mapping.num_classes:
        raise ConfigError(
            f"data.class_names has {len(names)} names {names}, "
            f"the labels have {mapping.num_classes} classes"
        )
    return names


def tile_size(config: TrainConfig, samples: Sequence[Sample]) -> tuple[int, int]:
    """The input tile and its output: covers a usual image, at most the paper's 572 → 388."""
    depth, padding = config.model.depth, config.model.padding
    if config.tile is not None:
        tile = config.tile
    else:
        side = int(np.median([max(s.image.shape[:2]) for s in samples]))
        wanted = min(side, 388)
        stride = geometry.stride(depth)
        tile = (
            geometry.input_size(wanted, depth)
            if padding == "valid"
            else max(wanted // stride, 1) * stride
        )
    return tile, geometry.output_size(tile, depth, padding)


def network(config: TrainConfig, channels: int, num_classes: int, policy: str) -> keras.Model:
    """The U-Net to be trained."""
    options = config.model.model_dump()
    if options["normalization"] == "none":
        options["normalization"] = None
    return build_unet((None, None, channels), num_classes, **options, dtype=policy)


def trainable(
    config: TrainConfig, model: keras.Model, bank: ImageBank, augment: Augment, entries: np.ndarray
) -> tuple[keras.Model, tf.data.Dataset]:
    """The model to call `fit` on, compiled, and the data to call it with."""
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    drawn = {"batch_size": config.batch_size, "seed": config.seed}
    if config.augment_on == "accelerator" or (config.augment_on == "auto" and has_gpu):
        data = tile_requests(entries, **drawn).prefetch(2)
        model = AugmentedTraining(model, bank, augment)
    else:
        data = tile_dataset(bank, augment, entries, **drawn)
    # XLA's convolutions are several times slower than oneDNN's on a CPU
    model.compile(_optimizer(config), _loss(config.loss), jit_compile=has_gpu)
    return model, data


def _optimizer(config: TrainConfig) -> keras.optimizers.Optimizer:
    if config.optimizer == "sgd":  # the paper, section 3
        return keras.optimizers.SGD(config.learning_rate, momentum=0.99)
    return keras.optimizers.AdamW(config.learning_rate, weight_decay=config.weight_decay)


def _loss(config: LossConfig) -> keras.losses.Loss:
    entropy = losses.WeightedCrossEntropy(label_smoothing=config.label_smoothing)
    terms, weights = [entropy], [1.0]
    for weight, term in ((config.dice, losses.Dice), (config.focal, losses.Focal)):
        if weight:
            terms.append(term())
            weights.append(weight)
    return entropy if len(terms) == 1 else losses.Sum(terms, weights)
