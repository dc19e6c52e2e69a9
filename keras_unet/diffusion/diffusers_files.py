"""`load_diffusers` and `save_diffusers`: folders that diffusers wrote, and that it can read."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from keras_unet import disk
from keras_unet.diffusion import diffusers_config, diffusers_weights
from keras_unet.diffusion.autoencoder import Autoencoder
from keras_unet.diffusion.deferred import deferred, fill
from keras_unet.diffusion.text_encoder import TextEncoder
from keras_unet.diffusion.tokenizer import Tokenizer
from keras_unet.diffusion.unet import DiffusionUNet
from keras_unet.errors import ConfigError, DataError

_CLASSES: dict[str, type] = {
    "UNet2DModel": DiffusionUNet,
    "UNet2DConditionModel": DiffusionUNet,
    "AutoencoderKL": Autoencoder,
    "CLIPTextModel": TextEncoder,
    "CLIPTextModelWithProjection": TextEncoder,
}
# What a pipeline's folder may hold beside its parts and may lack here: they do not change images.
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def load_diffusers(folder: str | Path, dtype: Any = None, *, variant: str | None = None) -> Any:
    """Reads a model that diffusers (or `save_diffusers`) wrote.

    Args:
        folder: of a component (`config.json` and safetensors: one file, fp16 or bf16 variants,
            shards, old names), or of a whole Stable Diffusion pipeline (`model_index.json`).
        dtype: dtype or Keras dtype policy of the layers, whatever the file's is; None is Keras's
            global policy.
        variant: which files to take if there are several, such as "fp16"; None: the plain ones.

    Returns:
        A `DiffusionUNet`, `Autoencoder` or `TextEncoder`; a `TextToImage` of a pipeline.

    Raises:
        ConfigError: an option in a `config.json` is unknown or unsupported; it is named.
        DataError: a file is missing, damaged, or does not fit; it is named. Pickle files are not
            read.

    Example:

    >>> unet = load_diffusers("stable-diffusion/unet", dtype="mixed_bfloat16")
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    if (folder / "model_index.json").is_file():
        return _load_pipeline(folder, dtype, variant)
    if not (folder / "config.json").is_file():
        raise DataError(
            f"{folder} is no folder of diffusers: it has neither config.json nor model_index.json"
        )
    return _load_component(folder, dtype, variant)


