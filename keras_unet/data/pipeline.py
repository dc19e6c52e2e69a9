"""tf.data pipeline: class and weight maps of labels, then tiles (x, y, w) of images in memory."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from keras_unet import geometry
from keras_unet.augment import Augment, sample_seeds
from keras_unet.augment.draws import below, sample_bits, uniform
from keras_unet.augment.image_bank import ImageBank
from keras_unet.data.check import load_samples
from keras_unet.data.label_rule import LabelRule
from keras_unet.data.normalization import Normalization, NormalizationMethod
from keras_unet.data.partial_labels import (
    LabelledPlaces,
    known_components,
    nearest_class,
    places_of_tiles,
)
from keras_unet.data.samples import Sample
from keras_unet.data.stored_pixels import filled
from keras_unet.disk import replacing
from keras_unet.errors import ConfigError, DataError
from keras_unet.weight_maps import balanced_class_weights, border_weights, separate_cells

Tensor = Any
ClassWeights = Literal["balanced", "none"] | tuple[float, ...]

BORDER_VERSION = 2  # of the border weights in the cache: another number when they change
STREAM = 1 << 17  # apart from the streams of the augmentation's draws, see `augment.draws`
MOST_FOREGROUND = 1 << 22  # pixels in the table: 32 MiB


def load_dataset(
    images: str | Path,
    labels: str | Path | None = None,
    *,
    rule: LabelRule | None = None,
    normalization: NormalizationMethod | Normalization = "image",
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
        augment: a preset of `keras_unet.augment`, or an `Augment`; one without a tile of its own
            gets these.
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
    made, places = for_partial_labels(samples, made, output)
    if isinstance(augment, str):
        drawn = Augment.from_preset(augment, tile=tile, output=output)
    elif (config := augment.get_config())["tile"] is None:
        drawn = Augment.from_config({**config, "tile": tile, "output": output})
    else:
        drawn = augment
    bank = fill_bank(samples, made, normalization)
    entries = tile_entries([s.image.shape[:2] for s in samples], output, places)
    return tile_dataset(bank, drawn, entries, batch_size=batch_size, seed=seed, places=places)


def fitted(method: NormalizationMethod, samples: Sequence[Sample]) -> Normalization:
    """What `method` learns from the measured pixels of a training set."""
    if method == "range":  # it asks for the type that was stored
        return Normalization.fit(method, (s.image for s in samples))
    return Normalization.fit(method, (s.measured for s in samples))


class Target(NamedTuple):
    """Class of each pixel [H, W], unsigned, and its weight [H, W] float32.

    An ignored pixel has the weight 0, and some class, see `nearest_class`.
    """

    classes: np.ndarray
    weight: np.ndarray


def targets(
    samples: Sequence[Sample],
    num_classes: int,
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_weights: ClassWeights = "balanced",
    separation: int = 2,
    cache: Path | None = None,
) -> list[Target]:
    """Targets of a training set (paper, equation 2).

    Touching cells of instance labels get a separating background line. In semantic labels, a cell
    is a connected component of the foreground. `class_weights="balanced"` balances frequencies
    over the whole set, not image by image. A sample's own border term is used where it was
    computed with this `sigma` and `separation`.

    Args:
        samples: with `classes`. num_classes: K.
        w0, sigma: height and width (pixels) of the border weight; w0 = 0 for none.
        class_weights: w_c, or how to choose it.
        separation: width of the separating line in pixels.
        cache: folder that keeps border weights from one run to the next; None keeps none.
    """
    if isinstance(class_weights, tuple) and len(class_weights) != num_classes:
        raise ConfigError(
            f"class_weights has {len(class_weights)} entries, the data has {num_classes} classes"
        )
    separated = [_separated(sample, separation) for sample in samples]
    per_class = _class_weights(separated, num_classes, class_weights)
    kind = np.min_scalar_type(num_classes - 1)
    found = []
    for sample, classes in zip(samples, separated, strict=True):
        weight = per_class[np.maximum(classes, 0)]
        if w0 > 0:
            weight = weight + np.float32(w0) * _border(sample, classes, sigma, separation, cache)
        weight = np.where(classes < 0, 0.0, weight).astype(np.float32)
        found.append(Target(nearest_class(classes).astype(kind), weight))
    return found


def for_partial_labels(
    samples: Sequence[Sample], made: Sequence[Target], output: int
) -> tuple[list[Target], LabelledPlaces | None]:
    """Where labels are few: weights that make up for it, and where tiles are to be drawn.

    Losses are means over all pixels of a tile. Divided by the share of labelled ones in the tiles,
    the weights have the mean over labelled pixels that they have where all are; so the border term
    and the losses that are added keep their proportion.

    Args:
        samples: of the training set. made: their targets.
        output: pixels a side of a tile's output.

    Returns:
        The targets, as they are where every pixel counts, and places for `tile_requests`; None:
        anywhere.
    """
    labelled = [s.classes >= 0 for s in samples if s.classes is not None]
    places = places_of_tiles(labelled, output)
    if places is not None:
        share = places.share
    else:
        share = sum(map(np.count_nonzero, labelled)) / sum(mask.size for mask in labelled)
    if share in (0.0, 1.0):
        return list(made), places
    return [t._replace(weight=t.weight / np.float32(share)) for t in made], places


def scored_classes(sample: Sample, separation: int) -> np.ndarray:
    """Classes [H, W] int32 to score a prediction against; pixels that do not count are -1.

    The line between touching cells does not count: the labels give it to the cells, the training
    (`targets`) to the background.
    """
    classes = _separated(sample, separation)
    return np.where(classes == sample.classes, classes, -1)


def border_term(sample: Sample, sigma: float, separation: int) -> np.ndarray:
    """The border term of equation 2 for w0 = 1, float32 [H, W], as `targets` adds it w0 times.

    Raises:
        DataError: the sample has no labels.
    """
    return border_weights(_cells(sample, _separated(sample, separation)), 1.0, sigma)


def _border(
    sample: Sample, classes: np.ndarray, sigma: float, separation: int, cache: Path | None
) -> np.ndarray:
    own = sample.border
    # a record holds sigma as float32
    if own is not None and (np.float32(own.sigma), own.separation) == (
        np.float32(sigma),
        separation,
    ):
        return own.weights
    return _cached_border(_cells(sample, classes), sigma, cache)


def _cells(sample: Sample, classes: np.ndarray) -> np.ndarray:
    """What `border_weights` takes, of the classes after separation."""
    if sample.instances is not None:
        return np.where(classes > 0, sample.instances, 0)
    if sample.missing is not None:  # as outside of the image, where nothing is connected
        classes = np.where(sample.missing, 0, classes)
    return known_components(classes) if (classes < 0).any() else classes > 0


def _separated(sample: Sample, width: int) -> np.ndarray:
    if sample.classes is None:
        raise DataError(f"{sample.name}: has no labels")
    if sample.instances is None:
        return sample.classes
    kept = separate_cells(sample.instances, width) > 0
    return np.where(sample.classes > 0, kept, sample.classes).astype(np.int32)


def _class_weights(
    classes: Sequence[np.ndarray], num_classes: int, chosen: ClassWeights
) -> np.ndarray:
    if chosen == "none":
        return np.ones(num_classes, np.float32)
    if chosen == "balanced":
        counts = np.sum([np.bincount(c[c >= 0], minlength=num_classes) for c in classes], axis=0)
        chosen = balanced_class_weights(counts)
    return np.asarray(chosen, np.float32)


def _cached_border(cells: np.ndarray, sigma: float, cache: Path | None) -> np.ndarray:
    if cache is None:
        return border_weights(cells, 1.0, sigma)
    key = hashlib.sha256(repr((BORDER_VERSION, cells.shape, cells.dtype.str, sigma)).encode())
    key.update(np.ascontiguousarray(cells).data)
    path = cache / f"{key.hexdigest()[:32]}.npy"
    if path.is_file():
        try:
            stored = np.load(path, allow_pickle=False)
            if stored.shape == cells.shape:
                return stored
        except (ValueError, OSError, EOFError):
            pass  # a torn cache entry is only computed again
    weight = border_weights(cells, 1.0, sigma)
    with contextlib.suppress(OSError):  # a cache that can't be written is only slower
        cache.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside:
            np.save(beside, weight)
    return weight


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


class ForegroundPixels(NamedTuple):
    """Pixels of each class above 0, in the images that hold it.

    Attributes:
        share: of the tiles that are centred on such a pixel.
        images: int32 [P], the image of each pair of a class and an image; class by class.
        classes: int32 [C, 2], first pair and number of pairs of each class that occurs.
        pairs: int32 [P, 2], first pixel and number of pixels of each pair.
        pixels: int32 [Q, 2], their (y, x).
    """

    share: float
    images: np.ndarray
    classes: np.ndarray
    pairs: np.ndarray
    pixels: np.ndarray

    def choose(self, index: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """For a share of the requests another image and the centre of the tile in it.

        A class is drawn, then one of the images that hold it, then one of its pixels there, each
        evenly: as nnU-Net (Isensee et al. 2021, supplementary note 2: a third of the patches), but
        for the image, which is drawn too, so that a class of few images comes as often as others.

        Args:
            index: int32 [batch], the images asked for.
            seeds: int32 [batch, 2], of the tiles; their other draws stay as they are.

        Returns:
            index int32 [batch], and centre int32 [batch, 2], (-1, -1) where nothing is changed.
        """
        first, second = (uniform(bits) for bits in sample_bits(seeds, STREAM, 2))
        kind = tf.gather(self.classes, below(first[:, 0], len(self.classes)))
        pair = kind[:, 0] + below(first[:, 1], kind[:, 1])
        place = tf.gather(self.pairs, pair)
        pixel = place[:, 0] + below(second[:, 0], place[:, 1])
        chosen = second[:, 1] < self.share
        centre = tf.where(chosen[:, None], tf.gather(self.pixels, pixel), -1)
        return tf.where(chosen, tf.gather(self.images, pair), tf.cast(index, tf.int32)), centre


def foreground_pixels(
    classes: Sequence[np.ndarray], share: float, seed: int = 0
) -> ForegroundPixels:
    """Collects the pixels, at random where there are too many.

    Args:
        classes: class of each pixel of each image, unsigned [H, W].
        share: of the tiles, 0 … 1.
        seed: of the choice among too many pixels.

    Raises:
        ConfigError: no image has a pixel above class 0.
    """
    found = [(int(k), n) for n, image in enumerate(classes) for k in np.unique(image) if k > 0]
    if not found:
        raise ConfigError(
            "oversample needs pixels of a class above 0: the training images have none"
        )
    found.sort()
    most = max(MOST_FOREGROUND // len(found), 16)
    rng = np.random.default_rng(seed)
    pixels = []
    for kind, number in found:
        at = np.flatnonzero(classes[number] == kind)
        at = rng.choice(at, most, replace=False) if len(at) > most else at
        pixels.append(np.stack(np.unravel_index(at, classes[number].shape), 1).astype(np.int32))
    _, first, count = np.unique([k for k, _ in found], return_index=True, return_counts=True)
    lengths = [len(part) for part in pixels]
    return ForegroundPixels(
        share=share,
        images=np.array([n for _, n in found], np.int32),
        classes=np.stack([first, count], 1).astype(np.int32),
        pairs=np.stack([np.cumsum(lengths) - lengths, lengths], 1).astype(np.int32),
        pixels=np.concatenate(pixels),
    )


def tile_entries(
    sizes: Sequence[tuple[int, int]], output: int, places: LabelledPlaces | None = None
) -> np.ndarray:
    """Which image each tile of an epoch is drawn from: one per output tile that it has room for.

    With `places`, per output tile that its labels have room for, and none without labels.
    """
    if places is None:
        counts = [max(1, round(h * w / output**2)) for h, w in sizes]
    else:
        counts = [max(int(area > 0), round(area / output**2)) for area in places.areas.tolist()]
    return np.repeat(np.arange(len(sizes), dtype=np.int32), counts)


def tile_requests(
    entries: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    foreground: ForegroundPixels | None = None,
    places: LabelledPlaces | None = None,
    part: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """Endless batches of (index int32 [B], seeds int32 [B, 2]): which tiles to draw, in order.

    Every image of `entries` comes once an epoch, shuffled. A request depends on (seed, epoch,
    place in the epoch) alone, not on threads or restarts. With `foreground` or `places`, there is a
    third part, centre int32 [B, 2]: requests are centred on labelled places, and a share of them on
    a pixel of a drawn class, of whichever image. `start` is the first batch's number: a resumed run
    goes on where it was. `part` (i, n) gives the i-th of n equal parts of each batch, for the i-th
    of n machines.
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
        if foreground is None and places is None:
            return index, seeds
        centre = tf.fill([rows, 2], -1) if places is None else places.choose(index, seeds)
        if foreground is not None:
            index, chosen = foreground.choose(index, seeds)
            centre = tf.where(chosen < 0, centre, chosen)
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
    places: LabelledPlaces | None = None,
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
        entries,
        batch_size=batch_size,
        seed=seed,
        start=start,
        foreground=foreground,
        places=places,
        part=part,
    )
    return requests.map(draw, num_parallel_calls=parallel, deterministic=True).prefetch(2)
