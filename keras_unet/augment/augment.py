"""`Augment`: random geometry and intensity for image, label and weight, in one resampling."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from keras_unet.augment.draws import draw, threefry
from keras_unet.augment.field import make_field, tile_origin
from keras_unet.augment.intensity import apply_intensity, bank_statistics, batch_statistics
from keras_unet.augment.resample import (
    bank_source,
    batch_source,
    given,
    locate,
    read_bicubic,
    read_bilinear,
    read_nearest,
)
from keras_unet.augment.settings import AugmentSettings, make_settings, preset_settings
from keras_unet.errors import ConfigError, DataError

if TYPE_CHECKING:
    from keras_unet.augment.image_bank import ImageBank

Pair = tuple[int, int]


def pair_or_none(value: Any, name: str) -> Pair | None:
    """(height, width) from an integer, a pair or None.

    Raises:
        ConfigError: for anything else, or sizes below 1.
    """
    if value is None:
        return None
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(int(size) != size or size < 1 for size in pair):
        raise ConfigError(f"{name} must be a positive integer or (height, width); found {value!r}")
    return int(pair[0]), int(pair[1])


def check_sizes(tile: Pair | None, output: Pair | None) -> None:
    """An output lies in the middle of its tile, with the same whole margin on both sides.

    Raises:
        ConfigError: otherwise.
    """
    if tile is None or output is None:
        return
    for name, t, o in zip(("height", "width"), tile, output, strict=True):
        if o > t or (t - o) % 2:
            raise ConfigError(
                f"output {name} {o} must be at most the tile's {name} {t} and differ from it by "
                "an even number"
            )


Tensor = Any


@keras.saving.register_keras_serializable(package="keras_unet")
class Augment(keras.layers.Layer):
    """Elastic deformation, rotation, scale, shear, flips, shift and grey values, drawn per sample.

    A Keras layer that is also a plain function: call it with NumPy arrays in a script, in
    `Dataset.map`, or inside a compiled training step. Geometry is composed into one coordinate
    field; image, label and weight are each read once at the same coordinates, labels by nearest
    neighbour (ids and integer types survive), borders mirrored without repeating the border pixel.

    >>> augment = Augment.from_preset("paper")
    >>> image, label = augment(image, label)                        # [B, H, W, C], [B, H, W]
    >>> dataset.map(lambda i: augment.sample(bank, i, sample_seeds(7, epoch, i)))

    Args:
        settings: `AugmentSettings`, a mapping with its options, or None; options may also be given
            by name, on top of it.
        tile: (height, width) or one integer: size of the image that comes out. None: the size
            of the image that goes in, not moved. Otherwise tiles lie at random places, see
            `keras_unet.augment.field.tile_origin`.
        output: size of label and weight, the centre of the image's field: what a model with
            valid convolutions answers for. None: the tile's size.
        seed: for calls that give no `seeds`.
        image_dtype: of the image that comes out.
        jit_compile: compile with XLA (20 times faster on a CPU than the plain graph).
        name: of the layer.

    Raises:
        ConfigError: for options that are unknown, out of range or contradict each other.
    """

    def __init__(
        self,
        settings: AugmentSettings | dict[str, Any] | None = None,
        *,
        tile: int | tuple[int, int] | None = None,
        output: int | tuple[int, int] | None = None,
        seed: int | None = None,
        image_dtype: str = "float32",
        jit_compile: bool = True,
        name: str | None = None,
        dtype: Any = None,
        trainable: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(name=name, dtype=dtype, trainable=trainable, autocast=False)
        self.settings = make_settings(settings, **options)
        self.tile_size = pair_or_none(tile, "tile")
        self.output_size = pair_or_none(output, "output")
        check_sizes(self.tile_size, self.output_size)
        self.seed = seed
        self.image_dtype = tf.as_dtype(image_dtype).name
        self.jit_compile = jit_compile
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True
        self._compiled = {
            random: tf.function(
                partial(self._augment, random=random), jit_compile=jit_compile, autograph=False
            )
            for random in (True, False)
        }

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any) -> Augment:
        """The named set of options: "paper", "none", "flips" or "nnunet".

        Args:
            preset: which.
            overrides: single options of `AugmentSettings`, or arguments of `Augment`.

        Raises:
            ConfigError: for an unknown preset or option.
        """
        options = {
            name: overrides.pop(name)
            for name in list(overrides)
            if name in AugmentSettings.model_fields
        }
        return cls(preset_settings(preset, **options), **overrides)

    def call(
        self,
        image: Tensor,
        label: Tensor | None = None,
        weight: Tensor | None = None,
        seeds: Tensor | None = None,
        training: bool | None = True,
    ) -> Any:
        """Augment a batch.

        Args:
            image: [batch, height, width, channels]; uint8, uint16, any float.
            label: [batch, height, width] of any integer dtype, or None.
            weight: [batch, height, width], float, or None.
            seeds: int32 [batch, 2], see `sample_seeds`; None: from the layer's own generator.
            training: False leaves everything as it is (with `tile`: the tile at the centre).

        Returns:
            What was given, in this order: image [batch, *tile, channels] in `image_dtype`,
            label [batch, *output] in its dtype, weight [batch, *output] float32; the image
            alone if nothing else was given.

        Raises:
            DataError: for arrays of the wrong rank.
        """
        image = _of_rank(image, 4, "image", "[batch, height, width, channels]")
        label = _of_rank(label, 3, "label", "[batch, height, width]")
        weight = _of_rank(weight, 3, "weight", "[batch, height, width]")
        seeds = self._seeds(seeds, tf.shape(image)[0], training)
        result = self._compiled[bool(training)](image, label, weight, seeds, None)
        if self.tile_size is None:
            result[0].set_shape(image.shape)
        return given(result)

    def sample(
        self,
        bank: ImageBank,
        index: Tensor,
        seeds: Tensor | None = None,
        training: bool = True,
        centre: Tensor | None = None,
    ) -> Any:
        """Augmented tiles from a bank of whole images: only the tiles' pixels are computed.

        Args:
            bank: see `keras_unet.augment.image_bank.ImageBank`.
            index: int32 [batch], which images.
            seeds: int32 [batch, 2], see `sample_seeds`; None: from the layer's own generator.
            training: False takes the tile at each image's centre, unchanged.
            centre: int32 [batch, 2], the pixel (y, x) in the middle of each tile's output; where
                negative, or None, the tile's place is random.

        Returns:
            As the call's, for what the bank holds: image [batch, *tile, channels] normalised
            by the bank's shift and scale; label int32 and weight float32 [batch, *output].
        """
        if self.tile_size is None:
            raise DataError("sample() needs Augment(tile=(height, width)); found None")
        index = tf.reshape(tf.cast(index, tf.int32), [-1])
        seeds = self._seeds(seeds, tf.shape(index)[0], training)
        compiled = self._compiled[bool(training)]
        return given(compiled(bank, None, None, seeds, index, centre))

    def _seeds(self, seeds: Tensor | None, batch: Tensor, training: Any) -> Tensor:
        if seeds is not None:
            return tf.ensure_shape(tf.cast(seeds, tf.int32), [None, 2])
        if not training:
            return tf.zeros([batch, 2], tf.int32)
        state = tf.cast(self.seed_generator.next(), tf.uint32)
        index = tf.cast(tf.range(batch), tf.uint32)
        words = threefry((state[0], state[1]), (index, tf.zeros_like(index)))
        return tf.stack([tf.bitcast(word, tf.int32) for word in words], axis=1)

    def _augment(self, images, label, weight, seeds, index, centre=None, *, random: bool):
        """All of it; `images` is a batch, or a bank's tensors where `index` is given."""
        settings = self.settings if random else AugmentSettings()
        if index is None:
            source, size = batch_source(images, label, weight)
            parameters = None
        else:
            source, parameters = bank_source(images, index)
            size = 0, 0  # sample() sees to it that there is a tile size
        tile = self.tile_size or size
        output = self.output_size or tile
        margins = (tile[0] - output[0]) // 2, (tile[1] - output[1]) // 2
        channels = source.image.shape[-1]
        geometry, intensity = draw(settings, seeds, channels)
        moving = random and self.tile_size is not None
        position = geometry.position if moving else None
        origin = tile_origin(position, source.height, source.width, output, margins, centre)
        field = make_field(geometry, origin, *tile)

        cells = locate(*field.coordinates(), source)
        read = read_bicubic if settings.interpolation == "bicubic" else read_bilinear
        image = read(source.image, cells, source)
        if parameters is not None:
            shift, scale = parameters
            image = (image - shift[:, None, None]) * scale[:, None, None]
        if settings.changes_intensity:
            of = batch_statistics(images) if index is None else bank_statistics(images, index)
            image = apply_intensity(image, intensity, of, seeds, settings)
        image = tf.cast(image, self.image_dtype)

        # Label and weight: the centre of the image's field.
        inner = field.crop(margins, output)
        cells = locate(*inner.coordinates(), source)
        new_label = new_weight = None
        if source.label is not None:
            new_label = read_nearest(source.label, cells, source)
            new_label = new_label if index is None else tf.cast(new_label, tf.int32)
        if source.weight is not None:
            new_weight = read_bilinear(source.weight, cells, source)
        return image, new_label, new_weight

    def compute_output_spec(self, image, label=None, weight=None, seeds=None, training=True):
        def spec(like, size, dtype, channels=()):
            return keras.KerasTensor((like.shape[0], *(size or like.shape[1:3]), *channels), dtype)

        output = self.output_size or self.tile_size
        result = (
            spec(image, self.tile_size, self.image_dtype, image.shape[3:]),
            None if label is None else spec(label, output, label.dtype),
            None if weight is None else spec(weight, output, "float32"),
        )
        return given(result)

    def get_config(self) -> dict[str, Any]:
        """Everything that `from_config` needs to build the same layer."""
        config = super().get_config()
        config.update(
            settings=self.settings.model_dump(mode="json"),
            tile=self.tile_size,
            output=self.output_size,
            seed=self.seed,
            image_dtype=self.image_dtype,
            jit_compile=self.jit_compile,
        )
        return config


def _of_rank(value: Tensor | None, rank: int, name: str, expected: str) -> Tensor | None:
    if value is None:
        return None
    value = tf.convert_to_tensor(value)
    if value.shape.rank != rank:
        raise DataError(f"{name} must be {expected}; found shape {value.shape}")
    return value
