"""`keras-unet export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[Path, typer.Argument(help="A run folder or a .keras file of `train`.")],
    folder: Annotated[Path, typer.Argument(help="Where versions are, e.g. saved_models/unet.")],
) -> None:
    """Publish a model as the next version of a folder that TF Serving watches."""
    from keras_unet.cli.report import console, say
    from keras_unet.serving.publish import export as run

    with console.status("writing, loading and comparing"):
        version = run(model, folder)
    say(f"Published {version}")
