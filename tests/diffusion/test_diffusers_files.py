"""Folders of diffusers: written and read back, in every form, and refused with a cure."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("safetensors", reason="pip install 'unet-keras[diffusion]'")

from safetensors.numpy import load_file, save_file

from keras_unet.diffusion import (
    Tokenizer,
    build_autoencoder,
    build_diffusion_unet,
    build_text_encoder,
    load_diffusers,
    save_diffusers,
)
from keras_unet.diffusion.diffusers_files import weight_names
from keras_unet.errors import ConfigError, DataError

SMALL = {"filters": (8, 16), "norm_groups": 4, "layers_per_block": 1}
STEM = "diffusion_pytorch_model"
UNETS = {
    "plain": {},
    "self": {"attention": ("self", "self"), "head_dim": 4, "scale_shift": True},
    "resnet": {"attention": ("self", None), "downsampling": "resnet", "upsampling": "resnet"},
    "ddpm": {"downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "num_classes": 4},
    "no attention": {"attention": (None, None), "mid_block": "plain"},
    "no middle": {"mid_block": None},
    "cross": {"attention": ("cross", None), "context_dim": 6, "num_heads": (2, 4)},
    "convolutions": {"context_dim": 6, "linear_projection": False, "transformer_layers": (1, 2)},
    "uneven": {
        "context_dim": 6,
        "attention": ("cross", None),
        "up_attention": ("cross", "cross"),
        "layers_per_block": (1, 2),
    },
    "concatenated": {
        "context_dim": 6,
        "class_embedding": "simple_projection",
        "class_features": 5,
        "class_concat": True,
    },
    "identity": {"class_embedding": "identity"},
    "timestep": {"class_embedding": "timestep", "context_dim": 6, "mid_block": "single"},
    "sdxl": {"context_dim": 6, "added_features": 13, "time_id_dim": 4, "upcast_attention": True},
    "kernels": {"context_dim": 6, "conv_in_kernel": 5, "conv_out_kernel": 1, "center_input": True},
    "middle": {"mid_norm_groups": 2, "mid_output_scale": 1.5, "activation": "gelu"},
}


def same(one, other):
    assert one.options == other.options
    ours, theirs = weight_names(one), weight_names(other)
    assert list(ours) == list(theirs)
    for name, variable in ours.items():
        np.testing.assert_array_equal(variable, theirs[name], err_msg=name)


@pytest.mark.parametrize("kind", UNETS)
def test_unets_there_and_back(tmp_path, kind):
    unet = build_diffusion_unet((None, None, 3), 2, **{**SMALL, **UNETS[kind]})
    folder = save_diffusers(unet, tmp_path / "unet")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", f"{STEM}.safetensors"]
    same(load_diffusers(folder), unet)


def test_names_and_layouts(tmp_path):
    """As PyTorch has them: (out, in, kh, kw), (out, in); and diffusers' format note."""
    from safetensors import safe_open

    options = {**SMALL, "attention": ("cross", "cross"), "context_dim": 6, "num_classes": 3}
    for linear, projection in ((True, (8, 8)), (False, (8, 8, 1, 1))):
        unet = build_diffusion_unet((8, 8, 3), 2, **options, linear_projection=linear)
        save_diffusers(unet, tmp_path)
        arrays = load_file(tmp_path / f"{STEM}.safetensors")
        block = "down_blocks.0.attentions.0"
        shapes = {
            "conv_in.weight": (8, 3, 3, 3),
            "conv_out.bias": (2,),
            "class_embedding.weight": (3, 32),
            "time_embedding.linear_1.weight": (32, 8),
            "down_blocks.1.resnets.0.conv_shortcut.weight": (16, 8, 1, 1),
            "down_blocks.0.downsamplers.0.conv.weight": (8, 8, 3, 3),
            "up_blocks.0.upsamplers.0.conv.bias": (16,),
            f"{block}.proj_in.weight": projection,
            f"{block}.transformer_blocks.0.attn2.to_k.weight": (8, 6),
            f"{block}.transformer_blocks.0.attn1.to_out.0.bias": (8,),
            f"{block}.transformer_blocks.0.ff.net.0.proj.weight": (64, 8),
            f"{block}.transformer_blocks.0.ff.net.2.weight": (8, 32),
            "mid_block.attentions.0.norm.weight": (16,),
        }
        assert {name: arrays[name].shape for name in shapes} == shapes
        kernel = unet.get_layer("conv_in").kernel.numpy()
        np.testing.assert_array_equal(arrays["conv_in.weight"], kernel.transpose(3, 2, 0, 1))
        with safe_open(tmp_path / f"{STEM}.safetensors", "numpy") as file:
            assert file.metadata() == {"format": "pt"}


