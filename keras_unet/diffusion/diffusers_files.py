"""Folders of diffusers: read into our networks, and written so that diffusers reads them.

A convolution's kernel is (out, in, kh, kw) there and (kh, kw, in, out) here, a dense layer's
(out, in) there and (in, out) here. The names follow from ours: see `weight_names`.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import keras
import ml_dtypes  # noqa: F401  NumPy then knows bfloat16
import numpy as np
from keras.src.backend.common import global_state  # no public name reaches the list of variables

from keras_unet import disk
from keras_unet.diffusion import diffusers_config
from keras_unet.diffusion.autoencoder import Autoencoder
from keras_unet.diffusion.text import TextEncoder, Tokenizer
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
_LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "embeddings": "weight"}
_LISTS = "blocks|resnets|attentions|downsamplers|upsamplers|to_out|net|layers"
_GROUPS = ("encoder", "decoder", "mid_block", "ff", "self_attn", "mlp")
# Under older names in older files.
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PENDING = "uninitialized_variables"


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


def _load_component(folder: Path, dtype: Any, variant: str | None) -> Any:
    path = folder / "config.json"
    config = _read(path)
    kind = diffusers_config.model_class(config, path)
    options = diffusers_config.builder_options(config, path)
    stem = "model" if kind.startswith("CLIP") else "diffusion_pytorch_model"
    with open_weights(folder, stem, variant) as weights:
        try:
            model, variables = deferred(lambda: _CLASSES[kind](dtype=dtype, **options))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        names = weight_names(model)
        check_names(names, weights, folder)
        for name, variable in names.items():
            array = weights[name]
            value = from_file(array, variable)
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
        ("" if name.startswith("text_projection") else prefix) + name: to_file(
            name, variable, linear
        )
        for name, variable in weight_names(model).items()
    }
    write_weights(folder / f"{stem}.safetensors", arrays)
    _write(folder / "config.json", config)
    return folder


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


def weight_names(model: Any) -> dict[str, Any]:
    """diffusers' name of each weight -> the variable.

    `down_blocks_0_attentions_1/transformer_blocks_0/attn1/to_q/kernel` is
    `down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.weight`.
    """
    return {_dotted(variable.path, _layer(model, variable)): variable for variable in _saved(model)}


def _saved(model: Any) -> list[Any]:
    return [v for v in model.weights if not v.path.endswith("seed_generator_state")]


def _layers(model: Any) -> list[Any]:
    """The named blocks; those of an autoencoder are in its two halves."""
    halves = [getattr(model, half) for half in ("encoder", "decoder") if hasattr(model, half)]
    return [layer for part in halves or [model] for layer in part.layers]


def _layer(model: Any, variable: Any) -> str:
    names = {layer.name for layer in _layers(model)}
    return next(part for part in variable.path.split("/") if part in names)


def _dotted(path: str, layer: str) -> str:
    parts = path.split("/")
    *modules, leaf = parts[parts.index(layer) :]
    name = ".".join(modules)
    name = re.sub(rf"({_LISTS})_(\d+)_?", r"\1.\2.", name).replace("..", ".").rstrip(".")
    for group in _GROUPS:
        name = re.sub(rf"(^|\.){group}_", rf"\1{group}.", name)
    return f"{name}.{_LEAVES.get(leaf, leaf)}"


def file_name(name: str) -> str:
    """A name of a file in its present form; the same for one that has it already."""
    name = name.removeprefix("text_model.")
    *modules, parent, leaf = ["", *name.split(".")]
    return ".".join([*modules, _OLD.get(parent, parent), leaf]).lstrip(".")


def from_file(array: np.ndarray, variable: Any) -> np.ndarray:
    """A file's array in our layout and the variable's dtype."""
    if variable.path.endswith("/kernel"):
        if len(variable.shape) == 2 and array.ndim == 4:  # a 1x1 convolution is a dense layer
            array = array[:, :, 0, 0] if array.shape[2:] == (1, 1) else array
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return np.ascontiguousarray(array.astype(variable.dtype, copy=False))


def to_file(name: str, variable: Any, linear: bool = True) -> np.ndarray:
    """The variable's value in the file's layout; `linear`: transformers' projections are so."""
    array = np.asarray(variable.numpy() if hasattr(variable, "numpy") else variable)
    if variable.path.endswith("/kernel"):
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        if not linear and name.endswith((".proj_in.weight", ".proj_out.weight")):
            array = array[:, :, None, None]
    return np.ascontiguousarray(array)


@contextmanager
def open_weights(folder: Path, stem: str, variant: str | None = None) -> Iterator[Weights]:
    """The weights of a component's folder, to be read one by one.

    Args:
        folder: of the component.
        stem: of the file: "diffusion_pytorch_model", or "model" (transformers).
        variant: such as "fp16"; None: the plain file, else the only variant that there is.

    Raises:
        DataError: see `find_files` and `Weights`.
    """
    with ExitStack() as stack:
        yield Weights(find_files(folder, stem, variant), stack)


