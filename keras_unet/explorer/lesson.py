"""Lesson of one image: what each pixel costs, one step of gradient descent, one warped copy."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_unet.augment.draws import Intensity, draw, sample_seeds
from keras_unet.augment.field import Field, make_field
from keras_unet.augment.intensity import apply_intensity, batch_statistics
from keras_unet.augment.resample import batch_source, locate, read_bilinear, read_nearest
from keras_unet.augment.settings import AugmentSettings
from keras_unet.data.label_rule import IGNORED, LabelMapping, LabelRule
from keras_unet.errors import ConfigError, DataError
from keras_unet.explorer.network import Network
from keras_unet.losses.cross_entropy import WeightedCrossEntropy
from keras_unet.models.model_card import ModelCard
from keras_unet.weight_maps import separate_cells, weight_map

_MOVED = 8  # single weights that are listed
_CONTEXT = 64  # pixels around a tile's answer in which cells count for the weight map
_LATTICE, _OUTLINE = (255, 176, 0), (31, 208, 255)  # as in `keras-unet augment`


class Targets(NamedTuple):
    """What a tile's answer is compared with.

    classes: int32 [h, w]; pixels that do not count are -1.
    weight: float32 [h, w], equation 2 of the paper.
    """

    classes: np.ndarray
    weight: np.ndarray


def mapping_for(card: ModelCard, labels: np.ndarray, instances: bool) -> LabelMapping:
    """How labels become classes: as in the model's training, or as the person states."""
    rule = card.labels.as_rule()
    if instances:
        rule = LabelRule(kind="instances", ignore=card.labels.ignore)
    try:
        return rule.resolve(np.unique(labels).tolist())
    except DataError as error:
        raise DataError(
            f"the labels do not fit the model: {error}; if each number is one object, give "
            "--instances"
        ) from error


def targets(
    card: ModelCard,
    mapping: LabelMapping,
    labels: np.ndarray,
    origin: tuple[int, int],
    size: tuple[int, int],
) -> Targets:
    """Classes and weights of the pixels that a tile answers for.

    Args:
        labels: int [H, W], as stored, of the whole image.
        origin: the answer's first pixel (y, x), in the image. size: its height and width. What lies
            outside of the image does not count.
    """
    height, width = labels.shape
    top, left = (max(o - _CONTEXT, 0) for o in origin)
    bottom = min(origin[0] + size[0] + _CONTEXT, height)
    right = min(origin[1] + size[1] + _CONTEXT, width)
    part = labels[top:bottom, left:right]
    classes, objects = mapping.classes(part), mapping.instances(part)
    if objects is not None:  # touching cells are told apart by a line of background
        cells = separate_cells(objects, card.separation)
        classes = np.where(classes < 0, IGNORED, cells > 0).astype(np.int32)
        weight = weight_map(objects, separation=card.separation, classes=classes)
    else:
        weight = weight_map((classes > 0).astype(np.int32), separation=0, classes=classes)
    out = Targets(np.full(size, IGNORED, np.int32), np.zeros(size, np.float32))
    y0, x0 = max(origin[0], 0), max(origin[1], 0)
    y1, x1 = min(origin[0] + size[0], height), min(origin[1] + size[1], width)
    there = np.s_[y0 - origin[0] : y1 - origin[0], x0 - origin[1] : x1 - origin[1]]
    here = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    out.classes[there], out.weight[there] = classes[here], weight[here]
    return out


