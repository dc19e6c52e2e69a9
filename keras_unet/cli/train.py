"""`keras-unet train`."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from keras_unet import run_layout
from keras_unet.cli.options import (
    Config,
    Instances,
    Labels,
    Resume,
    Settings,
    ShowSettings,
    Validation,
    ValidationLabels,
    data_section,
)
from keras_unet.console import ended_by_sigterm


@ended_by_sigterm()
def train(
    images: Annotated[
        Path | None,
        typer.Argument(help="Folder with images/ and labels/, or a folder of images, or a stack."),
    ] = None,
    labels: Labels = None,
    validation: Validation = None,
    validation_labels: ValidationLabels = None,
    instances: Instances = False,
    config: Config = None,
    settings: Settings = None,
    resume: Resume = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Cross-validate: so many runs, each image held out once."),
    ] = None,
    show: ShowSettings = False,
) -> None:
    """Train a U-Net on a folder of images and labels; Ctrl-C keeps what was learned.

    Without --config, settings that are not --set are planned for the data (see `keras-unet plan`).
    A run that was stopped or killed goes on with --resume RUN, and ends as if nothing had happened.
    """
    from keras_unet.settings import describe, read_tree
    from keras_unet.training.config import TrainConfig, load_config

    if show:
        typer.echo(describe(TrainConfig))
        return
    given = data_section(
        images,
        labels,
        instances,
        validation=validation,
        validation_labels=validation_labels,
    )
    from keras_unet.console import TERMINAL, say
    from keras_unet.evaluation.evaluation import show_evaluation, show_folds

    folded = folds is not None or (resume is not None and (resume / run_layout.SPLITS).is_file())
    checked, files, loaded = None, {}, None
    tree = read_tree(config, settings or (), data=given)
    if resume is None and os.environ.get("TF_CONFIG") and tree.get("devices") != "one":
        from keras_unet.training.distributed.cluster import join

        join("auto")  # machines meet before TensorFlow reads any data
    if resume is None and config is None:  # what is not set is planned
        from keras_unet.training.planning.plan import plan_tree

        planned = plan_tree(tree, folded=folded)
        checked, files = planned.config, {run_layout.PLAN: planned.to_toml()}
        loaded = planned.loaded
        say(planned.to_text())
    elif resume is None:
        checked = load_config(config, settings or (), data=given)
    elif config or settings or folds or any(v is not None for v in given.values()):
        if folded:
            raise typer.BadParameter("a cross-validation goes on with its own settings alone")
        from keras_unet.training.run_folder import read_record

        read_record(resume)  # says what is wrong with a folder that is no run
        # what is given beside must be what the run was begun with
        checked = load_config(config or resume / run_layout.CONFIG, settings or (), data=given)

    if folded:
        from keras_unet.training.cross_validation import cross_validate

        found = cross_validate(
            checked, folds or 0, TERMINAL, resume=resume, files=files, loaded=loaded
        )
        if found.report is None:
            raise typer.Exit(130)
        show_folds(found.report)
        report = found.folder / run_layout.fold(0) / run_layout.REPORT
        say(f"Open     {report} (what to look at next, errors in colour), and so of each fold")
        say(f"Segment  keras-unet predict {quote(str(found.folder))} NEW_IMAGES")
        return

    from keras_unet.training.run import train as run

    result = run(checked, TERMINAL, resume=resume, files=files, loaded=loaded)
    show_evaluation(result.evaluation)
    folder, published = result.folder, Path("saved_models", result.folder.name)
    report, curves = folder / run_layout.REPORT, folder / run_layout.CURVES
    say(f"Open     {report} (scores, what to look at next, errors in colour) and {curves}")
    say(f"Segment  keras-unet predict {quote(str(folder))} NEW_IMAGES")
    say(f"Publish  keras-unet export {quote(str(folder))} {quote(str(published))}")
    if result.interrupted:
        raise typer.Exit(130)
