"""Build of a run: its data, network, loss, optimizer and compiled step, from the configuration.

Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from keras_unet import geometry, machine, run_layout
from keras_unet.augment import Augment, preset_settings
from keras_unet.augment.image_bank import ImageBank
from keras_unet.console import say
from keras_unet.data.check import DataReport, Loaded, load_samples, shared_images
from keras_unet.data.class_names import find_class_names
from keras_unet.data.copy_paste import composed
from keras_unet.data.label_rule import LabelMapping, default_classes
from keras_unet.data.normalization import Normalization
from keras_unet.data.partial_labels import LabelledPlaces
from keras_unet.data.pipeline import (
    ForegroundPixels,
    Target,
    fill_bank,
    fitted,
    for_partial_labels,
    foreground_pixels,
    targets,
    tile_dataset,
    tile_entries,
    tile_requests,
)
from keras_unet.data.samples import Sample
from keras_unet.errors import ConfigError
from keras_unet.evaluation.decoding_fit import guessed_decoding, object_sizes
from keras_unet.losses.table import training_loss
from keras_unet.models.keras_file import ModelCard, library_versions
from keras_unet.models.unet import build_unet, head_weights, with_heads
from keras_unet.settings import to_tree
from keras_unet.training.ancestor import Ancestor, Weights, freeze_contracting, take
from keras_unet.training.config import TrainConfig, make_config
from keras_unet.training.distributed.cluster import Cluster
from keras_unet.training.distributed.step import ParallelStep, on_each
from keras_unet.training.run_folder import digests
from keras_unet.training.splits import divide, require_classes
from keras_unet.training.step import FusedAdamW, TrainingStep, WeightAverage

Digests = tuple[dict[str, str], dict[str, str]]  # of training and validation images


class Task(NamedTuple):
    """What is built: the settings as the model's card has them, and with paths that hold here."""

    config: TrainConfig
    source: TrainConfig
    policy: str  # the layers' dtypes
    ancestor: Ancestor | None = None  # of `config.init`

    def to_tree(self) -> dict[str, Any]:
        config, source = to_tree(self.config), to_tree(self.source)
        ancestor = self.ancestor and self.ancestor.model_dump(mode="json")
        return {"config": config, "source": source, "policy": self.policy, "ancestor": ancestor}

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> Task:
        """From `to_tree`."""
        config, source = make_config(tree["config"]), make_config(tree["source"])
        ancestor = tree["ancestor"] and Ancestor.model_validate(tree["ancestor"])
        return cls(config, source, tree["policy"], ancestor)


class Built(NamedTuple):
    """A network, the model that trains it, its data from any step on, and what a run records."""

    network: Callable[[], keras.Model]  # as it is kept: the average's, if there is one
    model: keras.Model
    average: WeightAverage | None  # of the network's weights, if that is what is kept
    data: Callable[[int], tf.data.Dataset]  # of the number of the first batch
    names: Callable[[int], list[str]]  # of the images in a batch
    training: list[Sample]
    validation: list[Sample]
    card: Callable[[str, dict[str, float]], ModelCard]  # of the run's name and scores
    report: DataReport
    digests: Digests
    cluster: Cluster  # that trains
    tile: int  # of the input, in pixels