@pytest.fixture
def autoencoder():
    return build_autoencoder(
        (None, None, 1), filters=(4, 8), norm_groups=4, layers_per_block=1, shift_factor=0.5
    )


@pytest.fixture
def text_encoder():
    return build_text_encoder(
        30, hidden_size=8, intermediate_size=12, layers=2, heads=2, projection_dim=4
    )


@pytest.fixture
def folder(tmp_path, autoencoder):
    return save_diffusers(autoencoder, tmp_path / "vae")


def test_autoencoder_and_text_encoder(tmp_path, folder, autoencoder, text_encoder):
    same(load_diffusers(folder), autoencoder)
    save_diffusers(text_encoder, tmp_path / "text")
    same(load_diffusers(tmp_path / "text"), text_encoder)
    names = load_file(tmp_path / "text" / "model.safetensors")
    assert "text_model.encoder.layers.1.self_attn.q_proj.weight" in names
    assert "text_projection.weight" in names


@pytest.mark.parametrize("dtype", ["float64", "mixed_bfloat16", "bfloat16"])
def test_precision_is_the_readers(folder, autoencoder, dtype):
    again = load_diffusers(folder, dtype=dtype)
    kernel = again.encoder.get_layer("encoder_conv_in").kernel
    assert kernel.dtype == {"mixed_bfloat16": "float32"}.get(dtype, dtype)
    for a, b in zip(again.get_weights(), autoencoder.get_weights(), strict=True):
        np.testing.assert_allclose(a.astype("float32"), b, rtol=1e-2)


def test_what_is_trained_on_can_be_loaded(folder):
    """Dropout's random numbers too have a state; it is not in the file."""
    unet = build_diffusion_unet((8, 8, 1), **SMALL, dropout=0.5)
    again = load_diffusers(save_diffusers(unet, folder.parent / "unet"))
    inputs = {"sample": np.ones((1, 8, 8, 1)), "timestep": np.ones(1)}
    one, other = (np.asarray(again(inputs, training=True)) for _ in range(2))
    assert not np.allclose(one, other)


def arrays_of(folder):
    return load_file(folder / f"{STEM}.safetensors")


def replace(folder, arrays, name=f"{STEM}.safetensors"):
    (folder / f"{STEM}.safetensors").unlink(missing_ok=True)
    save_file(arrays, folder / name)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", [f"{STEM}.fp16.safetensors", f"{STEM}.safetensors"])
def test_half_precision_files(folder, half, name):
    import ml_dtypes  # noqa: F401  NumPy then knows bfloat16

    arrays = {key: value.astype(half) for key, value in arrays_of(folder).items()}
    replace(folder, arrays, name)
    again = weight_names(load_diffusers(folder))
    np.testing.assert_array_equal(
        again["encoder.conv_in.bias"], arrays["encoder.conv_in.bias"].astype("float32")
    )


@pytest.mark.parametrize(
    ("index", "shard"),
    [
        (f"{STEM}.safetensors.index.json", f"{STEM}-0000{{}}-of-00002.safetensors"),
        (f"{STEM}.safetensors.index.fp16.json", f"{STEM}.fp16-0000{{}}-of-00002.safetensors"),
    ],
)
def test_shards(folder, autoencoder, index, shard):
    arrays = arrays_of(folder)
    (folder / f"{STEM}.safetensors").unlink()
    parts = {name: shard.format(1 + i % 2) for i, name in enumerate(arrays)}
    for file in set(parts.values()):
        save_file({k: v for k, v in arrays.items() if parts[k] == file}, folder / file)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    same(load_diffusers(folder), autoencoder)

    (folder / shard.format(2)).unlink()
    with pytest.raises(
        DataError, match=f"{index} names .*2-of-00002.safetensors, which is missing"
    ):
        load_diffusers(folder)
    (folder / index).write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(DataError, match="names a file outside its folder"):
        load_diffusers(folder)
    (folder / index).write_text("[]")
    with pytest.raises(DataError, match="is no index of safetensors files"):
        load_diffusers(folder)


def test_which_variant(folder, autoencoder):
    arrays = arrays_of(folder)
    zeros = {name: np.zeros_like(array) for name, array in arrays.items()}
    save_file(zeros, folder / f"{STEM}.fp16.safetensors")
    same(load_diffusers(folder), autoencoder)  # the plain one
    assert not any(np.any(w) for w in load_diffusers(folder, variant="fp16").get_weights())
    save_file(arrays, folder / f"{STEM}.non_ema.safetensors")
    same(load_diffusers(folder, variant="non_ema"), autoencoder)
    (folder / f"{STEM}.safetensors").unlink()
    with pytest.raises(DataError, match="variants are fp16, non_ema: name one by variant="):
        load_diffusers(folder)
    with pytest.raises(DataError, match=f"has no {STEM}.bf16.safetensors"):
        load_diffusers(folder, variant="bf16")


