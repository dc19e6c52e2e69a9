"""U-Net of diffusion: it predicts what noise was added to an image, see `build_diffusion_unet`.

Ho et al. 2020 (2006.11239), Dhariwal and Nichol 2021 (2105.05233), Rombach et al. 2022
(2112.10752), Podell et al. 2023 (2307.01952). Compared with the U-Net of 2015: padded convolutions,
residual blocks, attention, and a time that every block is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import layers

from keras_unet.diffusion.attention import SelfAttentionBlock, SpatialTransformer
from keras_unet.diffusion.blocks import (
    Block,
    Downsample,
    EmbeddingMLP,
    GroupNorm,
    ResidualBlock,
    Sinusoid,
    Upsample,
    convolution,
    float_dtype,
    register,
)
from keras_unet.diffusion.presets import completed, preset_options, require_count, with_sizes
from keras_unet.errors import ConfigError

AttentionKind = Literal["self", "cross"] | None
Resampling = Literal["conv", "resnet"]
MidBlock = Literal["self", "cross", "plain", "single"] | None
ClassEmbedding = Literal["table", "timestep", "projection", "simple_projection", "identity"] | None


def build_diffusion_unet(
    input_shape: Sequence[int | None] = (None, None, 1),
    out_channels: int | None = None,
    *,
    filters: Sequence[int] = (64, 128, 256),
    layers_per_block: int | Sequence[int] = 2,
    attention: Sequence[AttentionKind] | None = None,
    up_attention: Sequence[AttentionKind] | None = None,
    mid_block: MidBlock | Literal["auto"] = "auto",
    num_heads: int | Sequence[int] | None = None,
    head_dim: int | None = None,
    transformer_layers: int | Sequence[int] = 1,
    context_dim: int | None = None,
    num_classes: int | None = None,
    class_embedding: ClassEmbedding = None,
    class_features: int | None = None,
    class_concat: bool = False,
    added_features: int | None = None,
    time_id_dim: int | None = None,
    time_embedding_dim: int | None = None,
    flip_sin_to_cos: bool = True,
    freq_shift: float = 0,
    scale_shift: bool = False,
    downsampling: Resampling = "conv",
    upsampling: Resampling = "conv",
    downsample_padding: int = 1,
    activation: str = "silu",
    norm_groups: int = 32,
    norm_epsilon: float = 1e-5,
    mid_norm_groups: int | None = None,
    mid_output_scale: float = 1.0,
    dropout: float = 0.0,
    center_input: bool = False,
    conv_in_kernel: int = 3,
    conv_out_kernel: int = 3,
    linear_projection: bool = True,
    upcast_attention: bool = False,
    sample_size: int | Sequence[int] | None = None,
    dtype: Any = None,
    name: str = "diffusion_unet",
) -> keras.Model:
    """Builds a diffusion U-Net; what diffusers calls UNet2DModel and UNet2DConditionModel.

    Args:
        input_shape: (height, width, channels) of `sample`. Height and width may be None, and need
            not divide by the network's stride: the way up follows the sizes of the skips. A mask
            or an image as condition is concatenated: it counts among the channels.
        out_channels: of the output; None: as many as the input has.
        filters: channels of each level, from full resolution down.
        layers_per_block: residual blocks of each level on the way down; one more on the way up.
        attention: for each level None, "self" (an attention block after each residual block) or
            "cross" (a spatial transformer: self-attention, then attention to `context`). None:
            "cross" with a context, else "self", on the last level.
        up_attention: the same for the way up, from the bottom; None: `attention` in reverse.
        mid_block: two residual blocks with "self" or "cross" attention between them, "plain"
            without, a "single" residual block, or None; "auto" as on the last level with attention.
        num_heads: of each attention, for all levels or one for each; or
        head_dim: the width of each head, instead. Neither: one head.
        transformer_layers: blocks of each spatial transformer, for all levels or one for each.
        context_dim: width of the tokens of `context`; None: no such input.
        num_classes: classes of a table, one of which is given by `class_labels`.
        class_embedding: what `class_labels` are: "table" [B] integers; "timestep" [B] numbers;
            "projection" and "simple_projection" [B, class_features]; "identity" [B, D], D the width
            of the time embedding. None: a table if there are `num_classes`, else no such input.
        class_features: width of the vectors of the two projections.
        class_concat: the class is concatenated to the time's embedding instead of added.
        added_features: SDXL's additions: the width of `text_embeds` and the embedded `time_ids`
            together; None: no such inputs.
        time_id_dim: width of the embedding of each of `time_ids`.
        time_embedding_dim: None: four times the first filters.
        flip_sin_to_cos, freq_shift: see `Sinusoid`.
        scale_shift: see `ResidualBlock`.
        downsampling, upsampling: "conv" (see `Downsample`, `Upsample`), or "resnet": a residual
            block does it in levels with "self" attention.
        downsample_padding: see `Downsample`.
        activation: of all blocks.
        norm_groups, norm_epsilon: of the group norms. A spatial transformer's first has 1e-6.
        mid_norm_groups: of the norm in the middle's self-attention; None: norm_groups, and no norm
            with `scale_shift` (as in diffusers).
        mid_output_scale: what the sums in the middle's residual blocks are divided by.
        dropout: rate in the residual blocks.
        center_input: 2 x − 1 first.
        conv_in_kernel, conv_out_kernel: odd sizes of the first and the last kernel.
        linear_projection: how a spatial transformer's projections are written to a file: linear, or
            as 1x1 convolutions. The numbers are the same.
        upcast_attention: see `attention`.
        sample_size: height and width that the network is meant for, if none is given.
        dtype: dtype or Keras dtype policy of all layers; None is Keras's global policy. The output
            is float32, float64 under float64.
        name: of the model.

    Returns:
        A functional model from a dictionary of inputs to [B, H, W, out_channels]: `sample`
        [B, H, W, C], `timestep` [B] (fractions are allowed) and, where configured, `context`
        [B, T, context_dim], `class_labels`, `text_embeds` [B, F], `time_ids` [B, N]. Its layers
        bear the names of diffusers with underscores: `down_blocks_0_resnets_1`,
        `mid_block_attentions_0`, `up_blocks_2_upsamplers_0`, `conv_norm_out`.

    Raises:
        ConfigError (a ValueError): an argument is out of range, or two do not fit together.

    Example:

    >>> unet = build_diffusion_unet((64, 64, 2), 1, filters=(32, 64), num_classes=3)
    >>> noise = unet({"sample": x, "timestep": t, "class_labels": labels})   # [B, 64, 64, 1]
    """
    return DiffusionUNet(**locals())


@register
class DiffusionUNet(keras.Model):
    """The model that `build_diffusion_unet` returns; it is saved as that function's arguments.

    Attributes:
        options: the arguments, with every default written out.
    """

    def __init__(self, *, name: str = "diffusion_unet", dtype: Any = None, **options: Any):
        options = _resolved(completed(build_diffusion_unet, options))
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        super().__init__(*_network(policy, **options), name=name)
        self.options = options
        self.policy = policy

    @classmethod
    def from_preset(cls, preset: str, **options: Any) -> DiffusionUNet:
        """The U-Net of a preset, with random weights; `options` replace the preset's own."""
        return cls(**{**preset_options(preset, "unet"), **options})

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Of a dictionary of the network's inputs, neither more nor fewer.

        Raises:
            ConfigError: an input is missing, or the network has none of that name.
        """
        given = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
        if given != sorted(self.input):  # here and not in `call`, where Keras adds all arrays
            wanted = ", ".join(sorted(self.input))
            raise ConfigError(f"this U-Net takes a dictionary of {wanted}; got {given}")
        return super().__call__(inputs, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        dtype = keras.dtype_policies.serialize(self.policy)
        return {**self.options, "dtype": dtype, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> DiffusionUNet:
        return cls(**config)


def _network(
    policy: Any,
    *,
    input_shape: Sequence[int | None],
    out_channels: int,
    filters: Sequence[int],
    layers_per_block: Sequence[int],
    attention: Sequence[AttentionKind],
    up_attention: Sequence[AttentionKind],
    mid_block: MidBlock,
    num_heads: Sequence[int] | None,
    head_dim: int | None,
    transformer_layers: Sequence[int],
    context_dim: int | None,
    activation: str,
    norm_groups: int,
    norm_epsilon: float,
    mid_norm_groups: int | None,
    mid_output_scale: float,
    scale_shift: bool,
    downsampling: Resampling,
    upsampling: Resampling,
    downsample_padding: int,
    dropout: float,
    center_input: bool,
    conv_in_kernel: int,
    conv_out_kernel: int,
    upcast_attention: bool,
    **embedding: Any,
) -> tuple[dict[str, Any], Any]:
    """Inputs by name, and the output."""
    dtype = float_dtype(policy)
    last = len(filters) - 1
    inputs = {
        "sample": keras.Input(input_shape, dtype=dtype, name="sample"),
        "timestep": keras.Input((), dtype=dtype, name="timestep"),
    }
    if context_dim is not None:
        inputs["context"] = keras.Input((None, context_dim), dtype=dtype, name="context")
    emb = _embedding(inputs, policy, filters[0], activation, **embedding)
    emb = layers.Activation(activation, dtype=policy, name="embedding_act")(emb)

    def residual(x: Any, level: int, name: str, **options: Any) -> Any:
        return ResidualBlock(
            filters[level],
            norm_groups,
            norm_epsilon,
            scale_shift=scale_shift,
            activation=activation,
            dropout=dropout,
            dtype=policy,
            name=name,
            **options,
        )(x, emb)

    def attend(x: Any, kind: AttentionKind, level: int, name: str, **options: Any) -> Any:
        channels = filters[level]
        heads = num_heads[level] if num_heads is not None else channels // (head_dim or channels)
        width = head_dim or channels // heads
        if kind == "cross":
            return SpatialTransformer(
                heads,
                width,
                transformer_layers[level],
                norm_groups,
                upcast_attention,
                dtype=policy,
                name=name,
            )(x, inputs["context"])
        options = {"groups": norm_groups, **options}
        return SelfAttentionBlock(
            heads, width, epsilon=norm_epsilon, dtype=policy, name=name, **options
        )(x)

    x = inputs["sample"]
    if center_input:
        x = layers.Rescaling(2.0, -1.0, dtype=policy, name="center_input")(x)
    x = convolution(filters[0], conv_in_kernel, dtype=policy, name="conv_in")(x)

    skips = [x]
    for level, kind in enumerate(attention):  # the way down
        block = f"down_blocks_{level}"
        for i in range(layers_per_block[level]):
            x = residual(x, level, f"{block}_resnets_{i}")
            if kind is not None:
                x = attend(x, kind, level, f"{block}_attentions_{i}")
            skips.append(x)
        if level < last:
            step = f"{block}_downsamplers_0"
            if kind == "self" and downsampling == "resnet":
                x = residual(x, level, step, resample="down")
            else:
                x = Downsample(filters[level], downsample_padding, dtype=policy, name=step)(x)
            skips.append(x)

    if mid_block is not None:
        scale = {"output_scale": mid_output_scale}
        x = residual(x, last, "mid_block_resnets_0", **scale)
        name = "mid_block_attentions_0"
        if mid_block == "cross":
            x = attend(x, "cross", last, name)
        elif mid_block == "self":
            x = attend(x, "self", last, name, groups=mid_norm_groups, **scale)
        if mid_block != "single":
            x = residual(x, last, "mid_block_resnets_1", **scale)

    for i, kind in enumerate(up_attention):  # the way up
        level = last - i
        block = f"up_blocks_{i}"
        for j in range(layers_per_block[level] + 1):
            name = f"{block}_resnets_{j}"
            x = layers.Concatenate(dtype=policy, name=f"{name}_concat")([x, skips.pop()])
            x = residual(x, level, name)
            if kind is not None:
                x = attend(x, kind, level, f"{block}_attentions_{j}")
        if level > 0:
            step = f"{block}_upsamplers_0"
            if kind == "self" and upsampling == "resnet":
                x = residual(x, level, step, resample="up")
            else:
                x = Upsample(filters[level], dtype=policy, name=step)(x, skips[-1])

    x = GroupNorm(norm_groups, norm_epsilon, dtype=policy, name="conv_norm_out")(x)
    x = layers.Activation(activation, dtype=policy, name="conv_act")(x)
    return inputs, convolution(out_channels, conv_out_kernel, dtype=dtype, name="conv_out")(x)


def _embedding(
    inputs: dict[str, Any],
    policy: Any,
    size: int,
    activation: str,
    *,
    time_embedding_dim: int,
    flip_sin_to_cos: bool,
    freq_shift: float,
    num_classes: int | None,
    class_embedding: ClassEmbedding,
    class_features: int | None,
    class_concat: bool,
    added_features: int | None,
    time_id_dim: int | None,
    **_: Any,
) -> Any:
    """What every residual block is told: the time, a class, SDXL's additions; adds the inputs."""
    dtype = float_dtype(policy)
    units = time_embedding_dim

    def waves(x: Any, width: Any, name: str) -> Any:
        return Sinusoid(width, flip_sin_to_cos, freq_shift, dtype=policy, name=name)(x)

    def mlp(x: Any, name: str) -> Any:
        return EmbeddingMLP(units, activation, dtype=policy, name=name)(x)

    emb = mlp(waves(inputs["timestep"], size, "time_proj"), "time_embedding")

    if class_embedding is not None:
        shape = {"identity": (units,), "table": (), "timestep": ()}.get(
            class_embedding, (class_features,)
        )
        kind = "int32" if class_embedding == "table" else dtype
        labels = inputs["class_labels"] = keras.Input(shape, dtype=kind, name="class_labels")
        if class_embedding == "table":
            table = layers.Embedding(num_classes, units, dtype=policy, name="class_embedding")
            labels = table(labels)
        elif class_embedding == "timestep":
            labels = mlp(waves(labels, size, "class_proj"), "class_embedding")
        elif class_embedding == "projection":
            labels = mlp(labels, "class_embedding")
        elif class_embedding == "simple_projection":
            labels = layers.Dense(units, dtype=policy, name="class_embedding")(labels)
        join = layers.Concatenate if class_concat else layers.Add
        emb = join(dtype=policy, name="with_class")([emb, labels])

    if added_features is not None:
        for name in ("text_embeds", "time_ids"):
            inputs[name] = keras.Input((None,), dtype=dtype, name=name)
        ids = waves(inputs["time_ids"], time_id_dim, "add_time_proj")
        joined = JoinAdded(added_features, dtype=dtype, name="add_concat")(
            inputs["text_embeds"], ids
        )
        emb = layers.Add(dtype=policy, name="with_added")([emb, mlp(joined, "add_embedding")])
    return emb