def build(
    task: Task,
    output: Path,
    console: Console,
    cluster: Cluster,
    loaded: Loaded | None = None,
    weights: Weights | None = None,
) -> Built:
    """Reads the data, draws or takes the first weights and compiles the step.

    Args:
        task: what to build.
        output: folder of the run's folder; the cache of weight maps is in it.
        console: where to say what was found and chosen.
        cluster: the devices that train.
        loaded: the training images, where they were read already.
        weights: of the task's ancestor; None where a checkpoint or another machine has them.

    Raises:
        ConfigError, DataError: see `train`.
    """
    config, loss = task.config, task.config.loss
    if config.batch_size % cluster.replicas:
        raise ConfigError(
            f"batch_size={config.batch_size} cannot be shared equally by {cluster.replicas} "
            f"devices: set a multiple of {cluster.replicas}, or devices=one"
        )
    keras.utils.set_random_seed(config.seed)
    training, validation, report, mapping = read_samples(task.source, console, loaded)
    names = _class_names(task.source, mapping, console)
    tile, size = tile_size(config, training)
    settings = preset_settings(config.augment, **config.augment_options)
    augment = Augment(settings, tile=tile, output=size)
    normalization = config.data.normalization
    if not isinstance(normalization, Normalization):
        normalization = fitted(normalization, training)
    say(f"Tiles of {tile} → {size} pixels", console=console)
    drawn_from = with_composed(config, training, mapping, console)
    made = targets(
        drawn_from,
        len(names),
        w0=loss.w0,
        sigma=loss.sigma,
        class_weights=loss.class_weights,
        separation=loss.separation,
        cache=output / run_layout.WEIGHT_MAPS,
    )
    made, places = for_partial_labels(drawn_from, made, size)
    if places is not None:
        say(places.describe(), console=console)
    bank = fill_bank(drawn_from, made, normalization)
    entries = tile_entries([s.image.shape[:2] for s in drawn_from], size, places)
    network = build_network(config, training[0].image.shape[-1], len(names), task.policy)
    kept = inherit(network, task, weights, console)
    centres = foreground_centres(config, made)
    ready = trainable(config, network, bank, augment, entries, centres, places, cluster)
    average = None
    if config.ema_decay:
        average = WeightAverage(network, ready.model.optimizer, config.ema_decay)
        kept = average.network
    sizes = object_sizes(training) if mapping.kind == "instances" else None
    sample_names, dtype = [s.name for s in drawn_from], str(training[0].image.dtype)

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
            versions=library_versions(),
            config=to_tree(config),
            data=report.summary.model_dump(mode="json"),
            metrics=metrics,
            objects=None if sizes is None else guessed_decoding(sizes),
            diameter=None if sizes is None else sizes.diameter,
            diameter_range=None if sizes is None else sizes.diameter_range,
            pixel_size=common_pixel_size(training),
            ancestor=task.ancestor and task.ancestor.name,
        )

    return Built(
        kept,
        ready.model,
        average,
        ready.data,
        in_batch,
        training,
        validation,
        card,
        report,
        (digests(training), digests(validation)),
        cluster,
        tile,
    )


def inherit(
    network: keras.Model, task: Task, weights: Weights | None, console: Console
) -> Callable[[], keras.Model]:
    """Gives a network what it takes of the task's ancestor, and freezes what shall stay.

    Returns:
        What makes the network to be kept: where layers are frozen, a twin of which none is.
    """
    if task.ancestor is None:
        return lambda: network
    if weights is not None:
        say(take(network, task.ancestor, weights), console=console)
    if task.config.freeze == "none":
        return lambda: network
    twin = keras.models.clone_model(network)
    count = freeze_contracting(network, task.ancestor)
    say(f"{count} layers of the contracting path stay as they are", console=console)

    def thawed() -> keras.Model:
        twin.set_weights(network.get_weights())
        return twin

    return thawed


def environment(machines: int = 1, replicas: int = 1) -> dict[str, str]:
    """What a bit-identical end depends on, beside configuration and data."""
    named = ", ".join(str(gpu.get("device_name", "GPU")) for gpu in machine.gpus())
    device = named or f"{machine.cpu_name()}, {machine.cores()} cores"
    together = f"{machines} machines, {replicas} devices"
    return {**library_versions(), "device": device, "together": together}


