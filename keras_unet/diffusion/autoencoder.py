"""Autoencoder: images to latents and back, at once or in tiles that are blended.

The KL-regularised autoencoder of Rombach et al. 2022 (2112.10752, section 3.1), the first stage of
latent diffusion. What a tile cannot give is what the network computes over the whole image: the
statistics of group norms, and attention. So neighbouring tiles differ in tone where they meet;
`seams` measures by how much. Blending over the overlap turns the step into a slope.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_unet.diffusion.attention import SelfAttentionBlock
from keras_unet.diffusion.blocks import (
    Downsample,
    GroupNorm,
    ResidualBlock,
    Upsample,
    convolution,
    float_dtype,
    register,
)
from keras_unet.diffusion.presets import completed, preset_options, require_count, with_sizes
from keras_unet.errors import ConfigError

EPSILON = 1e-6  # of all its norms


def build_autoencoder(
    input_shape: Sequence[int | None] = (None, None, 3),
    out_channels: int | None = None,
    *,
    filters: Sequence[int] = (128, 256, 512, 512),
    layers_per_block: int = 2,
    latent_channels: int = 4,
    norm_groups: int = 32,
    activation: str = "silu",
    mid_attention: bool = True,
    quant_conv: bool = True,
    post_quant_conv: bool = True,
    scaling_factor: float = 0.18215,
    shift_factor: float | None = None,
    sample_size: int | Sequence[int] | None = None,
    force_upcast: bool = True,
    dtype: Any = None,
    name: str = "autoencoder",
) -> Autoencoder:
    """Builds a KL autoencoder; what diffusers calls AutoencoderKL.

    Args:
        input_shape: (height, width, channels) of an image, whose values are in −1 … 1. Height and
            width may be None; one pixel of a latent stands for `Autoencoder.stride` of them.
        out_channels: of the decoded image; None: as many.
        filters: channels of each level; each but the last halves the image.
        layers_per_block: residual blocks of each level of the encoder; one more in the decoder.
        latent_channels: c.
        norm_groups: of all group norms; their epsilon is 1e-6.
        activation: of all blocks.
        mid_attention: self-attention (one head) in both middles.
        quant_conv, post_quant_conv: 1x1 convolutions after the encoder, before the decoder.
        scaling_factor, shift_factor: a diffusion model works on (z − shift) · factor, whose
            standard deviation is about 1: see `Autoencoder.scale`.
        sample_size: height and width that the network is meant for, if none is given.
        force_upcast: a note to other programs that float16 does not suffice; kept in files.
        dtype: dtype or Keras dtype policy of all layers; None is Keras's global policy. Moments and
            images are float32, float64 under float64.
        name: of the model.

    Returns:
        An `Autoencoder`.

    Raises:
        ConfigError (a ValueError): an argument is out of range.

    Example:

    >>> ae = build_autoencoder((None, None, 1), filters=(32, 64), norm_groups=16)
    >>> z = ae.encode(image, seed=1)        # [B, H/2, W/2, 4]
    >>> ae.decode(z).shape                  # (B, H, W, 1)
    """
    return Autoencoder(**locals())


@register
class Autoencoder(keras.Model):
    """The model that `build_autoencoder` returns: an image to its reconstruction.

    Attributes:
        encoder: functional, [B, H, W, C] to moments [B, h, w, 2c].
        decoder: functional, [B, h, w, c] to images [B, H, W, out_channels].
        stride: pixels of an image for each of a latent, along each axis.
        options: the arguments of `build_autoencoder`, with every default written out.
    """

    def __init__(self, *, name: str = "autoencoder", dtype: Any = None, **options: Any):
        super().__init__(name=name)
        options = _resolved(completed(build_autoencoder, options))
        self.policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        self.options = options
        self.stride = 2 ** (len(options["filters"]) - 1)
        self.encoder = _encoder(self.policy, **options)
        self.decoder = _decoder(self.policy, **options)
        self.built = True

    @classmethod
    def from_preset(cls, preset: str, **options: Any) -> Autoencoder:
        """The autoencoder of a preset, with random weights; `options` replace the preset's own."""
        return cls(**{**preset_options(preset, "autoencoder"), **options})

    def call(self, image: Any, training: bool | None = None) -> Any:
        """The decoded mean, [B, H, W, out_channels]."""
        moments = self.encoder(image, training=training)
        return self.decoder(moments[..., : self.options["latent_channels"]], training=training)

    def moments(self, image: Any, tile: int | None = None, overlap: float = 0.25) -> Any:
        """Mean and logarithm of the variance of each latent, [B, h, w, 2c].

        Args:
            image: [B, H, W, C], −1 … 1.
            tile: height and width of the tiles, in pixels, in which an image too large for the
                memory is encoded one after the other; None: at once. Group norms and attention
                then see a tile instead of the image: see `tiling`.
            overlap: of neighbouring tiles, as a share of a tile; the results are blended.
        """
        if tile is None:
            return self.encoder(image)
        return in_tiles(self.encoder, image, tile, overlap, down=self.stride)

    def encode(
        self,
        image: Any,
        seed: int | None = None,
        tile: int | None = None,
        overlap: float = 0.25,
    ) -> Any:
        """Latents [B, h, w, c], not scaled: the mean; with a seed, a sample."""
        return self.sample(self.moments(image, tile, overlap), seed)

    def sample(self, moments: Any, seed: Any = None) -> Any:
        """mean + standard deviation · noise, [B, h, w, c]; without a seed the mean."""
        mean, log_variance = ops.split(moments, 2, axis=-1)
        if seed is None:
            return mean
        deviation = ops.exp(0.5 * ops.clip(log_variance, -30.0, 20.0))
        return mean + deviation * keras.random.normal(ops.shape(mean), dtype=mean.dtype, seed=seed)

    def decode(self, z: Any, tile: int | None = None, overlap: float = 0.25) -> Any:
        """Images [B, H, W, out_channels] of latents [B, h, w, c] that are not scaled.

        `tile`, in pixels of the latent, and `overlap` as in `moments`.
        """
        if tile is None:
            return self.decoder(z)
        return in_tiles(self.decoder, z, tile, overlap, up=self.stride)

    def scale(self, z: Any) -> Any:
        """Latents as a diffusion model takes them: (z − shift_factor) · scaling_factor."""
        return (z - (self.options["shift_factor"] or 0.0)) * self.options["scaling_factor"]

    def unscale(self, z: Any) -> Any:
        """The inverse of `scale`: z / scaling_factor + shift_factor, for `decode`."""
        return z / self.options["scaling_factor"] + (self.options["shift_factor"] or 0.0)

    def get_config(self) -> dict[str, Any]:
        dtype = keras.dtype_policies.serialize(self.policy)
        return {**self.options, "dtype": dtype, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Autoencoder:
        return cls(**config)


def kl_divergence(moments: Any) -> Any:
    """KL divergence from a standard Gaussian, summed over all but the batch: [B].

    ½ Σ (mean² + variance − 1 − log variance)
    """
    mean, log_variance = ops.split(moments, 2, axis=-1)
    log_variance = ops.clip(log_variance, -30.0, 20.0)
    terms = ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance
    return 0.5 * ops.sum(terms, axis=(1, 2, 3))


def _resolved(options: dict[str, Any]) -> dict[str, Any]:
    o = with_sizes(options)
    for key in ("layers_per_block", "latent_channels"):
        require_count(key, o[key])
    if not o["scaling_factor"] > 0:
        raise ConfigError(f"scaling_factor must be positive, got {o['scaling_factor']!r}")
    return o


def _encoder(policy: Any, **options: Any) -> keras.Model:
    filters, moments = options["filters"], 2 * options["latent_channels"]
    image = keras.Input(options["input_shape"], dtype=float_dtype(policy), name="image")
    x = convolution(filters[0], dtype=policy, name="encoder_conv_in")(image)
    for level, count in enumerate(filters):
        block = f"encoder_down_blocks_{level}"
        for i in range(options["layers_per_block"]):
            x = _residual(x, count, f"{block}_resnets_{i}", policy, options)
        if level < len(filters) - 1:
            x = Downsample(count, padding=0, dtype=policy, name=f"{block}_downsamplers_0")(x)
    x = _head(_middle(x, "encoder", policy, options), moments, "encoder", policy, options)
    if options["quant_conv"]:
        x = convolution(moments, 1, dtype=float_dtype(policy), name="quant_conv")(x)
    return keras.Model(image, x, name="encoder")


def _decoder(policy: Any, **options: Any) -> keras.Model:
    filters, channels = options["filters"], options["latent_channels"]
    z = x = keras.Input((None, None, channels), dtype=float_dtype(policy), name="z")
    if options["post_quant_conv"]:
        x = convolution(channels, 1, dtype=float_dtype(policy), name="post_quant_conv")(x)
    x = convolution(filters[-1], dtype=policy, name="decoder_conv_in")(x)
    x = _middle(x, "decoder", policy, options)
    for level, count in enumerate(reversed(filters)):
        block = f"decoder_up_blocks_{level}"
        for i in range(options["layers_per_block"] + 1):
            x = _residual(x, count, f"{block}_resnets_{i}", policy, options)
        if level < len(filters) - 1:
            x = Upsample(count, dtype=policy, name=f"{block}_upsamplers_0")(x)
    x = _head(x, options["out_channels"], "decoder", policy, options)
    return keras.Model(z, x, name="decoder")


def _residual(x: Any, filters: int, name: str, policy: Any, options: dict[str, Any]) -> Any:
    return ResidualBlock(
        filters,
        options["norm_groups"],
        EPSILON,
        activation=options["activation"],
        dtype=policy,
        name=name,
    )(x)


def _middle(x: Any, prefix: str, policy: Any, options: dict[str, Any]) -> Any:
    channels = x.shape[-1]
    x = _residual(x, channels, f"{prefix}_mid_block_resnets_0", policy, options)
    if options["mid_attention"]:
        name = f"{prefix}_mid_block_attentions_0"
        x = SelfAttentionBlock(
            1, channels, options["norm_groups"], EPSILON, dtype=policy, name=name
        )(x)
    return _residual(x, channels, f"{prefix}_mid_block_resnets_1", policy, options)


def _head(x: Any, channels: int, prefix: str, policy: Any, options: dict[str, Any]) -> Any:
    groups, dtype = options["norm_groups"], float_dtype(policy)
    x = GroupNorm(groups, EPSILON, dtype=policy, name=f"{prefix}_conv_norm_out")(x)
    x = layers.Activation(options["activation"], dtype=policy, name=f"{prefix}_conv_act")(x)
    return convolution(channels, dtype=dtype, name=f"{prefix}_conv_out")(x)


def in_tiles(
    network: Callable[[Any], Any],
    x: Any,
    tile: int,
    overlap: float = 0.25,
    *,
    up: int = 1,
    down: int = 1,
) -> np.ndarray:
    """network(x), computed in tiles; as a NumPy array, so that only a tile is on the device.

    Args:
        network: [B, t, t, C] to [B, t · up // down, …, D].
        x: [B, H, W, C].
        tile: height and width of a tile; a multiple of `down`.
        overlap: of neighbouring tiles, as a share of a tile, 0 … 0.5.
        up, down: by what the network's output is larger or smaller than its input.

    Raises:
        ConfigError: tile or overlap is out of range.
    """
    if tile < 1 or tile % down:
        raise ConfigError(f"tile must be a positive multiple of {down}, got {tile}")
    if not 0 <= overlap <= 0.5:
        raise ConfigError(f"overlap must be in [0, 0.5], got {overlap!r}")
    x = ops.convert_to_numpy(x)
    height, width = (n // down * up for n in x.shape[1:3])
    rows, columns = (starts(n // down, tile // down, overlap) for n in x.shape[1:3])
    side = tile // down * up
    total: Any = None
    weight: Any = None
    for i in rows:
        for j in columns:
            # The last tile also takes the pixels that are too few for one of the output.
            bottom, right = (
                n if start + tile // down == n // down else start * down + tile
                for start, n in zip((i, j), x.shape[1:3], strict=True)
            )
            piece = x[:, i * down : bottom, j * down : right]
            y = ops.convert_to_numpy(network(piece)).astype(_precise(x))
            if total is None:
                total = np.zeros((len(x), height, width, y.shape[-1]), y.dtype)
                weight = np.zeros((height, width, 1), y.dtype)
            part = np.s_[i * up : i * up + y.shape[1], j * up : j * up + y.shape[2]]
            ramp = _ramp(y.shape[1], side, overlap)[:, None, None]
            ramp = (ramp * _ramp(y.shape[2], side, overlap)[:, None]).astype(y.dtype)
            total[(slice(None), *part)] += y * ramp
            weight[part] += ramp
    return total / weight


def starts(size: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along an axis, so that they cover it; the last one ends with it."""
    if size <= tile:
        return [0]
    step = max(1, tile - round(tile * overlap))
    return [*range(0, size - tile, step), size - tile]


def _ramp(size: int, side: int, overlap: float) -> np.ndarray:
    """The weight of a tile's pixels along an axis: rises and falls over the overlap."""
    rise = max(1, round(side * overlap))
    distance = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1
    return np.minimum(distance / rise, 1.0)


def _precise(x: np.ndarray) -> type:
    return np.float64 if x.dtype == np.float64 else np.float32


def seams(tiled: Any, whole: Any, tile: int, overlap: float = 0.25) -> dict[str, float]:
    """How far an output in tiles is from the output at once, [B, H, W, C] both.

    Args:
        tile: height and width of a tile of the *output*.
        overlap: as it was computed.

    Returns:
        `rms`: root mean square difference, over the standard deviation of `whole`; `seam`: the same
        of the differences between neighbouring pixels across the tiles' borders; `inside`: the same
        of all other neighbours. A picture without visible seams has `seam` near `inside`.
    """
    tiled, whole = (ops.convert_to_numpy(x).astype("float64") for x in (tiled, whole))
    error, spread = tiled - whole, whole.std()
    at, elsewhere = [], []
    for axis in (1, 2):
        size = whole.shape[axis]
        begins = starts(size, tile, overlap)
        borders = sorted({*begins[1:], *(b + tile for b in begins if b + tile < size)})
        steps = np.moveaxis(np.diff(error, axis=axis), axis, 0)  # between i and i + 1
        border = np.isin(np.arange(1, size), borders)
        at.append(np.ravel(steps[border]))
        elsewhere.append(np.ravel(steps[~border]))

    def rms(values: Any) -> float:
        return float(np.sqrt(np.mean(np.square(values))) / spread) if np.size(values) else 0.0

    return {
        "rms": rms(error),
        "seam": rms(np.concatenate(at)),
        "inside": rms(np.concatenate(elsewhere)),
    }
