"""Formats of other runtimes (ONNX, LiteRT, SavedModel, BioImage Model Zoo), compared with Keras.

All but the SavedModel are converted from one plain TensorFlow function, `portable`.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import tensorflow as tf

from keras_unet import geometry
from keras_unet.data.normalization import STD_FLOOR, Normalization
from keras_unet.disk import replacing
from keras_unet.errors import ConfigError, DataError, ExportError
from keras_unet.inference.predictor import predict, probabilities_of, to_classes
from keras_unet.inference.tiles import layout
from keras_unet.keras_backend import require_tensorflow, without_notices
from keras_unet.models.keras_file import Model, Stated, TrainedModel, trained_model
from keras_unet.models.unet import structure
from keras_unet.remote_path import local_path
from keras_unet.serving.card import CardFields, WeightPrecision
from keras_unet.serving.graph import mirrored_whole, write_saved_model

OPSET = 17  # ONNX's, of 2022: read by every runtime that is in use
TFLITE_KINDS = ("tflite-float32", "tflite-float16", "tflite-int8")
FORMATS = (*(f"saved-model-{name}" for name in get_args(WeightPrecision)), "onnx", *TFLITE_KINDS)
LARGEST = 512  # pixels a side of what is compared, and of a TFLite model's images by default
PAPER = ("Ronneberger, Fischer, Brox 2015: U-Net", "10.1007/978-3-319-24574-4_28")


class Converted(NamedTuple):
    """One file, and how its probabilities compare with those of the Keras model."""

    name: str
    path: Path
    bytes: int
    seconds: float  # median of an image, after one that is not counted
    largest: float  # difference of a probability
    mean: float
    classes: float  # share of pixels that get another class


def convert(
    model: Model,
    images: Sequence[np.ndarray],
    output: str | Path,
    names: Sequence[str] = ("onnx", "tflite-float16", "tflite-int8"),
    *,
    size: tuple[int, int] | None = None,
    normalization: Stated = None,
    class_names: str | Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Converted]:
    """Writes the model in other formats and runs each of them on real images.

    Args:
        model: what `load_model` takes or returns, or any model of `build_unet`.
        images: real ones, as read from their files, [H, W, C] or [H, W]: two or more for int8,
            whose first half calibrates and whose second half is compared.
        output: folder for the files.
        names: of `FORMATS`.
        size: height and width of a TFLite model's images and of what is compared (from the
            middle of each image); None: what all images have, at most 512.
        normalization, class_names: for a model of a script, see `keras_unet.models.trained_model`.
        progress: called with each format's name.

    Returns:
        "keras" first: the Keras model itself; then one for each name.

    Raises:
        ConfigError: an unknown name, or too few or too small images.
        ExportError: a package is missing; says what to install.
    """
    require_tensorflow("convert")
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"format {name!r}; expected {', '.join(FORMATS)}")
    output = local_path(output)
    trained = trained_model(
        model, normalization=normalization, class_names=class_names, float32=True
    )
    given = [np.atleast_3d(image) for image in images]
    if len(given) < 1 + ("tflite-int8" in names):
        raise ConfigError(f"{len(given)} images; expected one or more, for int8 two or more")
    size = size or _common(given)
    given = [_middle(image, size) for image in given]
    calibration, compared = given[: len(given) // 2], given[len(given) // 2 :]
    output.mkdir(parents=True, exist_ok=True)

    expected, seconds = _timed(lambda image: predict(trained, image), compared)
    found = [Converted("keras", Path(), trained.network.count_params() * 4, seconds, 0.0, 0.0, 0.0)]
    for name in names:
        if progress is not None:
            progress(name)
        path, run = _write(trained, name, output, size, calibration)
        got, seconds = _timed(run, compared)
        errors = [np.abs(a - b) for a, b in zip(got, expected, strict=True)]
        other = [to_classes(a) != to_classes(b) for a, b in zip(got, expected, strict=True)]
        found.append(
            Converted(
                name,
                path,
                _bytes(path),
                seconds,
                float(max(e.max() for e in errors)),
                float(np.mean([e.mean() for e in errors])),
                float(np.mean([o.mean() for o in other])),
            )
        )
    return found


def _write(
    model: TrainedModel,
    name: str,
    output: Path,
    size: tuple[int, int],
    calibration: Sequence[np.ndarray],
) -> tuple[Path, Callable[[np.ndarray], np.ndarray]]:
    """The file, and what runs it on one image [H, W, C]."""
    if name == "onnx":
        needed("tf2onnx", "export")
        needed("onnxruntime", "export")
        path = write_onnx(model, output / "model.onnx")
        return path, onnx_runner(path)
    if name in TFLITE_KINDS:
        kind = name.removeprefix("tflite-")
        path = write_tflite(model, output / f"model-{kind}.tflite", size, kind, calibration)
        return path, tflite_runner(path)
    path = output / name
    precision: Any = name.removeprefix("saved-model-")
    write_saved_model(model, path, precision=precision)
    signature = tf.saved_model.load(path).signatures["serving_default"]

    def run(image: np.ndarray) -> np.ndarray:
        return signature(images=tf.constant(image[None], tf.float32))["probabilities"].numpy()[0]

    return path, run


def _timed(
    run: Callable[[np.ndarray], np.ndarray], images: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], float]:
    run(images[0])
    given, seconds = [], []
    for image in images:
        start = time.perf_counter()
        given.append(run(image))
        seconds.append(time.perf_counter() - start)
    return given, float(np.median(seconds))


def _common(images: Sequence[np.ndarray]) -> tuple[int, int]:
    smallest = np.min([image.shape[:2] for image in images], axis=0)
    height, width = np.minimum(smallest, LARGEST).tolist()
    return height, width


def _middle(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    top, left = ((n - wanted) // 2 for n, wanted in zip(image.shape[:2], size, strict=True))
    if min(top, left) < 0:
        raise DataError(
            f"image of {image.shape[0]} x {image.shape[1]} pixels; expected at least "
            f"{size[0]} x {size[1]}, the size of what is compared"
        )
    return image[top : top + size[0], left : left + size[1]]


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def needed(package: str, extra: str) -> Any:
    """Imports an optional package.

    Raises:
        ExportError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ExportError(
            f"{package} is needed and not installed ({error}): pip install 'unet-keras[{extra}]'"
        ) from error