def test_old_names(tmp_path, folder, autoencoder, text_encoder):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    arrays = arrays_of(folder)
    for new, name in old.items():
        arrays = {key.replace(f".{new}.", f".{name}."): value for key, value in arrays.items()}
    assert any(".proj_attn." in key for key in arrays)
    replace(folder, arrays)
    same(load_diffusers(folder), autoencoder)

    text = save_diffusers(text_encoder, tmp_path / "text")
    arrays = load_file(text / "model.safetensors")
    new = {key.removeprefix("text_model."): value for key, value in arrays.items()}
    ids = {"text_model.embeddings.position_ids": np.arange(77)[None]}
    for stored in (new, {**arrays, **ids}):
        save_file(stored, text / "model.safetensors")
        same(load_diffusers(text), text_encoder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1, -1000])
def test_cut_short(folder, keep):
    path = folder / f"{STEM}.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=rf"{STEM}.safetensors \([\d,]+ bytes\) is no complete .*"):
        load_diffusers(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff" * 1000, "was cut short or damaged; copy or download it again"),
        (b"<!DOCTYPE html><html>login</html>", "was cut short or damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    ],
)
def test_not_a_weight_file(folder, content, message):
    (folder / f"{STEM}.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=f"{STEM}.safetensors.*{message}"):
        load_diffusers(folder)


@pytest.mark.parametrize("name", [f"{STEM}.bin", "model.ckpt", f"{STEM}.fp16.bin"])
def test_pickle_is_not_read(folder, name):
    (folder / f"{STEM}.safetensors").rename(folder / name)
    with pytest.raises(DataError, match=f"pickle files .{name}.*safe_serialization=True"):
        load_diffusers(folder)


def test_no_weights_at_all(folder):
    (folder / f"{STEM}.safetensors").unlink()
    with pytest.raises(DataError, match=f"has no weights: expected {STEM}.safetensors"):
        load_diffusers(folder)


def test_weights_of_another_network(folder):
    arrays = arrays_of(folder)
    replace(folder, {k: v for k, v in arrays.items() if k != "decoder.conv_in.bias"})
    with pytest.raises(DataError, match="1 missing: decoder.conv_in.bias"):
        load_diffusers(folder)
    replace(folder, {**arrays, "decoder.extra.weight": np.zeros(1)})
    with pytest.raises(DataError, match="1 unexpected: decoder.extra.weight"):
        load_diffusers(folder)
    replace(folder, {**arrays, "decoder.conv_in.weight": np.zeros((3, 4, 3, 3), "float32")})
    with pytest.raises(DataError, match=r"decoder.conv_in.weight has shape \(3, 4, 3, 3\)"):
        load_diffusers(folder)


def change(folder, **options):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_tiling": True}, "unknown option of AutoencoderKL: use_tiling = True"),
        ({"a": 1, "b": None}, "unknown options of AutoencoderKL: a = 1, b = None"),
        ({"latents_mean": [0.1]}, r"latents_mean = \[0.1\] is not supported; expected None"),
        ({"act_fn": "tanh"}, "act_fn = 'tanh' is not supported; expected 'silu'"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "down_block_types = "),
        ({"block_out_channels": "8"}, "block_out_channels = '8' is not supported"),
        ({"norm_num_groups": 3}, "filters must divide by norm_groups .3."),
        ({"_class_name": "VQModel"}, "VQModel is not supported; supported are UNet2DModel"),
        ({"_class_name": None}, "a model without a class name is not supported"),
    ],
)
def test_configurations_that_are_refused(folder, options, message):
    change(folder, **options)
    with pytest.raises(ConfigError, match=f"config.json.*{message}"):
        load_diffusers(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("time_embedding_type", "fourier"),
        ("only_cross_attention", True),
        ("only_cross_attention", [True, False]),
        ("encoder_hid_dim", 8),
        ("addition_embed_type", "image"),
        ("time_cond_proj_dim", 256),
        ("resnet_skip_time_act", True),
        ("attention_type", "gated"),
        ("class_embed_type", "fancy"),
        ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        ("down_block_types", ["CrossAttnDownBlock2D", "KDownBlock2D"]),
        ("cross_attention_dim", [6, 6]),
        ("attention_head_dim", None),
        ("resnet_time_scale_shift", "ada_group"),
        ("new_feature", None),
    ],
)
def test_unet_options_are_refused_by_name(tmp_path, key, value):
    unet = build_diffusion_unet((8, 8, 1), **SMALL, attention=("cross", None), context_dim=6)
    folder = save_diffusers(unet, tmp_path)
    change(folder, only_cross_attention=[False, False])  # that is "no" for each level
    load_diffusers(folder)
    change(folder, **{key: value})
    with pytest.raises(ConfigError, match=f"config.json.*{key} = "):
        load_diffusers(folder)


