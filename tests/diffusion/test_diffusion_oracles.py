"""Equal to diffusers and transformers, number by number, where the reference values are at hand."""

from __future__ import annotations

import json
import shutil

import keras
import numpy as np
import pytest
from diffusion_oracles import channels_last, distance

from keras_unet.diffusion import Tokenizer, load_diffusers, save_diffusers

UNETS = {  # folder -> parameters
    "unet_sd1": 353_220,
    "unet_concat": 51_683,
    "unet2d_ddpm": 122_275,
    "unet2d_ldm": 104_535,
    "unet2d_class_scale_shift": 145_838,
    "unet2d_class_default": 117_705,
    "unet_sd2": 141_924,
    "unet_classembed_table": 51_908,
    "unet_classembed_timestep": 53_028,
    "unet_classembed_projection": 53_412,
    "unet_classembed_simple_projection_concat": 55_684,
    "unet_classembed_identity_scale_shift": 55_116,
    "unet_sdxl": 173_132,
    "unet_eps_probe": 51_684,
}
AUTOENCODERS = {"vae_kl": 83_679, "vae_kl_no_quant": 14_959, "vae_eps_probe": 15_223}
INPUTS = {
    "encoder_hidden_states": "context",
    "added_cond_kwargs.text_embeds": "text_embeds",
    "added_cond_kwargs.time_ids": "time_ids",
}
PRECISIONS = ("float64", "float32")


@pytest.fixture(scope="module")
def oracles(shared):
    folder = shared / "oracles" / "diffusion"
    if not folder.is_dir():
        pytest.skip(f"reference values not found at {folder}")
    return folder


def calls(values, key):
    return [call for call in "ABC" if f"{call}.{key}" in values]


def unet_inputs(values, call):
    names = [name[2:] for name in values if name.startswith(f"{call}.")]
    return {
        INPUTS.get(name, name): channels_last(values[f"{call}.{name}"])
        for name in names
        if not name.startswith(("out", "act."))
    }


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", UNETS)
def test_unet(oracles, name, dtype):
    unet = load_diffusers(oracles / name, dtype=dtype)
    assert unet.count_params() == UNETS[name]
    values = np.load(oracles / name / "io.npz")
    for call in calls(values, "sample"):
        out = unet(unet_inputs(values, call))
        error = distance(out, channels_last(values[f"{call}.out"]))
        assert error < {"float64": 1e-10, "float32": 1e-3}[dtype], call


@pytest.mark.parametrize("name", ["unet_sd1", "unet2d_class_scale_shift"])
def test_inside_a_unet(oracles, name):
    """Every layer that bears the name of one of diffusers' modules has its activations."""
    unet = load_diffusers(oracles / name, dtype="float64")
    values = np.load(oracles / name / "io.npz")
    wanted = {
        key[6:].replace(".", "_"): channels_last(values[key])
        for key in values
        if key.startswith("A.act.")
    }
    found = {layer.name: layer.output for layer in unet.layers if layer.name in wanted}
    assert len(found) > 10
    for layer, out in keras.Model(unet.input, found)(unet_inputs(values, "A")).items():
        assert distance(np.asarray(out).reshape(wanted[layer].shape), wanted[layer]) < 1e-6, layer


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoder(oracles, name, dtype):
    autoencoder = load_diffusers(oracles / name, dtype=dtype)
    assert autoencoder.count_params() == AUTOENCODERS[name]
    values = np.load(oracles / name / "io.npz")
    most = {"float64": 1e-11, "float32": 2e-5}[dtype]
    for call in calls(values, "image"):
        image, mode, z = (channels_last(values[f"{call}.{x}"]) for x in ("image", "mode", "z"))
        for ours, reference in (
            (autoencoder.moments(image), "moments"),
            (autoencoder.encode(image), "mode"),
            (autoencoder.decode(mode), "decoded_mode"),
            (autoencoder.decode(z), "decoded_z"),
        ):
            error = distance(ours, channels_last(values[f"{call}.{reference}"]))
            assert error < most, (call, reference)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", ["clip_gelu", "clip_quick_gelu", "clip_gelu_projection"])
def test_text_encoder(oracles, name, dtype):
    text = load_diffusers(oracles / name, dtype=dtype)
    values = np.load(oracles / name / "io.npz")
    pooled = "text_embeds" if "projection" in name else "pooler_output"
    for call in calls(values, "input_ids"):
        out = text({"input_ids": values[f"{call}.input_ids"]})
        for ours, reference in (
            ("last_hidden_state", "last_hidden_state"),
            ("penultimate", "penultimate_normed"),
            ("pooled", pooled),
        ):
            error = distance(out[ours], values[f"{call}.{reference}"])
            assert error < {"float64": 1e-11, "float32": 1e-5}[dtype], (call, ours)


@pytest.mark.parametrize("form", ["fp16", "bf16", "sharded"])
def test_forms_of_weight_files(oracles, form):
    autoencoder = load_diffusers(oracles / "weight_files" / form, dtype="float64")
    values = np.load(oracles / "weight_files" / "io.npz")
    decoded = channels_last(values[f"{form}.decoded"])
    assert distance(autoencoder.decode(channels_last(values["z"])), decoded) < 1e-11


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vae_kl", "diffusion_pytorch_model.safetensors"),
        ("clip_gelu", "model.safetensors"),
        ("clip_quick_gelu", "model.safetensors"),
    ],
)
def test_old_names(oracles, tmp_path, name, file):
    shutil.copy(oracles / name / "config.json", tmp_path)
    shutil.copy(oracles / name / "oldnames.safetensors", tmp_path / file)
    old, new = load_diffusers(tmp_path), load_diffusers(oracles / name)
    for a, b in zip(old.get_weights(), new.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", [*UNETS, *AUTOENCODERS, "clip_gelu", "clip_gelu_projection"])
def test_written_folders_say_what_they_said(oracles, tmp_path, name):
    """The same configuration, and the same arrays under the same names."""
    from safetensors.numpy import load_file

    def contents(folder):
        (file,) = (p for p in folder.glob("*model.safetensors"))
        prefix = "text_model."
        arrays = {k.removeprefix(prefix): v for k, v in load_file(file).items()}
        return json.loads((folder / "config.json").read_text()), arrays

    save_diffusers(load_diffusers(oracles / name), tmp_path)
    (config, arrays), (theirs, reference) = contents(tmp_path), contents(oracles / name)
    assert arrays.keys() == reference.keys()
    for key, array in reference.items():
        np.testing.assert_array_equal(arrays[key], array, err_msg=key)
    told = {"time_embedding_dim"}  # written out by us, left to its default by them
    told |= {"projection_dim"} if name == "clip_gelu" else set()  # of a projection it has not
    for key in config.keys() & theirs.keys() - told:
        assert config[key] == theirs[key], key


def test_tokenizer(oracles, tmp_path):
    tokenizer = Tokenizer.load(oracles / "sd_pipeline" / "tokenizer")
    cases = json.loads((oracles / "sd_pipeline" / "tokenizer_cases.json").read_text())
    shutil.copy(oracles / "sd_pipeline" / "tokenizer" / "tokenizer.json", tmp_path)
    for one in (tokenizer, Tokenizer.load(tmp_path)):
        rows = one([case["text"] for case in cases])
        np.testing.assert_array_equal(rows, [case["input_ids"] for case in cases])
