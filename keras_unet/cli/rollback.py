"""`keras-unet rollback`."""

from __future__ import annotations

from typing import Annotated

import typer


def rollback(
    folder: Annotated[
        str, typer.Argument(help="Where versions are, e.g. saved_models/unet or gs://bucket/unet.")
    ],
    to: Annotated[
        int | None, typer.Option(help="Version to go back to; default: the one before.")
    ] = None,
) -> None:
    """Publish an older version once more, as the newest: servers take it up by themselves."""
    from keras_unet.cli.report import console, say
    from keras_unet.serving.publish import rollback as run

    with console.status("copying and loading"):
        version = run(folder, to)
    say(f"Published {version}")
