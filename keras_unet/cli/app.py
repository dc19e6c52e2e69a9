"""Application `keras-unet`: all its commands."""

from __future__ import annotations

from typing import Annotated

import typer

from keras_unet._version import __version__
from keras_unet.cli.augment import augment
from keras_unet.cli.compare import compare
from keras_unet.cli.convert import convert
from keras_unet.cli.demo import demo
from keras_unet.cli.diffusion import diffusion
from keras_unet.cli.evaluate import evaluate
from keras_unet.cli.explore import explore
from keras_unet.cli.export import export, rollback
from keras_unet.cli.info import info
from keras_unet.cli.lineage import lineage
from keras_unet.cli.models import models
from keras_unet.cli.objects import objects
from keras_unet.cli.options import command
from keras_unet.cli.plan import plan
from keras_unet.cli.predict import predict
from keras_unet.cli.rank import rank
from keras_unet.cli.serve import serve
from keras_unet.cli.train import train
from keras_unet.console import run_app
from keras_unet.keras_backend import quiet_tensorflow, use_tensorflow

app = typer.Typer(
    name="keras-unet",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for function in (
    demo,
    plan,
    train,
    predict,
    objects,
    evaluate,
    compare,
    rank,
    export,
    convert,
    info,
    models,
    lineage,
    rollback,
    augment,
    explore,
    serve,
):
    command(app)(function)
app.add_typer(diffusion)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"keras-unet {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it, and end.")
    ] = False,
) -> None:
    """U-Net for Keras: train on your images, predict, evaluate, publish for TF Serving."""


def main() -> None:
    """Entry point of `keras-unet`."""
    quiet_tensorflow()
    use_tensorflow()  # whatever the shell or keras.json says
    run_app(app)