def cross_entropy(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """−log p of each pixel's true class, float32 [h, w]; 0 where pixels do not count."""
    loss = WeightedCrossEntropy(ignore_class=IGNORED, reduction=None)
    return np.asarray(loss(classes[None], logits[None]))[0]


def gradient_step(network: Network, tile: np.ndarray, goal: Targets, rate: float) -> dict[str, Any]:
    """One step of plain gradient descent on this tile: every weight −= rate · slope.

    The loss is the mean of the cross-entropy under the weight map. Dropout is off, and batch
    normalization keeps its running numbers, so that the loss is that of the network as it is used.

    Returns:
        "before" and "after", the loss; "layers", how far each layer's weights moved, in percent of
        their length; "moved", the single weights that moved most.
    """
    if not 0 < rate <= 10:
        raise ConfigError(f"rate must be above 0 and at most 10, got {rate!r}")
    loss = WeightedCrossEntropy(ignore_class=IGNORED, reduction="mean_with_sample_weight")
    x, y, weight = (tf.convert_to_tensor(part[None]) for part in (tile, *goal))

    def value() -> tf.Tensor:
        return loss(y, network.logits(x, training=False), sample_weight=weight)

    variables = network.logits.trainable_variables
    with tf.GradientTape() as tape:
        before = value()
    slopes = tape.gradient(before, [one.value for one in variables])
    kept = [one.numpy() for one in variables]
    layers, moved = [], []
    for variable, slope in zip(variables, slopes, strict=True):
        old, change = variable.numpy(), -rate * slope.numpy()
        variable.assign(old + change)
        layer, kind = variable.path.split("/")[-2:]
        share = float(np.linalg.norm(change)) / max(float(np.linalg.norm(old)), 1e-12)
        if kind != "bias":
            layers.append({"layer": layer, "weights": int(change.size), "percent": 100 * share})
        for flat in np.argsort(-np.abs(change), axis=None)[:_MOVED]:
            at = np.unravel_index(flat, change.shape)
            moved.append(
                {
                    "layer": layer,
                    "kind": kind,
                    "at": [int(i) for i in at],
                    "before": float(old[at]),
                    "after": float(old[at] + change[at]),
                }
            )
    after = float(value())
    if not math.isfinite(after):
        for variable, old in zip(variables, kept, strict=True):
            variable.assign(old)
        raise ConfigError(
            f"a step of rate {rate:g} is too long, the loss is no number after it: the weights are "
            "as before; take a smaller rate"
        )
    moved.sort(key=lambda one: -abs(one["after"] - one["before"]))
    return {
        "before": float(before),
        "after": after,
        "rate": rate,
        "layers": layers,
        "moved": moved[:_MOVED],
    }


class Warped(NamedTuple):
    """A warped copy of an image.

    image: float32 [H, W, C]. labels: int32 [H, W], or None. places: where each pixel was read, in
    pixels (y, x), float32 [H, W, 2].
    """

    image: np.ndarray
    labels: np.ndarray | None
    places: np.ndarray


def warp(
    image: np.ndarray, labels: np.ndarray | None, settings: AugmentSettings, seed: int
) -> Warped:
    """One draw of the augmentation, as `Augment` makes it of the same seed.

    `Augment` is compiled for its settings, which here change at every frame: so that what was drawn
    goes into a graph that is compiled once for a size of image. Blur and low resolution, whose
    kernels the graph would depend on, are left out.

    Args:
        image: [H, W, C] of any real type. labels: integers [H, W], or None.
        settings: see `AugmentSettings`. seed: which draw.
    """
    neutral = {
        name: limits
        for name, limits in _NEUTRAL.items()
        if getattr(settings, name) is None or getattr(settings, f"{name}_p") == 0
    }
    always = {f"{name}_p": 1.0 for name in neutral}
    settings = settings.model_copy(
        update={**neutral, **always, "blur": None, "low_resolution": None, "gamma_inverted_p": 0.0}
    )
    seeds = sample_seeds(0, 0, seed)
    geometry, intensity = draw(settings, seeds, image.shape[-1])
    field = make_field(geometry, tf.zeros([1, 2], tf.int32), *image.shape[:2])
    more = max(0, _TERMS - field.columns.shape[0])  # a grid of any size fits one graph
    rows = tf.pad(field.rows, [[0, 0], [0, 0], [0, 0], [0, more]])
    columns = tf.pad(field.columns, [[0, more], [0, 0]])
    kept = np.zeros(image.shape[:2], np.int32) if labels is None else labels.astype(np.int32)
    found = _render(image[None].astype(np.float32), kept[None], rows, columns, intensity, seeds)
    new, label, places = (one.numpy()[0] for one in found)
    return Warped(new, None if labels is None else label, places)


_NEUTRAL = {
    "multiply": (1.0, 1.0),
    "brightness": (0.0, 0.0),
    "contrast": (1.0, 1.0),
    "gamma": (1.0, 1.0),
    "noise": (0.0, 0.0),
}
_TERMS = 12  # of a coordinate field: the affine map's two and a row or column of the grid


@tf.function(jit_compile=True, autograph=False, reduce_retracing=False)
def _render(
    image: Any, label: Any, rows: Any, columns: Any, intensity: Intensity, seeds: Any
) -> tuple[Any, Any, Any]:
    source, _ = batch_source(image, label, None)
    y, x = Field(rows, columns).coordinates()
    cells = locate(y, x, source)
    new = read_bilinear(source.image, cells, source)
    new = apply_intensity(new, intensity, batch_statistics(image), seeds)
    return new, read_nearest(source.label, cells, source), tf.stack([y, x], axis=-1)


def draw_warp(
    pixels: np.ndarray,
    places: np.ndarray,
    labels: np.ndarray | None,
    low: float,
    high: float,
    spacing: int,
) -> Image.Image:
    """The warped image with its lattice (amber) and the outlines of its labels (light blue).

    Args:
        pixels: [H, W, C]. places, labels: see `Warped`. low, high: shown black and white.
        spacing: of the lattice, in pixels of the image before; 0: none.
    """
    grey = np.clip((pixels - low) * (255.0 / max(high - low, 1e-12)), 0, 255).astype(np.uint8)
    shown = np.repeat(grey[..., :1], 3, axis=-1) if grey.shape[-1] < 3 else grey[..., :3].copy()
    if spacing:
        cells = np.floor(places / spacing - 0.5).astype(np.int32)
        shown[_edges(cells[..., 0]) | _edges(cells[..., 1])] = _LATTICE
    if labels is not None:
        shown[_edges(labels)] = _OUTLINE
    return Image.fromarray(shown)


def _edges(numbers: np.ndarray) -> np.ndarray:
    """Where a number differs from that to the right or below: bool [H, W]."""
    out = np.zeros(numbers.shape, bool)
    out[:-1] |= numbers[1:] != numbers[:-1]
    out[:, :-1] |= numbers[:, 1:] != numbers[:, :-1]
    return out