@register
class JoinAdded(Block):
    """SDXL's additions as one vector [B, size]: a text [B, F], then numbers [B, N, D]."""

    def __init__(self, size: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size

    def call(self, text: Any, numbers: Any) -> Any:
        ops = keras.ops
        numbers = ops.reshape(numbers, (ops.shape(numbers)[0], -1))
        joined = ops.concatenate([text, numbers], axis=-1)
        if joined.shape[-1] not in (None, self.size):
            raise ConfigError(
                f"text_embeds ({text.shape[-1]} wide) and the embedded time_ids are "
                f"{joined.shape[-1]} wide together; this network takes {self.size}"
            )
        return ops.reshape(joined, (-1, self.size))

    def compute_output_shape(self, text_shape: Any, numbers_shape: Any) -> tuple[Any, ...]:
        return (text_shape[0], self.size)


def _resolved(options: dict[str, Any]) -> dict[str, Any]:
    """The options with each default in its final form, as plain lists and numbers.

    Raises:
        ConfigError: see `build_diffusion_unet`.
    """
    o = with_sizes(options)
    levels = len(o["filters"])
    for key in ("layers_per_block", "transformer_layers", "num_heads"):
        if o[key] is None:
            continue
        o[key] = [o[key]] * levels if isinstance(o[key], int) else list(o[key])
        if len(o[key]) != levels:
            raise ConfigError(
                f"{key} must be a number or one for each of the {levels} levels, got {o[key]!r}"
            )
        for number in o[key]:
            require_count(key, number)
    if o["num_heads"] is not None and o["head_dim"] is not None:
        raise ConfigError("give num_heads or head_dim, not both")

    default = "cross" if o["context_dim"] else "self"
    attention = o["attention"]
    if attention is None:
        attention = [None] * (levels - 1) + [default]
    o["attention"] = list(attention)
    up = o["up_attention"]
    o["up_attention"] = list(attention)[::-1] if up is None else list(up)
    for key in ("attention", "up_attention"):
        if len(o[key]) != levels or not set(o[key]) <= {None, "self", "cross"}:
            raise ConfigError(
                f'{key} must be None, "self" or "cross" for each of the {levels} levels, '
                f"got {o[key]!r}"
            )
    if o["mid_block"] == "auto":
        o["mid_block"] = next((kind for kind in attention[::-1] if kind), "plain")
    if o["mid_block"] not in (None, "self", "cross", "plain", "single"):
        raise ConfigError(f"mid_block {o['mid_block']!r} is unknown")
    kinds = {*o["attention"], *o["up_attention"], o["mid_block"]}
    if "cross" in kinds and not o["context_dim"]:
        raise ConfigError('attention "cross" needs context_dim, the width of the context\'s tokens')
    if "cross" in kinds and o["num_heads"] is None and o["head_dim"] is None:
        o["num_heads"] = [1] * levels
    if o["num_heads"] is not None:
        for channels, heads in zip(o["filters"], o["num_heads"], strict=True):
            if channels < heads:
                raise ConfigError(f"{channels} filters cannot be shared among {heads} heads")

    if o["mid_norm_groups"] is None and not o["scale_shift"]:
        o["mid_norm_groups"] = o["norm_groups"]
    o["time_embedding_dim"] = o["time_embedding_dim"] or 4 * o["filters"][0]
    if o["class_embedding"] is None and o["num_classes"] is not None:
        o["class_embedding"] = "table"
    needs = {"table": "num_classes"} | dict.fromkeys(
        ("projection", "simple_projection"), "class_features"
    )
    kind = o["class_embedding"]
    if kind not in (None, "table", "timestep", "identity", "projection", "simple_projection"):
        raise ConfigError(f"class_embedding {kind!r} is unknown")
    if kind in needs and not o[needs[kind]]:
        raise ConfigError(f"class_embedding {kind!r} needs {needs[kind]}")
    if (o["added_features"] is None) != (o["time_id_dim"] is None):
        raise ConfigError("added_features and time_id_dim go together")
    if o["added_features"] is not None and o["class_concat"]:
        raise ConfigError("class_concat does not go with added_features")
    if o["downsample_padding"] not in (0, 1):
        raise ConfigError(f"downsample_padding must be 0 or 1, got {o['downsample_padding']!r}")
    for key in ("downsampling", "upsampling"):
        if o[key] not in ("conv", "resnet"):
            raise ConfigError(f'{key} must be "conv" or "resnet", got {o[key]!r}')
    for key in ("conv_in_kernel", "conv_out_kernel"):
        require_count(key, o[key])
        if o[key] % 2 == 0:
            raise ConfigError(f"{key} must be odd, got {o[key]}")
    if not 0 <= o["dropout"] < 1:
        raise ConfigError(f"dropout must be in [0, 1), got {o['dropout']!r}")
    return o
