"""`keras-unet diffusion`: train, sample, info."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from keras_unet.cli.options import (
    Config,
    Instances,
    Labels,
    Resume,
    Settings,
    ShowSettings,
    command,
    data_section,
)
from keras_unet.console import ended_by_sigterm

diffusion = typer.Typer(
    name="diffusion",
    help="Draw images: train a diffusion model on yours, sample images for masks.",
    no_args_is_help=True,
)


@command(diffusion)
@ended_by_sigterm()
def train(
    images: Annotated[
        Path | None,
        typer.Argument(help="Folder with images/ and labels/, of images, or a folder a class."),
    ] = None,
    labels: Labels = None,
    instances: Instances = False,
    condition: Annotated[
        str | None, typer.Option(help="labels (a mask), none, or class (the name of a subfolder).")
    ] = None,
    config: Config = None,
    settings: Settings = None,
    resume: Resume = None,
    show: ShowSettings = False,
) -> None:
    """Learn to draw images like yours, for masks, classes, or freely."""
    from keras_unet.diffusion.config import DiffusionConfig, make_diffusion_config
    from keras_unet.settings import describe, read_tree, source_of

    if show:
        typer.echo(describe(DiffusionConfig))
        return
    from keras_unet.console import TERMINAL, say
    from keras_unet.diffusion.training import train_diffusion

    given = data_section(
        images,
        labels,
        instances,
    )
    tree = read_tree(config, settings or (), data=given)
    if condition is not None:
        tree["condition"] = condition
    checked = None
    if resume is None or tree != {"data": {}}:
        checked = make_diffusion_config(tree, source_of(config, settings or ()))
    folder = train_diffusion(checked, TERMINAL, resume=resume)
    say(f"Look at  {folder}/samples/ and {folder}/curves.png")
    say(f"Draw     keras-unet diffusion sample {quote(str(folder))} --count 100 --output DRAWN")


@command(diffusion)
def sample(
    run: Annotated[Path, typer.Argument(help="A run folder of `diffusion train`.")],
    masks: Annotated[
        Path | None,
        typer.Argument(help="Label images to draw for; else tiles of the training labels."),
    ] = None,
    output: Annotated[Path, typer.Option(help="The new folder.")] = Path("drawn"),
    count: Annotated[int, typer.Option(min=1, help="Images.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Of the sampler.")] = 50,
    guidance: Annotated[
        float, typer.Option(min=0, help="1: as learned; more exaggerates the condition.")
    ] = 1.0,
    sampler: Annotated[str, typer.Option(help="ddim, ddpm, dpm++, euler …")] = "ddim",
    size: Annotated[
        int | None, typer.Option(min=1, help="Height and width; else the training tile's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same gives the same images.")] = 0,
) -> None:
    """Draw a data set: images/, labels/, a contact sheet, and a note that it is synthetic."""
    from keras_unet.console import progress, say
    from keras_unet.diffusion.synthesis import synthesize

    with progress("drawing") as advance:
        folder = synthesize(
            run,
            output,
            masks,
            count=count,
            steps=steps,
            guidance=guidance,
            seed=seed,
            sampler=sampler,
            size=None if size is None else (size, size),
            progress=advance,
        )
    say(f"{count} images in {folder} (synthetic: see {folder}/provenance.json)")
    say(f"Look at  {folder}/contact_sheet.png")
    if (folder / "labels").is_dir():
        say(f"Train    keras-unet train {quote(str(folder))}")


@command(diffusion)
def info(run: Annotated[Path, typer.Argument(help="A run folder of `diffusion train`.")]) -> None:
    """What a diffusion model was trained on and draws."""
    from keras_unet.diffusion.synthesis import load_diffusion

    model, card = load_diffusion(run)
    typer.echo(
        f"{card.name}: draws {model.unet.outputs[0].shape[-1]} channel(s), {card.image_dtype}"
    )
    classes = f" ({', '.join(card.classes)})" if card.classes else ""
    typer.echo(f"condition  {card.condition}{classes}")
    typer.echo(f"tile       {card.tile} px")
    typer.echo(f"parameters {model.unet.count_params():,}")
    typer.echo(f"steps      {int(card.metrics.get('step', 0))}, {card.created}")
