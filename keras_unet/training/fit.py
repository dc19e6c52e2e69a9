"""`train`: from a folder of images and labels to a trained model, its scores and its pictures."""

from __future__ import annotations

import platform
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf
import tomli_w
from rich.console import Console

from keras_unet import __version__
from keras_unet.augment import Augment, preset_settings
from keras_unet.data.normalization import Normalization
from keras_unet.data.pipeline import fill_bank, tile_entries
from keras_unet.data.reading import Sample
from keras_unet.data.targets import targets
from keras_unet.errors import ConfigError
from keras_unet.evaluation import pictures
from keras_unet.evaluation.scoring import Evaluation, evaluate_samples, write_evaluation
from keras_unet.models.bundle import ModelCard, TrainedModel, load_model, save_model
from keras_unet.training import callbacks as own
from keras_unet.training import setup
from keras_unet.training.config import TrainConfig, make_config, to_tree
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
        config: a `TrainConfig`, or a mapping that makes one.
        console: where progress goes; None prints to the terminal.

    Raises:
        ConfigError: a setting does not fit, or does not fit the data.
        DataError: images or labels cannot be used; names every bad file. Nothing is written then.
    """
    if not isinstance(config, TrainConfig):
        config = make_config(config)
    console = console or Console(highlight=False)
    keras.utils.set_random_seed(config.seed)

    training, validation, report, mapping = setup.read_samples(config, console)
    names = setup.class_names(config, mapping)
    tile, output = setup.tile_size(config, training)
    settings = preset_settings(config.augment, **config.augment_options)
    augment = Augment(settings, tile=tile, output=output)
    normalization = Normalization.fit(config.data.normalization, [s.image for s in training])
    policy, why = dtype_policy(config.precision)
    console.print(f"Tiles of {tile} → {output} pixels, {policy} ({why})")
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
    bank = fill_bank(training, made, normalization)
    entries = tile_entries([s.image.shape[:2] for s in training], output)
    channels, dtype = training[0].image.shape[-1], str(training[0].image.dtype)
    network = setup.network(config, channels, len(names), policy)
    trainable, dataset = setup.trainable(config, network, bank, augment, entries)
    del training, made  # the bank holds them now

    folder = _run_folder(config)
    (folder / "config.toml").write_text(tomli_w.dumps(to_tree(config)), encoding="utf-8")
    (folder / "data.json").write_text(report.to_json() + "\n", encoding="utf-8")

    def bundle(metrics: dict[str, float]) -> TrainedModel:
        card = ModelCard(
            name=folder.name,
            classes=names,
            normalization=normalization,
            labels=mapping,
            image_dtype=dtype,
            separation=loss.separation,
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

    interrupted = _fit(config, trainable, dataset, validation, bundle, folder, console)
    model = load_model(folder)
    evaluation = evaluate_samples(model, validation, output=folder)
    write_evaluation(model, evaluation, folder)
    pictures.curves(folder / "history.csv", folder / "curves.png")
    return TrainResult(folder, model, evaluation, interrupted)


def _fit(
    config: TrainConfig,
    network: keras.Model,
    dataset: tf.data.Dataset,
    validation: Sequence[Sample],
    bundle: Callable[[dict[str, float]], TrainedModel],
    folder: Path,
    console: Console,
) -> bool:
    """Runs `model.fit`; True if it was interrupted from the keyboard."""
    card = bundle({}).card
    budget = own.Budget(config.learning_rate, config.steps, config.time_limit)
    monitor = f"val_{config.monitor}"
    progress = own.ShowProgress(budget, console)
    callbacks: list[keras.callbacks.Callback] = [
        budget,
        own.StopWhereNotFinite(),
        own.KeepLast(folder, bundle),
        own.Validation(validation, card.normalization, len(card.classes), card.separation),
        own.KeepBest(folder, monitor, bundle),
        keras.callbacks.CSVLogger(folder / "history.csv"),
        keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False),
        progress,
    ]
    if config.patience:
        callbacks.append(
            keras.callbacks.EarlyStopping(monitor, mode="max", patience=config.patience)
        )
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
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C is one too many
        progress.close()
        console.print(f"[yellow]Interrupted at step {budget.done}[/]: keeping what was learned")
        model = bundle({"step": float(budget.done)})
        save_model(model, folder / "last.keras")
        if not (folder / "best.keras").is_file():
            save_model(model, folder / "best.keras")
        signal.signal(signal.SIGINT, before)
        return True
    finally:
        progress.close()
    return False


def _run_folder(config: TrainConfig) -> Path:
    name = config.name or f"{config.data.images.resolve().name}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = config.output / name
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ConfigError(
            f"{folder}: a run of this name is there already; choose another name"
        ) from None
    return folder
