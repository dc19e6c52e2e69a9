"""The tf.data pipeline: augmented tiles (x, y, w) from images held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_unet import geometry
from keras_unet.augment import Augment, sample_seeds
from keras_unet.data.bank import ImageBank
from keras_unet.data.foreground import ForegroundPixels
from keras_unet.data.label_rule import LabelRule
from keras_unet.data.nodata import filled
from keras_unet.data.normalization import Method, Normalization
from keras_unet.data.samples import Sample, load_samples
from keras_unet.data.targets import ClassWeights, Target, targets


def load_dataset(
    images: str | Path,
    labels: str | Path | None = None,
    *,
    rule: LabelRule | None = None,
    normalization: Method | Normalization = "image",
    tile: int = 572,
    depth: int = 4,
    padding: geometry.Padding = "valid",
    batch_size: int = 1,
    augment: str | Augment = "paper",
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weights: ClassWeights = "balanced",
    separation: int = 2,
    seed: int = 0,
) -> tf.data.Dataset:
    """Endless random tiles of a labelled data set, ready for `model.fit(…, steps_per_epoch=…)`.

    Args:
        images, labels: a folder with `images/` and `labels/`, two folders, or two TIFF stacks.
        rule: what the labels' numbers mean; None: class numbers, 0 the background.
        normalization: a method that is fitted to these images, or one fitted before.
        tile: input tile in pixels; a legal size of a U-Net of `depth` and `padding`.
        augment: a preset of `keras_unet.augment`, or an `Augment`, used as it is.
        w0, sigma, class_weights, separation: of the weight map, see `keras_unet.weight_map`.
        seed: the same seed gives the same tiles in the same order.

    Returns:
        Batches of image [B, tile, tile, C] float32, class [B, H', W'] int32 and weight
        [B, H', W'] float32, H' = W' the network's output size.

    Raises:
        DataError: an image or label file cannot be used; names every bad file.
        ConfigError: an illegal tile or setting.
    """
    output = geometry.output_size(tile, depth, padding)
    samples, report = load_samples(images, labels, rule, need_labels=True)
    assert report.mapping is not None  # there are labels
    if not isinstance(normalization, Normalization):
        normalization = fitted(normalization, samples)
    made = targets(
        samples,
        report.mapping.num_classes,
        w0=w0,
        sigma=sigma,
        class_weights=class_weights,
        separation=separation,
    )
    if isinstance(augment, str):
        augment = Augment.from_preset(augment, tile=tile, output=output)
    bank = fill_bank(samples, made, normalization)
    entries = tile_entries([s.image.shape[:2] for s in samples], output)
    return tile_dataset(bank, augment, entries, batch_size=batch_size, seed=seed)


def fitted(method: Method, samples: Sequence[Sample]) -> Normalization:
    """What `method` learns from the measured pixels of a training set."""
    if method == "range":  # it asks for the type that was stored
        return Normalization.fit(method, (s.image for s in samples))
    return Normalization.fit(method, (s.measured for s in samples))


def fill_bank(
    samples: Sequence[Sample], made: Sequence[Target], normalization: Normalization
) -> ImageBank:
    """Images, classes and weights of a training set as one bank of flat tensors."""
    parameters = [normalization.parameters(s.measured) for s in samples]
    dtypes = {s.image.dtype for s in samples}
    kept = dtypes & {np.dtype(np.uint8), np.dtype(np.uint16)}  # others are held as float32
    common = kept.pop() if len(dtypes) == len(kept) == 1 else np.dtype(np.float32)
    return ImageBank.from_arrays(
        [
            filled(s.image.astype(common, copy=False), s.missing, shift)
            for s, (shift, _) in zip(samples, parameters, strict=True)
        ],
        [t.classes for t in made],
        [t.weight for t in made],
        shift=np.stack([shift for shift, _ in parameters]),
        scale=np.stack([scale for _, scale in parameters]),
        missing=[s.missing for s in samples],
    )


def tile_entries(sizes: Sequence[tuple[int, int]], output: int) -> np.ndarray:
    """Which image each tile of an epoch is drawn from: one per output tile that it has room for."""
    counts = [max(1, round(h * w / output**2)) for h, w in sizes]
    return np.repeat(np.arange(len(sizes), dtype=np.int32), counts)


def tile_requests(
    entries: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    foreground: ForegroundPixels | None = None,
    part: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Endless batches of (index int32 [B], seeds int32 [B, 2]): which tiles to draw, in order.

    Every image of `entries` comes once an epoch, shuffled. A request depends on (seed, epoch,
    place in the epoch) alone, not on threads or restarts. With `foreground`, there is a third part,
    centre int32 [B, 2], and a share of the requests is centred on a pixel of a drawn class.
    `start` is the first batch's number: a resumed run goes on where it was. `part` (i, n) gives the
    i-th of n equal parts of each batch, for the i-th of n machines.
    """
    count, rows = len(entries), batch_size // part[1]
    table = tf.constant(entries)

    @tf.autograph.experimental.do_not_convert
    def request(first: Any) -> tuple[Any, ...]:
        number = first + tf.range(rows, dtype=tf.int64)
        epoch, place = number // count, number % count
        # the wrapper tf.random.experimental.index_shuffle pads a batch of seeds on the wrong axis
        key = tf.stack([tf.fill([rows], tf.cast(seed, tf.int64)), epoch, 0 * epoch], axis=1)
        order = tf.raw_ops.RandomIndexShuffle(
            index=place, seed=key, max_index=tf.constant(count - 1, tf.int64), rounds=4
        )
        seeds = sample_seeds(seed, tf.cast(epoch, tf.int32), tf.cast(place, tf.int32))
        index = tf.gather(table, order)
        if foreground is None:
            return index, seeds
        index, centre = foreground.choose(index, seeds)
        return index, seeds, centre

    first = start * batch_size + part[0] * rows
    return tf.data.Dataset.counter(first, batch_size).map(request)


def tile_dataset(
    bank: ImageBank,
    augment: Augment,
    entries: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    foreground: ForegroundPixels | None = None,
    part: tuple[int, int] = (0, 1),
    parallel: int = 2,
) -> tf.data.Dataset:
    """Endless batches of augmented tiles (x, y, w), drawn on the CPU beside the training step.

    Arguments as of `tile_requests`; `parallel` batches are drawn at a time.
    """

    @tf.autograph.experimental.do_not_convert
    def draw(index: Any, seeds: Any, centre: Any = None) -> tuple[Any, Any, Any]:
        return augment.sample(bank, index, seeds, centre=centre)

    requests = tile_requests(
        entries, batch_size=batch_size, seed=seed, start=start, foreground=foreground, part=part
    )
    return requests.map(draw, num_parallel_calls=parallel, deterministic=True).prefetch(2)