def portable(
    model: TrainedModel, size: tuple[int, int] | None = None, *, normalise: bool = True
) -> Any:
    """A tf.function: float32 `images` [B, H, W, C] -> `probabilities` [B, H, W, K].

    Args:
        normalise: images hold the grey values of the files; else they are normalised already.
        size: height and width, for runtimes that want fixed sizes; B is 1 then. None: any.
    """
    form = structure(model.network)
    variables = model.network.trainable_variables, model.network.non_trainable_variables
    weights = [[v.numpy() for v in some] for some in variables]
    shape = [None, None, None] if size is None else [1, *size]
    spec = tf.TensorSpec([*shape, form.channels], tf.float32, "images")

    def run(images: Any) -> dict[str, Any]:
        x = images
        if normalise:
            shift, scale = _parameters(images, model.card.normalization)
            x = (images - shift) * scale
        x, before = mirrored_whole(x, layout(form.depth, form.padding, form.upsampling))
        constants = [[tf.constant(w) for w in some] for some in weights]
        y, _ = model.network.stateless_call(*constants, x, training=False)
        y = probabilities_of(y, form.output)
        height, width = size or tf.unstack(tf.shape(images)[1:3], num=2)
        return {"probabilities": y[:, before : before + height, before : before + width]}

    return tf.function(run, input_signature=[spec], autograph=False)


def _parameters(images: Any, normalization: Normalization) -> tuple[Any, Any]:
    """`Normalization.parameters` in float32: a constant image comes out as nearly zeros."""
    if normalization.method != "image":
        given = normalization.parameters(np.zeros((1, 1, images.shape[-1]), np.float32))
        return given[0], given[1]
    mean = tf.reduce_mean(images, [1, 2], keepdims=True)
    std = tf.sqrt(tf.reduce_mean(tf.square(images - mean), [1, 2], keepdims=True))
    largest = tf.reduce_max(tf.abs(images), [1, 2, 3], keepdims=True)
    return mean, 1.0 / tf.maximum(tf.maximum(std, STD_FLOOR * largest), 1e-30)


def write_onnx(model: TrainedModel, path: str | Path, *, normalise: bool = True) -> Path:
    """Writes `path`: float32 `images` [B, H, W, C] of any size -> `probabilities` [B, H, W, K].

    Normalisation, mirroring and cropping are inside; images are computed as a whole, so cut
    large ones up (or let a server's SavedModel do it). Needs tf2onnx.

    Args:
        normalise: images hold the grey values of the files; else they are normalised already.
    """
    import tf2onnx

    function = portable(model, normalise=normalise)
    written, _ = tf2onnx.convert.from_function(
        function, input_signature=function.input_signature, opset=OPSET
    )
    path = local_path(path)
    with replacing(path) as beside:
        beside.write_bytes(written.SerializeToString())
    return path