def read_samples(
    config: TrainConfig, console: Console, loaded: Loaded | None = None
) -> tuple[list[Sample], list[Sample], DataReport, LabelMapping]:
    """Reads and checks both sets: (training, validation, report, how labels were read).

    loaded: what is in `data.images`, where that was read already.
    """
    data = config.data
    samples, report = loaded or load_samples(data.images, data.labels, data.rule, need_labels=True)
    mapping = report.mapping
    assert mapping is not None  # there are labels
    say(report.to_text(), "dim", console)
    if isinstance(data.validation, Path):
        held_out, held_report = load_samples(
            data.validation, data.validation_labels, mapping.as_rule(), need_labels=True
        )
        say(f"validation: {held_report.to_text()}", "dim", console)
        for _, other in shared_images(report, held_report):
            said = f"{other} is in the training and in the validation images"
            say(said, "yellow", console)
        channels = [s[0].image.shape[-1] for s in (samples, held_out)]
        if channels[0] != channels[1]:
            raise ConfigError(
                f"{data.validation}: images have {channels[1]} channels, "
                f"the training images {channels[0]}"
            )
    else:
        samples, held_out = divide(samples, data, config.seed)
    require_classes(samples, held_out, mapping.values)
    say(f"{len(samples)} training and {len(held_out)} validation images", console=console)
    return samples, held_out, report, mapping


def _class_names(config: TrainConfig, mapping: LabelMapping, console: Console) -> tuple[str, ...]:
    """The names given, or those of a file beside the data, or made up."""
    data = config.data
    if data.class_names is None:
        found = find_class_names(data.images, data.labels, count=mapping.num_classes)
        if found is not None:
            say(f"{found}", console=console)
            return found.names
    return class_names(config, mapping)


def with_composed(
    config: TrainConfig, training: list[Sample], mapping: LabelMapping, console: Console
) -> list[Sample]:
    """The training images, and as many composed ones as `paste` asks for.

    Raises:
        ConfigError: it asks for some, and the labels are not instances.
    """
    if not config.paste:
        return training
    if mapping.kind != "instances":
        raise ConfigError(
            f"paste={config.paste:g} pastes objects, the labels are classes; expected labels of "
            'objects (data.label_kind = "instances"), or paste=0'
        )
    more = composed(training, config.paste, config.seed)
    say(f"{len(more)} more images, with objects of others pasted in", console=console)
    return [*training, *more]


def class_names(config: TrainConfig, mapping: LabelMapping) -> tuple[str, ...]:
    """The names given, or made up."""
    names = config.data.class_names
    if names is None:
        return default_classes(mapping.num_classes)
    if len(names) != mapping.num_classes:
        raise ConfigError(
            f"data.class_names has {len(names)} names {names}, "
            f"the labels have {mapping.num_classes} classes"
        )
    return names


def common_pixel_size(samples: Sequence[Sample]) -> float | None:
    """Micrometres, where all files state the same (within 1 %) of square pixels; else None."""
    stated = [s.pixel_size for s in samples]
    if any(size is None for size in stated):
        return None
    lengths = np.array([(size.height, size.width) for size in stated if size is not None])
    alike = lengths.max() <= 1.01 * lengths.min()
    return float(f"{np.median(lengths):.4g}") if alike else None


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


def build_network(config: TrainConfig, channels: int, num_classes: int, policy: str) -> keras.Model:
    """The U-Net to be trained."""
    shape = (None, None, channels)
    return build_unet(shape, num_classes, **config.model.network, dtype=policy)


class Trainable(NamedTuple):
    """The model to train, compiled and its optimizer built, and its data from any batch on."""

    model: keras.Model
    data: Callable[[int], tf.data.Dataset]  # this machine's part
    requests: Callable[[int], tf.data.Dataset]  # which images' tiles all parts are drawn from