def find_files(folder: Path, stem: str, variant: str | None = None) -> list[Path]:
    """A component's safetensors files: one, or the shards that its index names.

    Raises:
        DataError: there are none (and what there is instead), or a shard is missing.
    """
    found = {path.name: path for path in folder.glob(f"{stem}*.safetensors*")}
    for name in _candidates(found, stem, variant):
        if name.endswith(".json"):
            return _shards(found[name])
        return [found[name]]
    variants = sorted({m[1] for n in found if (m := re.match(rf"{stem}\.([^.]+)\.safe", n))})
    if variant is not None or len(variants) > 1:
        raise DataError(
            f"{folder} has no {stem}{'' if variant is None else '.' + variant}.safetensors; "
            f"its variants are {', '.join(variants) or 'none'}: name one by variant=…"
        )
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLED)
    if pickled:
        raise DataError(
            f"{folder} holds its weights as pickle files ({', '.join(pickled)}), which can run "
            "any code when they are read, and are not. Convert the folder where you trust it: "
            "in diffusers, pipeline.save_pretrained(folder, safe_serialization=True)"
        )
    raise DataError(f"{folder} has no weights: expected {stem}.safetensors")


def _candidates(found: Mapping[str, Path], stem: str, variant: str | None) -> Iterable[str]:
    plain = [f"{stem}.safetensors", f"{stem}.safetensors.index.json"]
    if variant is None:
        others = {m[1] for n in found if (m := re.match(rf"{stem}\.([^.-]+)[.-]", n))}
        others |= {m[1] for n in found if (m := re.match(r".*\.index\.([^.]+)\.json", n))}
        variants = sorted(others - {"safetensors"})
        names = [*plain, *(_variant(stem, variants[0]) if len(variants) == 1 else ())]
    else:
        names = _variant(stem, variant)
    return [name for name in names if name in found]


def _variant(stem: str, variant: str) -> list[str]:
    return [
        f"{stem}.{variant}.safetensors",
        f"{stem}.safetensors.index.{variant}.json",
        f"{stem}.{variant}.safetensors.index.json",
    ]


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError):
        raise DataError(f"{index} is no index of safetensors files") from None
    for name in names:
        if Path(name).name != name:
            raise DataError(f"{index} names a file outside its folder: {name!r}")
        if not (index.parent / name).is_file():
            raise DataError(f"{index} names {name}, which is missing: copy it into the folder")
    return [index.parent / name for name in names]


class Weights(Mapping[str, Any]):
    """Arrays by their present names, read from safetensors files when they are asked for.

    Raises:
        DataError: a file is cut short, damaged, or something else; the message names it.
    """

    def __init__(self, paths: list[Path], stack: ExitStack):
        from_safetensors = _library()
        self.paths = paths
        self._files: dict[str, tuple[Any, str, Path]] = {}
        for path in paths:
            try:
                file = stack.enter_context(from_safetensors.safe_open(path, framework="numpy"))
            except from_safetensors.SafetensorError as error:
                raise DataError(_damaged(path, error)) from None
            for name in file.keys():  # noqa: SIM118  it is no dictionary
                if not name.endswith("position_ids"):  # a buffer of old text encoders
                    self._files[file_name(name)] = (file, name, path)

    def __getitem__(self, name: str) -> np.ndarray:
        file, stored, _ = self._files[name]
        return file.get_tensor(stored)

    def path(self, name: str) -> Path:
        return self._files[name][2]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _damaged(path: Path, error: Exception) -> str:
    size = path.stat().st_size
    if path.read_bytes()[:40].startswith(b"version https://git-lfs"):
        return (
            f"{path} is a pointer of Git LFS ({size} bytes), not the weights: "
            "fetch them by `git lfs pull`"
        )
    return (
        f"{path} ({size:,} bytes) is no complete safetensors file ({error}): "
        "it was cut short or damaged; copy or download it again"
    )


def check_names(wanted: Mapping[str, Any], weights: Weights, folder: Path) -> None:
    """That the files hold every weight of the model, in its shape, and nothing else.

    Raises:
        DataError: names what is missing, what is too much, or whose shape differs.
    """
    missing = [name for name in wanted if name not in weights]
    unexpected = [name for name in weights if name not in wanted]
    if missing or unexpected:
        parts = [
            f"{len(names)} {what}: {', '.join(names[:3])}{' …' * (len(names) > 3)}"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise DataError(f"{folder}: the weights do not fit config.json; {'; '.join(parts)}")


def write_weights(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file, whole or not at all."""
    _library()
    from safetensors.numpy import save_file

    with disk.replacing(path) as beside:
        beside.touch()
        mode = beside.stat().st_mode  # as any file of this user; the library's are private
        save_file(dict(arrays), beside, metadata={"format": "pt"})
        beside.chmod(mode)


def _library() -> Any:
    try:
        import safetensors
    except ImportError:
        raise ImportError(
            "folders of diffusers need safetensors: pip install 'unet-keras[diffusion]'"
        ) from None
    return safetensors


def deferred(build: Callable[[], Any]) -> tuple[Any, list[Any]]:
    """What `build` returns, and the variables that it created: shapes and names, but no values.

    Neither time nor memory goes into random numbers: SDXL's 2.6 billion weights are built in
    seconds. Give every variable a value by `fill` before the model is called.
    """
    before = global_state.get_global_attribute(_PENDING) or []
    global_state.set_global_attribute(_PENDING, [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            built = build()
        return built, global_state.get_global_attribute(_PENDING) or []
    finally:
        global_state.set_global_attribute(_PENDING, before)


def fill(variable: Any, value: Any = None) -> None:
    """Allocates a deferred variable with a value, or as its own initializer has it."""
    if value is not None:
        variable._initializer = lambda shape, dtype: value
    variable._deferred_initialize()


def count_parameters(build: Callable[..., Any], *args: Any, **options: Any) -> int:
    """Weights of the network that a builder makes, without allocating them.

    >>> count_parameters(build_diffusion_unet, (64, 64, 3), filters=(64, 128))
    """
    model, _ = deferred(lambda: build(*args, **options))
    return int(model.count_params())
