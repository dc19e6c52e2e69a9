"""`keras-unet demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_unet import run_layout


def demo(
    minutes: Annotated[float, typer.Option(min=0.05, help="Training time.")] = 2.0,
    output: Annotated[Path, typer.Option(help="Folder for data and run.")] = Path("runs"),
    publish: Annotated[Path, typer.Option(help="Folder for the published version.")] = Path(
        "saved_models/demo"
    ),
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """The whole job on made-up cells: data, training, scores, pictures, published model."""
    from keras_unet.console import TERMINAL, say
    from keras_unet.data.synthetic import write_dataset
    from keras_unet.evaluation.evaluation import show_evaluation
    from keras_unet.serving.publish import export
    from keras_unet.training.config import make_config
    from keras_unet.training.run import train

    data = output / "demo-data"
    write_dataset(data, seed=seed)
    say(f"Made-up cells with labels: {data}")
    config = make_config(
        {
            "data": {
                "images": data / "train",
                "validation": data / "val",
                "label_kind": "instances",
                "class_names": ["background", "cell"],
            },
            "model": {"filters": 8, "depth": 3},
            "steps_per_epoch": 25,
            "minutes": minutes,
            "output": output,
            "seed": seed,
        }
    )
    result = train(config, TERMINAL)
    show_evaluation(result.evaluation)
    version = export(result.model, publish)
    folder = result.folder
    report, curves = folder / run_layout.REPORT, folder / run_layout.CURVES
    say(f"Open       {report} (scores, what to look at next, errors in colour) and {curves}")
    say(f"Published  {version} (a SavedModel for TensorFlow Serving)")
    say("Now your own images: put them in DATA/images and DATA/labels (equal")
    say("names; add --instances if each number in the labels is one object), then")
    say("  keras-unet train DATA")
