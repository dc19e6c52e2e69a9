"""The model as a BioImage Model Zoo package (bioimage.io), for ilastik, deepImageJ, QuPath.

One zip file with the weights as ONNX, a test image and its expected output, and a description
(specification 0.5). Unlike in the SavedModel, normalisation is a step of the description: programs
that cut an image into tiles then normalise it as a whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_unet import geometry
from keras_unet.data.normalization import Normalization
from keras_unet.disk import rename, sync_file
from keras_unet.errors import ConfigError, ExportError
from keras_unet.inference.prediction import predict
from keras_unet.models.bundle import Model, Stated, TrainedModel, trained_model
from keras_unet.models.unet import structure
from keras_unet.remote_path import local_path
from keras_unet.serving.card import CardFields
from keras_unet.serving.formats import needed
from keras_unet.serving.onnx_file import OPSET, runner, write_onnx

PAPER = ("Ronneberger, Fischer, Brox 2015: U-Net", "10.1007/978-3-319-24574-4_28")


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
    missing = [f for f in ("description", "authors", "licence") if not getattr(fields, f)]
    if missing:
        raise ConfigError(f"a BioImage Model Zoo package needs {', '.join(missing)}; found none")
    needed("tf2onnx", "export")
    spec: Any = needed("bioimageio.spec", "bioimage")
    core: Any = needed("bioimageio.core", "bioimage")
    trained = trained_model(
        model, normalization=normalization, class_names=class_names, float32=True
    )
    image = np.atleast_3d(image)
    path = local_path(path)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        work = Path(folder)
        description = _description(
            trained, image, fields, name or f"U-Net {trained.card.name}", work
        )
        beside = work / "package.zip"
        spec.save_bioimageio_package(description, output_path=beside)
        summary = core.test_model(beside)
        if summary.status == "failed":
            raise ExportError(f"the package is not valid:\n{summary.format()}")
        sync_file(beside)
        rename(beside, path)
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
    made = runner(onnx)(model.card.normalization(image))
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