def trainable(
    config: TrainConfig,
    network: keras.Model,
    bank: ImageBank,
    augment: Augment,
    entries: np.ndarray,
    foreground: ForegroundPixels | None = None,
    places: LabelledPlaces | None = None,
    cluster: Cluster | None = None,
) -> Trainable:
    """What trains a network; `data` and `requests` take the number of their first batch."""
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    cluster = cluster or Cluster()
    policy = network.get_layer("down1_conv1").dtype_policy.name
    loss: Any = training_loss(
        config.loss.added, label_smoothing=config.loss.label_smoothing, devices=cluster.replicas
    )
    loss_weights, adapt = None, None
    if config.model.deep_supervision and config.model.depth > 1:  # depth 1 has no other level
        network = with_heads(network)
        count = len(network.outputs)
        loss, loss_weights = [loss] * count, head_weights(count)

        def adapt(x: Any, y: Any, w: Any) -> tuple[Any, Any, Any]:
            return x, (y,) * count, (w,) * count

    options: dict[str, Any] = {"batch_size": config.batch_size, "seed": config.seed}
    options |= {"foreground": foreground, "places": places}

    def requests(start: int, part: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
        return tile_requests(entries, **options, start=start, part=part)

    def draw(index: Any, seeds: Any, centre: Any = None) -> tuple[Any, Any, Any]:
        tiles = augment.sample(banks[cluster.replica() % len(banks)], index, seeds, centre=centre)
        return tiles if adapt is None else adapt(*tiles)

    def data(start: int) -> tf.data.Dataset:
        part = (cluster.rank, cluster.machines)
        if in_step:
            return requests(start, part).prefetch(2)
        tiles = tile_dataset(bank, augment, entries, **options, start=start, part=part)
        return tiles if adapt is None else tiles.map(adapt)

    in_step = config.augment_on == "accelerator" or (config.augment_on == "auto" and has_gpu)
    banks = on_each(bank, cluster) if in_step else [bank]
    drawn = draw if in_step else None
    if cluster.strategy is None:
        model = TrainingStep(network, drawn)
    else:
        model = ParallelStep(network, drawn, cluster, synchronized=config.sync_batch_norm)
    # XLA's convolutions are several times slower than oneDNN's on a CPU, and it knows no exchange
    jit = has_gpu and cluster.strategy is None
    model.compile(make_optimizer(config, policy), loss, loss_weights=loss_weights, jit_compile=jit)
    model.optimizer.build(model.trainable_variables)
    _build_metrics(model)
    return Trainable(model, data, requests)


def _build_metrics(model: keras.Model) -> None:
    """Makes the variables of the losses' means now; Keras would in the first step, after a restore.

    A network of several outputs has one for each.
    """
    given = [keras.ops.zeros((1, 1, 1, output.shape[-1])) for output in model.outputs]
    truth = [keras.ops.zeros((1, 1, 1), "int32") for _ in given]
    weight = [keras.ops.zeros((1, 1, 1)) for _ in given]
    several = [tuple(part) if len(given) > 1 else part[0] for part in (truth, given, weight)]
    model.compute_loss(None, *several)
    model.reset_metrics()


def foreground_centres(config: TrainConfig, made: Sequence[Target]) -> ForegroundPixels | None:
    """Where tiles are centred that `oversample` asks for."""
    if not config.oversample:
        return None
    labelled = [np.where(t.weight > 0, t.classes, 0) for t in made]
    return foreground_pixels(labelled, config.oversample, config.seed)


def make_optimizer(config: TrainConfig, policy: str) -> keras.optimizers.Optimizer:
    """AdamW, SGD with momentum (the paper, section 3) or Nesterov's.

    Clipping is by the norm of all gradients together, after accumulation. The learning rate is set
    before each step by `callbacks.Budget`.

    Args:
        config: `optimizer`, `learning_rate`, `momentum`, `weight_decay`, `gradient_clip`,
            `accumulate`.
        policy: the layers' dtype policy; under "mixed_float16" the loss is scaled, and a step
            whose gradients overflow is left out and the scale halved.
    """
    options: dict[str, Any] = {
        "global_clipnorm": config.gradient_clip,
        "gradient_accumulation_steps": config.accumulate if config.accumulate > 1 else None,
    }
    if config.optimizer == "adam":
        made = FusedAdamW(config.learning_rate, config.weight_decay, **options)
    else:
        if nesterov := config.optimizer == "nesterov":
            options["weight_decay"] = config.weight_decay
        made = keras.optimizers.SGD(
            config.learning_rate, momentum=config.momentum, nesterov=nesterov, **options
        )
    return keras.optimizers.LossScaleOptimizer(made) if policy == "mixed_float16" else made
