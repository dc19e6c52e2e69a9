"""Everything a run starts from, made of its configuration and its data; nothing is written."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf
from rich.console import Console

from keras_unet.augment import Augment, preset_settings
from keras_unet.data.normalization import Normalization
from keras_unet.data.pipeline import fill_bank, fitted, tile_entries
from keras_unet.data.reading import Sample
from keras_unet.data.report import DataReport
from keras_unet.data.targets import targets
from keras_unet.errors import ConfigError
from keras_unet.models.bundle import ModelCard, versions
from keras_unet.training import setup
from keras_unet.training.config import TrainConfig, to_tree
from keras_unet.training.run_folder import digests
from keras_unet.training.team import Team


class Prepared(NamedTuple):
    """A network, the model that trains it, its data from any step on, and what a run records."""

    network: keras.Model
    model: keras.Model
    data: Callable[[int], tf.data.Dataset]  # of the number of the first batch
    names: Callable[[int], list[str]]  # of the images in a batch
    validation: list[Sample]
    card: Callable[[str, dict[str, float]], ModelCard]  # of the run's name and scores
    report: DataReport
    digests: tuple[dict[str, str], dict[str, str]]  # of training and validation images


def prepare(
    config: TrainConfig,
    source: TrainConfig,
    policy: str,
    cache: Path,
    console: Console,
    team: Team,
) -> Prepared:
    """Reads the data, draws the first weights and compiles the step.

    Args:
        config: as the model's card shall have it. source: the same, with paths that hold here.
        policy: Keras dtype policy of the layers.
        cache: folder of weight maps. console: where to say what was found and chosen.
        team: the devices that train.

    Raises:
        ConfigError, DataError: see `train`.
    """
    if config.batch_size % team.replicas:
        raise ConfigError(
            f"batch_size={config.batch_size} cannot be shared equally by {team.replicas} devices: "
            f"set a multiple of {team.replicas}, or devices=one"
        )
    keras.utils.set_random_seed(config.seed)
    training, validation, report, mapping = setup.read_samples(source, console)
    names = setup.class_names(config, mapping)
    tile, output = setup.tile_size(config, training)
    settings = preset_settings(config.augment, **config.augment_options)
    augment = Augment(settings, tile=tile, output=output)
    normalization = config.data.normalization
    if not isinstance(normalization, Normalization):
        normalization = fitted(normalization, training)
    console.print(f"Tiles of {tile} → {output} pixels")
    loss = config.loss
    made = targets(
        training,
        len(names),
        w0=loss.w0,
        sigma=loss.sigma,
        class_weights=loss.class_weights,
        separation=loss.separation,
        cache=cache,
    )
    bank = fill_bank(training, made, normalization)
    entries = tile_entries([s.image.shape[:2] for s in training], output)
    network = setup.network(config, training[0].image.shape[-1], len(names), policy)
    foreground = setup.foreground(config, made)
    ready = setup.trainable(config, network, bank, augment, entries, foreground, team)
    sample_names, dtype = [s.name for s in training], str(training[0].image.dtype)

    def in_batch(number: int) -> list[str]:
        index = next(iter(ready.requests(number)))[0].numpy()
        return list(dict.fromkeys(sample_names[i] for i in index))

    def card(name: str, metrics: dict[str, float]) -> ModelCard:
        return ModelCard(
            name=name,
            classes=names,
            normalization=normalization,
            labels=mapping,
            image_dtype=dtype,
            separation=loss.separation,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            versions=versions(),
            config=to_tree(config),
            data=report.summary.model_dump(mode="json"),
            metrics=metrics,
        )

    hashes = digests(training), digests(validation)
    return Prepared(
        network,
        ready.model,
        ready.data,
        in_batch,
        validation,
        card,
        report,
        hashes,
    )


def environment(team: Team) -> dict[str, str]:
    """What a bit-identical end depends on, beside configuration and data."""
    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    named = ", ".join(str(d.get("device_name", "GPU")) for d in details)
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    device = named or f"{_cpu()}, {cores} cores"
    together = f"{team.machines} machines, {team.replicas} devices"
    return {**versions(), "device": device, "together": together}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