def onnx_runner(path: str | Path) -> Callable[[np.ndarray], np.ndarray]:
    """What runs the file on one image, [H, W, C] -> float32 [H, W, K], on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(image: np.ndarray) -> np.ndarray:
        return session.run(["probabilities"], {"images": image[None].astype(np.float32)})[0][0]

    return run


def write_tflite(
    model: TrainedModel,
    path: str | Path,
    size: tuple[int, int],
    kind: str = "float16",
    calibration: Sequence[np.ndarray] = (),
) -> Path:
    """Writes `path`: float32 `images` [1, H, W, C] -> `probabilities` [1, H, W, K], H, W = `size`.

    Normalisation, mirroring and cropping are inside.

    Args:
        size: height and width, which the file fixes.
        kind: "float32"; "float16": half-size weights; "int8": weights and activations in 8 bits.
        calibration: for int8, real images [H, W, C] of `size`, as read from their files: they
            show the range of each layer's values.

    Raises:
        ConfigError: an unknown kind, or int8 without calibration images.
    """
    if f"tflite-{kind}" not in TFLITE_KINDS:
        raise ConfigError(f'kind is {kind!r}; expected "float32", "float16" or "int8"')
    function = portable(model, size).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model.network)
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8":
        if not calibration:
            raise ConfigError("int8 needs calibration images, found none; a dozen is plenty")

        def examples() -> Iterator[list[np.ndarray]]:
            for image in calibration:
                yield [image[None].astype(np.float32)]

        converter.representative_dataset = examples
    path = local_path(path)
    with without_notices():
        content = converter.convert()
    with replacing(path) as beside:
        beside.write_bytes(content)
    return path


def tflite_runner(path: str | Path) -> Callable[[np.ndarray], np.ndarray]:
    """What runs the file on one image of its size, [H, W, C] -> float32 [H, W, K], on the CPU."""
    with warnings.catch_warnings(), without_notices():
        warnings.simplefilter("ignore")  # it moves to a package of its own, ai-edge-litert
        interpreter: Any = tf.lite.Interpreter(str(path), num_threads=os.cpu_count())
        interpreter.allocate_tensors()
    given = interpreter.get_input_details()[0]["index"]
    made = interpreter.get_output_details()[0]["index"]

    def run(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(given, image[None].astype(np.float32))
        interpreter.invoke()
        return interpreter.get_tensor(made)[0]

    return run


def write_bioimage(
    model: Model,
    path: str | Path,
    image: np.ndarray,
    fields: CardFields,
    name: str | None = None,
    *,
    normalization: Stated = None,
    class_names: str | Sequence[str] | None = None,
) -> Path:
    """Writes `path` (.zip) once `bioimageio.spec` finds it valid and `bioimageio.core` runs it.

    Args:
        model: what `load_model` takes or returns, or any model of `build_unet`.
        image: a real one, [H, W] or [H, W, C]: the package's test; whoever has the package sees it.
        fields: needs authors, licence and description, as the zoo does.
        name: of the model, 5 to 128 characters; None: the training run's.
        normalization, class_names: for a model of a script, see `keras_unet.models.trained_model`.

    Raises:
        ConfigError: a field is missing.
        ExportError: `bioimageio.core` is missing, the package is not valid, or it gives other
            probabilities than `predict`.
    """
    trained = trained_model(
        model, normalization=normalization, class_names=class_names, float32=True
    )
    fields = fields.completed(trained.card)
    missing = [f for f in ("description", "authors", "licence") if not getattr(fields, f)]
    if missing:
        raise ConfigError(f"a BioImage Model Zoo package needs {', '.join(missing)}; found none")
    needed("tf2onnx", "export")
    spec: Any = needed("bioimageio.spec", "bioimage")
    core: Any = needed("bioimageio.core", "bioimage")
    image = np.atleast_3d(image)
    path = local_path(path)
    with tempfile.TemporaryDirectory() as work:
        title = name or f"U-Net {trained.card.name}"
        description = _description(trained, image, fields, title, Path(work))
        package = Path(work, "package.zip")
        spec.save_bioimageio_package(description, output_path=package)
        summary = core.test_model(package)
        if summary.status == "failed":
            raise ExportError(f"the package is not valid:\n{summary.format()}")
        with replacing(path) as beside:
            shutil.copyfile(package, beside)
    return path


def _description(
    model: TrainedModel, image: np.ndarray, fields: CardFields, name: str, work: Path
) -> Any:
    from bioimageio.spec.model import v0_5 as zoo

    form = structure(model.network)
    onnx = write_onnx(model, work / "weights.onnx", normalise=False)
    step = geometry.stride(form.depth)  # tiles whose origins are multiples of it agree exactly
    halo = -(-geometry.reach(form.depth, form.upsampling) // step) * step
    least = 2 * halo + step
    image = _cut(image, least, step)
    np.save(work / "test_input.npy", image[None].astype(np.float32))
    expected = predict(model, image)
    made = onnx_runner(onnx)(model.card.normalization(image))
    if not np.abs(made - expected).max() <= 1e-3:
        raise ExportError(
            f"the ONNX file differs from the Keras model by {np.abs(made - expected).max():.2e}; "
            "at most 1e-3 was expected"
        )
    np.save(work / "test_output.npy", expected[None])
    (work / "README.md").write_text(_readme(model, fields, name), encoding="utf-8")

    scale = {} if fields.pixel_size is None else {"scale": fields.pixel_size, "unit": "micrometer"}
    space = [
        zoo.SpaceInputAxis(id=axis, size=zoo.ParameterizedSize(min=least, step=step), **scale)
        for axis in ("y", "x")
    ]
    channels = [f"channel{i}" for i in range(form.channels)]
    source = zoo.InputTensorDescr(
        id="image",
        axes=[zoo.BatchAxis(), *space, zoo.ChannelAxis(channel_names=channels)],
        data=zoo.IntervalOrRatioDataDescr(type="float32"),
        preprocessing=_preprocessing(zoo, model.card.normalization),
        test_tensor=zoo.FileDescr(source=work / "test_input.npy"),
    )
    context = [
        zoo.SpaceOutputAxisWithHalo(
            id=axis,
            halo=halo,
            size=zoo.SizeReference(tensor_id="image", axis_id=axis),
            **scale,
        )
        for axis in ("y", "x")
    ]
    classes = list(model.card.classes)[-form.num_classes :]  # one output: the foreground's
    target = zoo.OutputTensorDescr(
        id="probabilities",
        axes=[zoo.BatchAxis(), *context, zoo.ChannelAxis(channel_names=classes)],
        data=zoo.IntervalOrRatioDataDescr(type="float32", range=(0.0, 1.0)),
        test_tensor=zoo.FileDescr(source=work / "test_output.npy"),
    )
    cited = [zoo.CiteEntry(text=PAPER[0], doi=PAPER[1])]
    return zoo.ModelDescr(
        name=name,
        description=fields.description or "",
        authors=[zoo.Author(name=author) for author in fields.authors],
        license=fields.licence,
        cite=cited,
        documentation=zoo.FileDescr(source=work / "README.md"),
        tags=["unet", "segmentation", "semantic-segmentation", "2d", "keras"],
        inputs=[source],
        outputs=[target],
        weights=zoo.WeightsDescr(
            onnx=zoo.OnnxWeightsDescr(source=onnx, opset_version=OPSET),
        ),
    )


def _cut(image: np.ndarray, least: int, step: int) -> np.ndarray:
    """The middle of the image, in a size that the description allows; at most about 500 pixels."""
    spans = []
    for size in image.shape[:2]:
        if size < least:
            raise ConfigError(
                f"the test image has {image.shape[0]} x {image.shape[1]} pixels; expected at "
                f"least {least} x {least}, two margins of this depth and a step"
            )
        kept = least + (min(size, max(least, 500)) - least) // step * step
        spans.append(slice((size - kept) // 2, (size - kept) // 2 + kept))
    return image[tuple(spans)]


def _preprocessing(zoo: Any, normalization: Normalization) -> list[Any]:
    """`Normalization` in the zoo's words."""
    steps: list[Any] = [zoo.EnsureDtypeDescr(kwargs=zoo.EnsureDtypeKwargs(dtype="float32"))]
    if normalization.method == "image":
        steps.append(
            zoo.ZeroMeanUnitVarianceDescr(
                kwargs=zoo.ZeroMeanUnitVarianceKwargs(axes=["y", "x"], eps=1e-6)
            )
        )
    elif normalization.method != "none":
        shift, scale = normalization.parameters(
            np.zeros((1, 1, len(normalization.mean or (0,))), np.float32)
        )
        if len(shift) == 1:
            gain: Any = zoo.ScaleLinearKwargs(
                gain=float(scale[0]), offset=float(-shift[0] * scale[0])
            )
        else:
            gain = zoo.ScaleLinearAlongAxisKwargs(
                axis="channel", gain=scale.tolist(), offset=(-shift * scale).tolist()
            )
        steps.append(zoo.ScaleLinearDescr(kwargs=gain))
    return steps


def _readme(model: TrainedModel, fields: CardFields, name: str) -> str:
    card = model.card
    origin = f", trained with keras_unet on {card.name}. Images were {card.image_dtype}"
    if card.source == "script":
        origin = ", built with keras_unet and trained in a script. Images are given as stored"
    scores = "".join(f"- {k}: {v:.4g}\n" for k, v in card.metrics.items())
    cite = f"\n## Cite\n\n{fields.citation}\n" if fields.citation else ""
    return (
        f"# {name}\n\n{fields.description}\n\n"
        f"A U-Net for 2-D images (float32, y, x, channel){origin}; pixel size "
        f"{fields.pixel_size or 'not stated'} µm. Classes: {', '.join(card.classes)}.\n\n"
        f"## Validation\n\nOn the run's own validation images:\n\n{scores or '- not measured'}\n"
        f"Licence of the training data: {fields.data_licence or 'not stated'}.\n{cite}"
    )
