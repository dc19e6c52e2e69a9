"""`train`: from a folder of images and labels to a trained model, its scores and its pictures."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tomli_w
from rich.console import Console

from keras_unet import __version__, geometry, losses
from keras_unet.augment import Augment
from keras_unet.data.label_rule import LabelMapping
from keras_unet.data.normalization import Normalization
from keras_unet.data.pipeline import fill_bank, tile_dataset, tile_entries
from keras_unet.data.report import DataReport, shared_images
from keras_unet.data.samples import Sample, load_samples
from keras_unet.data.targets import targets
from keras_unet.errors import ConfigError
from keras_unet.evaluation import pictures
from keras_unet.evaluation.scoring import Evaluation, evaluate_samples
from keras_unet.models.bundle import ModelCard, TrainedModel, load_model
from keras_unet.models.unet import build_unet
from keras_unet.training import callbacks as own
from keras_unet.training.config import LossConfig, TrainConfig, to_tree
from keras_unet.training.precision import dtype_policy


class TrainResult(NamedTuple):
    """Where the run is, its best model, and that model's scores on the validation images."""

    folder: Path
    model: TrainedModel
    evaluation: Evaluation
    interrupted: bool


def train(config: TrainConfig | Mapping[str, Any], console: Console | None = None) -> TrainResult:
    """Trains a U-Net with the paper's weighted cross-entropy; Ctrl-C ends it with a usable run.

    The run folder holds `config.toml`, `data.json` (the data check), `history.csv`, `tensorboard/`,
    `best.keras`, `last.keras`, `curves.png`, `evaluation.json` and `overlays/`.

    Args:
        config: a `TrainConfig`, or what one is made of.
        console: where progress goes; None prints to the terminal.

    Raises:
        ConfigError: a setting does not fit, or does not fit the data.
        DataError: images or labels cannot be used; names every bad file. Nothing is written then.
    """
    if not isinstance(config, TrainConfig):
        config = TrainConfig.model_validate(config)
    console = console or Console()
    keras.utils.set_random_seed(config.seed)

    training, validation, report, mapping = _read(config, console)
    names = _class_names(config, mapping)
    tile, output = _tile(config, training)
    normalization = Normalization.fit(config.data.normalization, [s.image for s in training])
    policy, why = dtype_policy(config.precision)
    console.print(f"Tiles of {tile} → {output} pixels, {policy} ({why})")

    folder = _run_folder(config)
    (folder / "config.toml").write_text(tomli_w.dumps(to_tree(config)))
    (folder / "data.json").write_text(report.to_json() + "\n")

    loss = config.loss
    made = targets(
        training,
        len(names),
        w0=loss.w0,
        sigma=loss.sigma,
        class_weights=loss.class_weights,
        separation=loss.separation,
        cache=config.output / ".cache" / "weight_maps",
    )
    dataset = tile_dataset(
        fill_bank(training, made, normalization),
        Augment.from_preset(config.augment, tile=tile, output=output),
        tile_entries([s.image.shape[:2] for s in training], output),
        batch_size=config.batch_size,
        seed=config.seed,
    )

    network = build_unet(
        (None, None, training[0].image.shape[-1]),
        len(names),
        **{
            **config.model.model_dump(),
            "normalization": None
            if config.model.normalization == "none"
            else config.model.normalization,
        },
        dtype=policy,
        name=folder.name.replace(" ", "_"),
    )
    network.compile(_optimizer(config), _loss(loss), jit_compile=_compile_with_xla())

    def bundle(metrics: dict[str, float]) -> TrainedModel:
        card = ModelCard(
            name=folder.name,
            classes=names,
            normalization=normalization,
            labels=mapping,
            image_dtype=str(training[0].image.dtype),
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            versions={
                "keras_unet": __version__,
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                "python": platform.python_version(),
            },
            config=to_tree(config),
            data=report.summary.model_dump(mode="json"),
            metrics=metrics,
        )
        return TrainedModel(network, card)

    interrupted = _fit(config, network, dataset, validation, normalization, bundle, folder, console)
    model = load_model(folder)
    evaluation = evaluate_samples(model, validation, output=folder)
    (folder / "evaluation.json").write_text(
        json.dumps({"total": evaluation.total, "images": evaluation.images}, indent=1) + "\n"
    )
    pictures.curves(folder / "history.csv", folder / "curves.png")
    return TrainResult(folder, model, evaluation, interrupted)


