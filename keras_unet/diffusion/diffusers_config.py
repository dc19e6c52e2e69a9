"""Configuration files of diffusers and transformers as options of our builders, and back.

An option that we do not know, or a value that we cannot compute, is refused by name: a network
that ignores it would give other numbers without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_unet.errors import ConfigError

# What diffusers 0.42 assumes where a file leaves an option out; old files leave out many.
_UNET_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "class_embed_type": None,
    "num_class_embeds": None,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "UNet2DModel": {
        **_UNET_DEFAULTS,
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownBlock2D", *("AttnDownBlock2D",) * 3),
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": (*("AttnUpBlock2D",) * 3, "UpBlock2D"),
        "block_out_channels": (224, 448, 672, 896),
        "downsample_type": "conv",
        "upsample_type": "conv",
        "attn_norm_num_groups": None,
        "num_train_timesteps": None,
        "add_attention": True,
    },
    "UNet2DConditionModel": {
        **_UNET_DEFAULTS,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 1,
        "use_linear_projection": False,
        "upcast_attention": False,
        "class_embeddings_concat": False,
        "projection_class_embeddings_input_dim": None,
        "addition_embed_type": None,
        "addition_time_embed_dim": None,
        "addition_embed_type_num_heads": 64,  # of a type that we do not have
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "attention_type": "default",
        "cross_attention_norm": None,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "mid_block_only_cross_attention": None,
        "num_attention_heads": None,
        "only_cross_attention": False,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "reverse_transformer_layers_per_block": None,
        "time_cond_proj_dim": None,
        "time_embedding_act_fn": None,
        "timestep_post_act": None,
    },
    "AutoencoderKL": {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
        "block_out_channels": (64,),
        "layers_per_block": 1,
        "act_fn": "silu",
        "latent_channels": 4,
        "norm_num_groups": 32,
        "sample_size": 32,
        "scaling_factor": 0.18215,
        "shift_factor": None,
        "latents_mean": None,
        "latents_std": None,
        "force_upcast": True,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
        "mid_block_add_attention": True,
    },
    "CLIPTextModel": {
        "vocab_size": 49408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "projection_dim": 512,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "initializer_range": 0.02,  # of weights that are replaced
        "initializer_factor": 1.0,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 1,
        # What the file is, not what the network computes:
        "architectures": None,
        "model_type": "clip_text_model",
        "torch_dtype": None,
        "dtype": None,
        "transformers_version": None,
    },
}
DEFAULTS["CLIPTextModelWithProjection"] = DEFAULTS["CLIPTextModel"]

_ACTIVATIONS = {"silu": "silu", "swish": "silu", "mish": "mish", "gelu": "gelu", "relu": "relu"}
_KINDS = {
    "UNet2DModel": {"": None, "Attn": "self"},
    "UNet2DConditionModel": {"": None, "CrossAttn": "cross"},
}
_MID_BLOCKS = {
    "UNet2DModel": {None: None, "UNetMidBlock2D": "self"},
    "UNet2DConditionModel": {
        None: None,
        "UNetMidBlock2D": "single",
        "UNetMidBlock2DCrossAttn": "cross",
    },
}


def model_class(config: Mapping[str, Any], where: Any) -> str:
    """Which of `DEFAULTS` a configuration is of.

    Raises:
        ConfigError: it says none, or one that we do not have.
    """
    named = config.get("_class_name") or next(iter(config.get("architectures") or ()), None)
    if named is None and config.get("model_type") == "clip_text_model":
        named = "CLIPTextModel"
    if named not in DEFAULTS:
        raise ConfigError(
            f"{where}: {named or 'a model without a class name'} is not supported; "
            f"supported are {', '.join(DEFAULTS)}"
        )
    return named


def builder_options(config: Mapping[str, Any], where: Any) -> dict[str, Any]:
    """The arguments of `build_diffusion_unet`, `build_autoencoder` or `build_text_encoder`.

    Args:
        config: the contents of a `config.json`.
        where: its path, for messages.

    Raises:
        ConfigError: an option is unknown, or has a value that is not supported; it is named.
    """
    kind = model_class(config, where)
    known = DEFAULTS[kind]
    unknown = sorted(key for key in config if key not in known and not key.startswith("_"))
    if unknown:
        raise ConfigError(
            f"{where}: unknown option{'s' * (len(unknown) > 1)} of {kind}: "
            + ", ".join(f"{key} = {config[key]!r}" for key in unknown)
        )
    reader = _Reader({**known, **config}, where)
    if kind == "AutoencoderKL":
        return _autoencoder_options(reader)
    if kind.startswith("CLIP"):
        return _text_options(reader, kind)
    return _unet_options(reader, kind)


class _Reader:
    """A configuration that answers with a value, or refuses it by name."""

    def __init__(self, config: Mapping[str, Any], where: Any):
        self.config, self.where = config, where

    def __getitem__(self, key: str) -> Any:
        return self.config[key]

    def refuse(self, key: str, expected: str) -> ConfigError:
        value = self.config[key]
        return ConfigError(f"{self.where}: {key} = {value!r} is not supported; expected {expected}")

    def only(self, key: str, *allowed: Any) -> Any:
        value = self.config[key]
        # [false, false] for each level is false.
        single = value[0] if isinstance(value, list) and len({*map(str, value)}) == 1 else value
        if single not in allowed:
            raise self.refuse(key, " or ".join(map(repr, allowed)))
        return single

    def activation(self, key: str = "act_fn") -> str:
        return _ACTIVATIONS[self.only(key, *_ACTIVATIONS)]

    def whole(self, key: str) -> Any:
        """An integer, or a list of them."""
        value = self.config[key]
        items = value if isinstance(value, (list, tuple)) else [value]
        if not items or not all(type(n) is int and n > 0 for n in items):
            raise self.refuse(key, "a positive integer, or one for each level")
        return list(value) if isinstance(value, (list, tuple)) else value

    def blocks(self, key: str, kind: str, direction: str) -> list[Any]:
        """The attention of each level, from the names of its blocks."""
        allowed = {f"{k}{direction}Block2D": v for k, v in _KINDS[kind].items()}
        if not set(self.config[key]) <= set(allowed):
            raise self.refuse(key, "only " + ", ".join(allowed))
        return [allowed[name] for name in self.config[key]]


def _unet_options(c: _Reader, kind: str) -> dict[str, Any]:
    filters = c.whole("block_out_channels")
    c.only("time_embedding_type", "positional")
    size = c["time_embedding_dim"]
    if size is not None:
        c.whole("time_embedding_dim")
    mid = _MID_BLOCKS[kind][c.only("mid_block_type", *_MID_BLOCKS[kind])]
    options = {
        "input_shape": (None, None, c.whole("in_channels")),
        "out_channels": c.whole("out_channels"),
        "filters": filters,
        "layers_per_block": c.whole("layers_per_block"),
        "attention": c.blocks("down_block_types", kind, "Down"),
        "up_attention": c.blocks("up_block_types", kind, "Up"),
        "mid_block": mid,
        "time_embedding_dim": size,
        "flip_sin_to_cos": c["flip_sin_to_cos"],
        "freq_shift": c["freq_shift"],
        "scale_shift": c.only("resnet_time_scale_shift", "default", "scale_shift") != "default",
        "downsample_padding": c.only("downsample_padding", 0, 1),
        "activation": c.activation(),
        "norm_groups": c.whole("norm_num_groups"),
        "norm_epsilon": c["norm_eps"],
        "mid_output_scale": c["mid_block_scale_factor"],
        "dropout": c["dropout"],
        "center_input": c["center_input_sample"],
        "sample_size": c["sample_size"],
    }
    embedding = c["class_embed_type"]
    if embedding is None:
        options["num_classes"] = c["num_class_embeds"]
    if kind == "UNet2DModel":
        c.only("class_embed_type", None, "timestep", "identity")
        if mid == "self" and not c["add_attention"]:
            options["mid_block"] = "plain"
        if c["attention_head_dim"] is not None:
            options["head_dim"] = c.whole("attention_head_dim")
        if c["attn_norm_num_groups"] is not None:
            options["mid_norm_groups"] = c.whole("attn_norm_num_groups")
        return {
            **options,
            "class_embedding": embedding,
            "downsampling": c.only("downsample_type", "conv", "resnet"),
            "upsampling": c.only("upsample_type", "conv", "resnet"),
        }

    types = (None, "timestep", "identity", "projection", "simple_projection")
    options["class_embedding"] = c.only("class_embed_type", *types)
    if embedding in ("projection", "simple_projection"):
        options["class_features"] = c.whole("projection_class_embeddings_input_dim")
    for key, only in (
        ("attention_type", "default"),
        ("cross_attention_norm", None),
        ("dual_cross_attention", False),
        ("encoder_hid_dim", None),
        ("encoder_hid_dim_type", None),
        ("num_attention_heads", None),
        ("only_cross_attention", False),
        ("resnet_out_scale_factor", 1.0),
        ("resnet_skip_time_act", False),
        ("reverse_transformer_layers_per_block", None),
        ("time_cond_proj_dim", None),
        ("time_embedding_act_fn", None),
        ("timestep_post_act", None),
    ):
        c.only(key, only)
    c.only("mid_block_only_cross_attention", None, False)
    if "cross" in {*options["attention"], *options["up_attention"], mid}:
        if not isinstance(c["cross_attention_dim"], int):
            c.only("cross_attention_dim", "an integer")
        options["context_dim"] = c.whole("cross_attention_dim")
    if c.only("addition_embed_type", None, "text_time") is not None:
        options["added_features"] = c.whole("projection_class_embeddings_input_dim")
        options["time_id_dim"] = c.whole("addition_time_embed_dim")
    return {
        **options,
        "num_heads": c.whole("attention_head_dim"),  # a number of heads, whatever its name says
        "transformer_layers": c.whole("transformer_layers_per_block"),
        "class_concat": c["class_embeddings_concat"],
        "linear_projection": c["use_linear_projection"],
        "upcast_attention": c["upcast_attention"],
        "conv_in_kernel": c.whole("conv_in_kernel"),
        "conv_out_kernel": c.whole("conv_out_kernel"),
    }


def _autoencoder_options(c: _Reader) -> dict[str, Any]:
    filters = c.whole("block_out_channels")
    for key, name in (
        ("down_block_types", "DownEncoderBlock2D"),
        ("up_block_types", "UpDecoderBlock2D"),
    ):
        if list(c[key]) != [name] * len(filters):
            raise c.refuse(key, f"{name} for each of the {len(filters)} block_out_channels")
    c.only("latents_mean", None)
    c.only("latents_std", None)
    return {
        "input_shape": (None, None, c.whole("in_channels")),
        "out_channels": c.whole("out_channels"),
        "filters": filters,
        "layers_per_block": c.whole("layers_per_block"),
        "latent_channels": c.whole("latent_channels"),
        "norm_groups": c.whole("norm_num_groups"),
        "activation": c.activation(),
        "mid_attention": c["mid_block_add_attention"],
        "quant_conv": c["use_quant_conv"],
        "post_quant_conv": c["use_post_quant_conv"],
        "scaling_factor": c["scaling_factor"],
        "shift_factor": c["shift_factor"],
        "sample_size": c["sample_size"],
        "force_upcast": c["force_upcast"],
    }


def _text_options(c: _Reader, kind: str) -> dict[str, Any]:
    c.only("model_type", "clip_text_model")
    for key in ("attention_dropout", "dropout"):
        c.only(key, 0.0)
    return {
        "vocabulary_size": c.whole("vocab_size"),
        "hidden_size": c.whole("hidden_size"),
        "intermediate_size": c.whole("intermediate_size"),
        "layers": c.whole("num_hidden_layers"),
        "heads": c.whole("num_attention_heads"),
        "max_length": c.whole("max_position_embeddings"),
        "activation": c.only("hidden_act", "quick_gelu", "gelu"),
        "norm_epsilon": c["layer_norm_eps"],
        "projection_dim": c.whole("projection_dim") if "Projection" in kind else None,
        "bos_token": c["bos_token_id"],
        "eos_token": c["eos_token_id"],
        "pad_token": c["pad_token_id"],
    }


def unet_config(o: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of a U-Net's options.

    Raises:
        ConfigError: diffusers has no class for them.
    """
    kinds = {*o["attention"], *o["up_attention"], o["mid_block"]}
    levels = len(o["filters"])
    conditional = (
        "cross" in kinds
        or "single" in kinds
        or o["class_embedding"] in ("projection", "simple_projection")
        or o["class_concat"]
        or o["added_features"] is not None
        or (o["conv_in_kernel"], o["conv_out_kernel"]) != (3, 3)
    )
    if conditional and {"self", "plain"} & kinds:
        raise ConfigError(
            "diffusers has no network with both "
            f"{' and '.join(sorted({'self', 'plain'} & kinds))} blocks and cross attention or "
            "what else only its UNet2DConditionModel has"
        )
    kind = "UNet2DConditionModel" if conditional else "UNet2DModel"
    names = {value: key for key, value in _KINDS[kind].items()}
    mid = {value: key for key, value in _MID_BLOCKS[kind].items()}
    config = {
        **DEFAULTS[kind],
        "sample_size": o["sample_size"],
        "in_channels": o["input_shape"][2],
        "out_channels": o["out_channels"],
        "block_out_channels": o["filters"],
        "down_block_types": [f"{names[x]}DownBlock2D" for x in o["attention"]],
        "up_block_types": [f"{names[x]}UpBlock2D" for x in o["up_attention"]],
        "mid_block_type": mid["self" if o["mid_block"] == "plain" else o["mid_block"]],
        "layers_per_block": _one(o["layers_per_block"]),
        "norm_num_groups": o["norm_groups"],
        "norm_eps": o["norm_epsilon"],
        "act_fn": o["activation"],
        "flip_sin_to_cos": o["flip_sin_to_cos"],
        "freq_shift": o["freq_shift"],
        "downsample_padding": o["downsample_padding"],
        "mid_block_scale_factor": o["mid_output_scale"],
        "resnet_time_scale_shift": "scale_shift" if o["scale_shift"] else "default",
        "dropout": o["dropout"],
        "center_input_sample": o["center_input"],
        "time_embedding_dim": o["time_embedding_dim"],
        "class_embed_type": None if o["class_embedding"] == "table" else o["class_embedding"],
        "num_class_embeds": o["num_classes"] if o["class_embedding"] == "table" else None,
    }
    if not conditional:
        if not isinstance(config["layers_per_block"], int):
            raise ConfigError("diffusers' UNet2DModel has as many layers_per_block on each level")
        usual = None if o["scale_shift"] else o["norm_groups"]
        own = {
            "attention_head_dim": _head_dim(o),
            "add_attention": o["mid_block"] != "plain",
            "attn_norm_num_groups": None if o["mid_norm_groups"] == usual else o["mid_norm_groups"],
            "downsample_type": o["downsampling"],
            "upsample_type": o["upsampling"],
        }
    else:
        heads = o["num_heads"] or [n // (o["head_dim"] or n) for n in o["filters"]]
        features = o["added_features"] or o["class_features"]
        own = {
            "attention_head_dim": _one(heads),
            "cross_attention_dim": o["context_dim"] or 1280,
            "transformer_layers_per_block": _one(o["transformer_layers"]),
            "use_linear_projection": o["linear_projection"],
            "upcast_attention": o["upcast_attention"],
            "class_embeddings_concat": o["class_concat"],
            "projection_class_embeddings_input_dim": features,
            "addition_embed_type": None if o["added_features"] is None else "text_time",
            "addition_time_embed_dim": o["time_id_dim"],
            "conv_in_kernel": o["conv_in_kernel"],
            "conv_out_kernel": o["conv_out_kernel"],
        }
        if len(heads) != levels:
            raise ConfigError(f"{len(heads)} num_heads for {levels} levels")
    return {"_class_name": kind, **config, **own}


def _head_dim(o: Mapping[str, Any]) -> int | None:
    """UNet2DModel's attention_head_dim, of which there is one for all levels."""
    if o["num_heads"] is None:
        return o["head_dim"]
    kinds = [a or b for a, b in zip(o["attention"], o["up_attention"][::-1], strict=True)]
    if o["mid_block"] == "self":
        kinds[-1] = "self"
    pairs = [
        (n, heads)
        for n, heads, kind in zip(o["filters"], o["num_heads"], kinds, strict=True)
        if kind
    ]
    if all(heads == 1 for _, heads in pairs):
        return None
    widths = {n // heads for n, heads in pairs}
    if len(widths) > 1:
        raise ConfigError(
            "diffusers' UNet2DModel has heads of one width on all levels; "
            f"these have {sorted(widths)}"
        )
    return widths.pop()


def autoencoder_config(o: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of an autoencoder's options."""
    return {
        "_class_name": "AutoencoderKL",
        **DEFAULTS["AutoencoderKL"],
        "in_channels": o["input_shape"][2],
        "out_channels": o["out_channels"],
        "block_out_channels": o["filters"],
        "down_block_types": ["DownEncoderBlock2D"] * len(o["filters"]),
        "up_block_types": ["UpDecoderBlock2D"] * len(o["filters"]),
        "layers_per_block": o["layers_per_block"],
        "act_fn": o["activation"],
        "latent_channels": o["latent_channels"],
        "norm_num_groups": o["norm_groups"],
        "sample_size": o["sample_size"],
        "scaling_factor": o["scaling_factor"],
        "shift_factor": o["shift_factor"],
        "force_upcast": o["force_upcast"],
        "use_quant_conv": o["quant_conv"],
        "use_post_quant_conv": o["post_quant_conv"],
        "mid_block_add_attention": o["mid_attention"],
    }


def text_config(o: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The `config.json` of a text encoder's options."""
    projected = o["projection_dim"] is not None
    return {
        "architectures": ["CLIPTextModelWithProjection" if projected else "CLIPTextModel"],
        "model_type": "clip_text_model",
        "torch_dtype": dtype,
        "vocab_size": o["vocabulary_size"],
        "hidden_size": o["hidden_size"],
        "intermediate_size": o["intermediate_size"],
        "num_hidden_layers": o["layers"],
        "num_attention_heads": o["heads"],
        "max_position_embeddings": o["max_length"],
        "hidden_act": o["activation"],
        "layer_norm_eps": o["norm_epsilon"],
        "attention_dropout": 0.0,
        "projection_dim": o["projection_dim"] or o["hidden_size"],
        "bos_token_id": o["bos_token"],
        "eos_token_id": o["eos_token"],
        "pad_token_id": o["pad_token"],
    }


def _one(values: Sequence[int]) -> int | list[int]:
    """A number that is the same for all levels, or the list."""
    return values[0] if len(set(values)) == 1 else list(values)
