"""`keras-unet info`."""

from __future__ import annotations

from typing import Annotated

import typer

from keras_unet import run_layout
from keras_unet.remote_path import as_path, fetched


def info(
    model: Annotated[
        str,
        typer.Argument(
            help="A published version, e.g. saved_models/unet/3, a run folder, a .keras file or "
            "a pretrained model's name."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Show what a model takes and gives, what it was trained on, and its scores."""
    from keras_unet.models.pretrained.catalogue import is_name

    place = as_path(model)
    kept = next((file for file in (place, place / run_layout.BEST) if file.is_file()), None)
    if kept is None and (place.name.endswith(".keras") or is_name(model)):
        kept = place  # a pretrained model, or one whose absence the error names
    if kept is not None:
        from keras_unet.models.keras_file import describe_model

        with fetched(kept) as file:
            network = describe_model(file)
        text, tree = f"{model}: {network.to_text()}", network.model_dump_json(indent=1)
    else:
        from keras_unet.serving.card import describe

        version = describe(model)
        text, tree = version.to_text(), version.model_dump_json(indent=1)
    typer.echo(tree if as_json else text)
