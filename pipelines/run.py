"""`python -m pipelines.run`: raw images in, a validated version in saved_models/ out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_unet.cli import command
from keras_unet.console import run_app, say
from keras_unet.keras_backend import quiet_tensorflow
from keras_unet.settings import describe
from pipelines.config import PipelineConfig, load_pipeline_config

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@command(app)
def run(
    data: Annotated[
        str | None,
        typer.Option(help="Folder with images/ and labels/, or a manifest; none: made-up cells."),
    ] = None,
    instances: Annotated[
        bool, typer.Option("--instances", help="Label numbers are objects, not classes.")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="Settings as a TOML file.")] = None,
    root: Annotated[
        str | None, typer.Option(help="Folder of artifacts, metadata and logs.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, e.g. train.steps=2000."),
    ] = None,
    runner: Annotated[
        str | None, typer.Option(help="local: run here; vertex: write a specification.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The specification, .json or .yaml.")] = Path(
        "pipeline.json"
    ),
    show: Annotated[
        bool, typer.Option("--show-settings", help="List every setting and its default, and end.")
    ] = False,
) -> None:
    """Check, train, evaluate, try and publish, each step only if its inputs have changed."""
    if show:
        typer.echo(describe(PipelineConfig))
        return
    given = {"images": data, "label_kind": "instances" if instances else None}
    above = {"root": root, "runner": runner}
    chosen = load_pipeline_config(
        config,
        [*(f"{key}={value}" for key, value in above.items() if value), *(settings or ())],
        data=given,
    )
    if chosen.runner == "vertex":
        from pipelines.settling import settled
        from pipelines.vertex import compile_pipeline

        compile_pipeline(settled(chosen, say), output)
        say(f"Written  {output}, for Vertex AI Pipelines and Kubeflow Pipelines v2")
        return
    from pipelines.local import run_local
    from pipelines.summary import summary

    say(f"Pipeline {chosen.name} in {chosen.pipeline_root}")
    try:
        steps = run_local(chosen, say)
    except KeyboardInterrupt:
        say("Interrupted; the same command goes on from there.")
        raise typer.Exit(130) from None
    for line in summary(chosen, steps):
        say(line)


def main() -> None:
    """Entry point of `python -m pipelines.run`."""
    quiet_tensorflow()
    run_app(app)


if __name__ == "__main__":
    main()
