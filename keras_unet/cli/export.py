"""`keras-unet export` and `keras-unet rollback`: versions that TF Serving takes up."""

from __future__ import annotations

from typing import Annotated, Any

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


def export(
    model: Annotated[str, typer.Argument(help="A run folder, .keras file or pretrained name.")],
    folder: Annotated[
        str, typer.Argument(help="Where versions are, e.g. saved_models/unet or gs://bucket/unet.")
    ],
    normalization: Normalization = None,
    class_names: ClassNames = None,
    precision: Annotated[
        str, typer.Option(help="Stored weights: float32, bfloat16 or float16 (half the size).")
    ] = "float32",
    tile: Annotated[int | None, typer.Option(help="Largest input tile in pixels.")] = None,
    max_pixels: Annotated[
        int | None, typer.Option(help="Most pixels of one image; default 8192 x 8192.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(help="Delete all but the newest so many versions.")
    ] = None,
    description: Description = None,
    author: Author = None,
    licence: Licence = None,
    data_licence: DataLicence = None,
    citation: Citation = None,
    pixel_size: PixelSize = None,
) -> None:
    """Publish a model as the next version of a folder that TF Serving watches."""
    fields = card_fields(description, author, licence, data_licence, citation, pixel_size)

    from keras_unet.console import TERMINAL, say
    from keras_unet.models.keras_file import AS_THEY_ARE, load_model
    from keras_unet.serving.publish import export as run
    from keras_unet.serving.publish import reached

    options: dict[str, Any] = {"precision": precision, "tile": tile, "keep": keep}
    if max_pixels is not None:
        options["max_pixels"] = max_pixels
    with TERMINAL.status("writing, loading and comparing"):
        place = reached(folder)  # before the model is loaded
        trained = load_model(model, normalization=normalization, class_names=class_names)
        version = run(trained, place, fields=fields, **options)
    if normalization is None and trained.card.normalization.method == "none":
        say(AS_THEY_ARE)
    say(f"Published {version}")
    say(f"Look at it  keras-unet info {version}")


def rollback(
    folder: Annotated[
        str, typer.Argument(help="Where versions are, e.g. saved_models/unet or gs://bucket/unet.")
    ],
    to: Annotated[
        int | None, typer.Option(help="Version to go back to; default: the one before.")
    ] = None,
) -> None:
    """Publish an older version once more, as the newest: servers take it up by themselves."""
    from keras_unet.console import TERMINAL, say
    from keras_unet.serving.publish import rollback as run

    with TERMINAL.status("copying and loading"):
        version = run(folder, to)
    say(f"Published {version}")