def _fit(
    config: TrainConfig,
    network: keras.Model,
    dataset: tf.data.Dataset,
    validation: Sequence[Sample],
    normalization: Normalization,
    bundle: Any,
    folder: Path,
    console: Console,
) -> bool:
    """Runs `model.fit`; True if it was interrupted from the keyboard."""
    budget = own.Budget(config.learning_rate, config.steps, config.minutes)
    keep = own.KeepModels(folder, f"val_{config.monitor}", bundle)
    progress = own.ShowProgress(budget, console)
    callbacks: list[keras.callbacks.Callback] = [
        budget,
        own.Validation(validation, normalization, network.output_shape[-1]),
        keep,
        keras.callbacks.CSVLogger(folder / "history.csv"),
        keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False),
        progress,
    ]
    if config.patience:
        callbacks.append(
            keras.callbacks.EarlyStopping(keep.monitor, mode="max", patience=config.patience)
        )
    interrupted = False
    try:
        network.fit(
            dataset,
            steps_per_epoch=config.steps_per_epoch,
            epochs=10**6,  # the budget ends the run
            shuffle=False,  # the data set is shuffled as it is drawn
            callbacks=callbacks,
            verbose=0,
        )
    except KeyboardInterrupt:
        interrupted = True
        progress.close()
        console.print(f"[yellow]Interrupted at step {budget.done}[/]: keeping what was learned")
        if not (folder / "best.keras").is_file():
            own.save_model(bundle({}), folder / "best.keras")
        own.save_model(bundle({"step": float(budget.done)}), folder / "last.keras")
    return interrupted


def _read(
    config: TrainConfig, console: Console
) -> tuple[list[Sample], list[Sample], DataReport, LabelMapping]:
    data = config.data
    samples, report = load_samples(data.images, data.labels, data.rule, need_labels=True)
    mapping = report.mapping
    assert mapping is not None  # there are labels
    for note in report.notes:
        console.print(f"[dim]{note}[/]")
    if isinstance(data.validation, Path):
        held_out, held_report = load_samples(
            data.validation, rule=mapping.as_rule(), need_labels=True
        )
        for note in held_report.notes:
            console.print(f"[dim]validation: {note}[/]")
        for one, other in shared_images(report, held_report):
            console.print(f"[yellow]{other} is in the training and in the validation images[/]")
        if held_out[0].image.shape[-1] != samples[0].image.shape[-1]:
            raise ConfigError(
                f"{data.validation}: images have {held_out[0].image.shape[-1]} channels, "
                f"the training images {samples[0].image.shape[-1]}"
            )
    else:
        samples, held_out = split(samples, data.validation, config.seed)
    console.print(f"{len(samples)} training and {len(held_out)} validation images")
    return samples, held_out, report, mapping


def split(
    samples: Sequence[Sample], share: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Holds out a random share of the images, at least one: (training, validation)."""
    if not 0 < share < 1:
        raise ConfigError(f"data.validation must be a folder or a share in (0, 1), got {share}")
    if len(samples) < 2:
        raise ConfigError("one labelled image cannot be split: give a validation folder")
    count = min(max(1, round(share * len(samples))), len(samples) - 1)
    held = set(np.random.default_rng(seed).permutation(len(samples))[:count].tolist())
    return (
        [s for i, s in enumerate(samples) if i not in held],
        [s for i, s in enumerate(samples) if i in held],
    )


def _class_names(config: TrainConfig, mapping: LabelMapping) -> tuple[str, ...]:
    names = config.data.class_names
    if names is None:
        return ("background", "foreground") if mapping.num_classes == 2 else tuple(
            ["background", *(f"class{i}" for i in range(1, mapping.num_classes))]
        )
    if len(names) != mapping.num_classes:
        raise ConfigError(
            f"data.class_names has {len(names)} names {names}, "
            f"the labels have {mapping.num_classes} classes"
        )
    return names


def _tile(config: TrainConfig, samples: Sequence[Sample]) -> tuple[int, int]:
    """The input tile and its output: covers a usual image, at most the paper's 572 → 388."""
    depth, padding = config.model.depth, config.model.padding
    if config.tile is not None:
        return config.tile, geometry.output_size(config.tile, depth, padding)
    side = int(np.median([max(s.image.shape[:2]) for s in samples]))
    wanted = min(side, 388)
    stride = geometry.stride(depth)
    tile = (
        geometry.input_size(wanted, depth)
        if padding == "valid"
        else max(wanted // stride, 1) * stride
    )
    return tile, geometry.output_size(tile, depth, padding)


def _optimizer(config: TrainConfig) -> keras.optimizers.Optimizer:
    if config.optimizer == "sgd":  # the paper, section 3
        return keras.optimizers.SGD(config.learning_rate, momentum=0.99, clipnorm=10.0)
    return keras.optimizers.AdamW(config.learning_rate, weight_decay=config.weight_decay)


def _loss(config: LossConfig) -> keras.losses.Loss:
    entropy = losses.WeightedCrossEntropy(label_smoothing=config.label_smoothing)
    terms, weights = [entropy], [1.0]
    for weight, term in ((config.dice, losses.Dice), (config.focal, losses.Focal)):
        if weight:
            terms.append(term())
            weights.append(weight)
    return entropy if len(terms) == 1 else losses.Sum(terms, weights)


def _compile_with_xla() -> bool:
    """XLA's convolutions on a CPU are several times slower than oneDNN's."""
    return bool(tf.config.list_physical_devices("GPU"))


def _run_folder(config: TrainConfig) -> Path:
    name = config.name or f"{config.data.images.resolve().name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = config.output / name
    if (folder / "config.toml").exists():
        raise ConfigError(f"{folder}: a run of this name is there already; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