def save_diffusers(model: Any, folder: str | Path) -> Path:
    """Writes a folder that diffusers reads to the same numbers; returns it.

    Args:
        model: a `DiffusionUNet`, `Autoencoder`, `TextEncoder` or `TextToImage`.
        folder: is made; files of the same names in it are replaced.

    Raises:
        ConfigError: the model is none of these, or diffusers has no network like it.
    """
    folder = Path(folder)
    if all(hasattr(model, part) for part in ("unet", "autoencoder", "tokenizer")):
        return _save_pipeline(model, folder)
    if isinstance(model, DiffusionUNet):
        stem, config = "diffusion_pytorch_model", diffusers_config.unet_config(model.options)
    elif isinstance(model, Autoencoder):
        stem, config = "diffusion_pytorch_model", diffusers_config.autoencoder_config(model.options)
    elif isinstance(model, TextEncoder):
        dtype = model.policy.variable_dtype
        stem, config = "model", diffusers_config.text_config(model.options, dtype)
    else:
        raise ConfigError(
            "save_diffusers takes a U-Net, autoencoder or text encoder of keras_unet.diffusion, or "
            f"a TextToImage; got {type(model).__name__}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "text_model." if isinstance(model, TextEncoder) else ""
    linear = model.options.get("linear_projection", True)
    arrays = {
        ("" if name.startswith("text_projection") else prefix) + name: diffusers_weights.to_file(
            name, variable, linear
        )
        for name, variable in diffusers_weights.weight_names(model).items()
    }
    diffusers_weights.write_weights(folder / f"{stem}.safetensors", arrays)
    _write(folder / "config.json", config)
    return folder


def _load_component(folder: Path, dtype: Any, variant: str | None) -> Any:
    path = folder / "config.json"
    config = _read(path)
    kind = diffusers_config.model_class(config, path)
    options = diffusers_config.builder_options(config, path)
    stem = "model" if kind.startswith("CLIP") else "diffusion_pytorch_model"
    with diffusers_weights.open_weights(folder, stem, variant) as weights:
        try:
            model, variables = deferred(lambda: _CLASSES[kind](dtype=dtype, **options))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        names = diffusers_weights.weight_names(model)
        diffusers_weights.check_names(names, weights, folder)
        for name, variable in names.items():
            array = weights[name]
            value = diffusers_weights.from_file(array, variable)
            if value.shape != tuple(variable.shape):
                raise DataError(
                    f"{weights.path(name)}: {name} has shape {array.shape}, which does not fit "
                    f"config.json: our kernel would be {value.shape}, not {tuple(variable.shape)}"
                )
            fill(variable, value)
    filled = {id(variable) for variable in names.values()}
    for variable in variables:
        if id(variable) not in filled:  # the state of a dropout's random numbers
            fill(variable)
    return model


def _load_pipeline(folder: Path, dtype: Any, variant: str | None) -> Any:
    path = folder / "model_index.json"
    index = _read(path)
    parts = {k: v for k, v in index.items() if isinstance(v, list) and any(v)}
    unused = [name for name in _UNUSED if parts.pop(name, None)]
    if index.get("_class_name") != "StableDiffusionPipeline" or set(parts) - set(_PARTS):
        extra = sorted(set(parts) - set(_PARTS))
        raise ConfigError(
            f"{path}: {index.get('_class_name')}{' with ' + ', '.join(extra) if extra else ''} is "
            "not supported, only StableDiffusionPipeline is as a whole. Its networks can be loaded "
            f"one by one: load_diffusers({str(folder / 'unet')!r})"
        )
    missing = [name for name in _PARTS if name not in parts or not (folder / name).is_dir()]
    if missing:
        raise DataError(f"{folder} has no {', '.join(missing)}")
    if "safety_checker" in unused:
        warnings.warn(
            f"{folder}: the safety checker is not loaded; images are not filtered", stacklevel=3
        )
    from keras_unet.diffusion.text_to_image import TextToImage

    unet, autoencoder, text_encoder = (
        _load_component(folder / name, dtype, variant) for name in _PARTS[:3]
    )
    scheduler = _read(folder / "scheduler" / "scheduler_config.json")
    try:
        return TextToImage(
            unet=unet,
            autoencoder=autoencoder,
            text_encoder=text_encoder,
            tokenizer=Tokenizer.load(folder / "tokenizer"),
            scheduler_config={"_class_name": parts["scheduler"][-1], **scheduler},
        )
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from None


def _save_pipeline(pipeline: Any, folder: Path) -> Path:
    save_diffusers(pipeline.unet, folder / "unet")
    save_diffusers(pipeline.autoencoder, folder / "vae")
    save_diffusers(pipeline.text_encoder, folder / "text_encoder")
    pipeline.tokenizer.save(folder / "tokenizer")
    scheduler = {"_class_name": "DDIMScheduler", **pipeline.scheduler_config}
    (folder / "scheduler").mkdir(exist_ok=True)
    _write(folder / "scheduler" / "scheduler_config.json", scheduler)
    unet = diffusers_config.unet_config(pipeline.unet.options)["_class_name"]
    _write(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", unet],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", scheduler["_class_name"]],
            **{name: [None, None] for name in _UNUSED},
            "requires_safety_checker": False,
        },
    )
    return folder


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is no JSON file: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _write(path: Path, content: Any) -> None:
    disk.write_text(path, json.dumps(content, indent=2) + "\n")