def test_old_configurations_leave_options_out(tmp_path):
    """Those of 2022 end with norm_eps; what came later has its default."""
    unet = build_diffusion_unet(
        (None, None, 4), **SMALL, context_dim=1280, num_heads=8, linear_projection=False
    )
    path = save_diffusers(unet, tmp_path) / "config.json"
    config = json.loads(path.read_text())
    kept = ("_class_name", "block_out_channels", "down_block_types", "up_block_types")
    kept += ("layers_per_block", "norm_num_groups")
    path.write_text(json.dumps({key: config[key] for key in kept}))
    again = load_diffusers(tmp_path)
    for key, value in unet.options.items():
        assert again.options[key] == value, key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": ("self", "cross"), "context_dim": 6}, "no network with both self blocks"),
        ({"attention": ("self", "self"), "num_heads": 2}, r"heads of one width.*\[4, 8\]"),
        ({"layers_per_block": (1, 2)}, "as many layers_per_block"),
    ],
)
def test_networks_that_diffusers_has_not(tmp_path, options, message):
    unet = build_diffusion_unet((8, 8, 1), **{**SMALL, **options})
    with pytest.raises(ConfigError, match=message):
        save_diffusers(unet, tmp_path / "unet")
    assert not (tmp_path / "unet").exists()


def test_not_a_folder(tmp_path, folder):
    with pytest.raises(DataError, match="is no folder$"):
        load_diffusers(tmp_path / "nowhere")
    with pytest.raises(DataError, match="neither config.json nor model_index.json"):
        load_diffusers(tmp_path)
    (folder / "config.json").write_text("{'a'")
    with pytest.raises(DataError, match="config.json is no JSON file"):
        load_diffusers(folder)
    with pytest.raises(ConfigError, match="save_diffusers takes a U-Net.*got int"):
        save_diffusers(1, tmp_path)


class Parts:
    """What a TextToImage is made of."""

    def __init__(self, **parts):
        self.__dict__.update(parts)


@pytest.fixture
def pipeline(tmp_path, autoencoder, monkeypatch):
    import sys
    import types

    module = types.ModuleType("keras_unet.diffusion.text_to_image")
    module.TextToImage = Parts
    monkeypatch.setitem(sys.modules, module.__name__, module)
    symbols = [*map(chr, range(33, 127)), "<|startoftext|>", "<|endoftext|>"]
    text = build_text_encoder(30, hidden_size=8, intermediate_size=12, layers=1, heads=2)
    parts = Parts(
        unet=build_diffusion_unet((None, None, 4), **SMALL, context_dim=8),
        autoencoder=autoencoder,
        text_encoder=text,
        tokenizer=Tokenizer({s: i for i, s in enumerate(symbols)}, []),
        scheduler_config={"_class_name": "PNDMScheduler", "beta_start": 0.00085},
    )
    return parts, save_diffusers(parts, tmp_path / "pipeline")


def test_pipeline_there_and_back(pipeline):
    parts, folder = pipeline
    again = load_diffusers(folder)
    for name in ("unet", "autoencoder", "text_encoder"):
        same(getattr(again, name), getattr(parts, name))
    assert again.scheduler_config == parts.scheduler_config
    assert again.tokenizer.vocabulary == parts.tokenizer.vocabulary


def test_pipelines_that_are_refused(pipeline):
    _, folder = pipeline
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({**index, "safety_checker": ["stable_diffusion", "Checker"]}))
    with pytest.warns(UserWarning, match="the safety checker is not loaded"):
        load_diffusers(folder)
    for change, message in (
        (
            {"_class_name": "StableDiffusionXLPipeline"},
            "StableDiffusionXLPipeline is not supported",
        ),
        ({"controlnet": ["diffusers", "ControlNetModel"]}, "with controlnet is not supported"),
    ):
        path.write_text(json.dumps({**index, **change}))
        with pytest.raises(ConfigError, match=message):
            load_diffusers(folder)
    path.write_text(json.dumps({k: v for k, v in index.items() if k != "vae"}))
    with pytest.raises(DataError, match="has no vae"):
        load_diffusers(folder)
