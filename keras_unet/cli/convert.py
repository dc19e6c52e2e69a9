"""`keras-unet convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keras_unet.cli.options import (
    Author,
    Citation,
    ClassNames,
    DataLicence,
    Description,
    Licence,
    Normalization,
    PixelSize,
    card_fields,
)

if TYPE_CHECKING:
    from keras_unet.serving.formats import Converted


def convert(
    model: Annotated[Path, typer.Argument(help="A run folder, .keras file or pretrained name.")],
    images: Annotated[Path, typer.Argument(help="Real images: to compare, to calibrate int8.")],
    output: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("converted"),
    to: Annotated[
        list[str] | None,
        typer.Option(
            help="onnx, tflite-float32, -float16, -int8, saved-model-float32, -bfloat16, -float16 "
            "or bioimage; may be repeated. Default: onnx, tflite-float16, tflite-int8."
        ),
    ] = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Height and width of TFLite's images and of what is compared."),
    ] = None,
    most: Annotated[int, typer.Option(min=2, help="Images to read at the most.")] = 16,
    normalization: Normalization = None,
    class_names: ClassNames = None,
    description: Description = None,
    author: Author = None,
    licence: Licence = None,
    data_licence: DataLicence = None,
    citation: Citation = None,
    pixel_size: PixelSize = None,
) -> None:
    """Write a model for other runtimes, and compare each with the Keras model on real images."""
    fields = card_fields(description, author, licence, data_licence, citation, pixel_size)
    names = list(to or ("onnx", "tflite-float16", "tflite-int8"))

    from keras_unet.console import TERMINAL, say
    from keras_unet.data.images import read_image
    from keras_unet.data.pairs import find_pairs
    from keras_unet.errors import DataError
    from keras_unet.models.keras_file import load_model
    from keras_unet.serving.formats import convert as run
    from keras_unet.serving.formats import write_bioimage

    inside = images / "images"
    pairs = find_pairs(inside if inside.is_dir() else images)
    if pairs.problems:
        raise DataError("\n".join(map(str, pairs.problems)))
    read = [read_image(pair.image, pair.image_page) for pair in list(pairs)[:most]]
    trained = load_model(model, normalization=normalization, class_names=class_names)
    with TERMINAL.status("converting") as status:
        found = run(
            trained,
            read,
            output,
            [name for name in names if name != "bioimage"],
            size=size,
            progress=lambda name: status.update(f"converting: {name}"),
        )
        package = None
        if "bioimage" in names:
            status.update("converting: bioimage")
            package = write_bioimage(trained, output / "bioimage.zip", read[0], fields)
    if len(found) > 1:
        _show(found)
    if package is not None:
        say(f"{package}: {package.stat().st_size / 1e6:.1f} MB, valid, and run by bioimageio.core")


def _show(found: list[Converted]) -> None:
    from rich.table import Table

    from keras_unet.console import TERMINAL

    table = Table(title="probabilities against the Keras model's", title_justify="left")
    table.add_column("format")
    for title in ("MB", "ms an image", "largest difference", "mean", "pixels of another class"):
        table.add_column(title, justify="right")
    for one in found:
        table.add_row(
            one.name if one.name == "keras" else str(one.path),
            f"{one.bytes / 1e6:.2f}",
            f"{1e3 * one.seconds:.0f}",
            *(("", "", "") if one.name == "keras" else _errors(one)),
        )
    TERMINAL.print(table)


def _errors(one: Converted) -> tuple[str, str, str]:
    return f"{one.largest:.1e}", f"{one.mean:.1e}", f"{one.classes:.3%}"
