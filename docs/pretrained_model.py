"""Makes a model that comes with the package: `python docs/pretrained_model.py nuclei RUN DATA`.

RUN is the folder of the training, DATA the one that holds the sets of the table below. What is
shipped is scored, its rounded weights, on images that the training did not see; the file goes to
keras_unet/models/pretrained/. That the command in its card is what was run is checked against the
settings that the run kept.
"""

from __future__ import annotations

import argparse
import shlex
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import keras_unet
from keras_unet.console import TERMINAL, say
from keras_unet.disk import shown_size
from keras_unet.evaluation.decoding_fit import fit_decoding, object_sizes
from keras_unet.inference.predictor import Predictor
from keras_unet.models import Release, TrainedModel, load_model, pack
from keras_unet.models.pretrained.catalogue import FOLDER
from keras_unet.settings import flat, read_tree, validated
from keras_unet.training.build import read_samples
from keras_unet.training.config import make_config

INSTANCE_SCORES = {
    "object F1": ("objects", "f1"),
    "mean AP": ("objects", "map_dsb2018"),
    "foreground IoU": ("iou", "foreground"),
}
CLASS_SCORES = {"mean IoU": ("mean_iou",), "mean Dice": ("mean_dice",)}
NUCLEI = (
    "--instances --set data.validation=0.1 --set model.filters=16 "
    "--set augment_options.scale=[0.7,1.4] --set augment_options.scale_p=0.3 "
    "--set augment_options.noise=[0.0,0.2] --set augment_options.noise_p=0.15 "
    "--set augment_options.blur=[0.5,1.0] --set augment_options.blur_p=0.15"
)
BOWL = "the Data Science Bowl 2018 (BBBC038v1, labels with the corrections of lopuhin)"
BOWL_PAPER = "Caicedo et al. 2019, Nature Methods 16:1247"


class Entry(NamedTuple):
    """What a release says, and how it is scored."""

    release: dict[str, Any]
    sets: tuple[str, ...]  # folders in DATA
    scores: dict[str, tuple[str, ...]]  # places in an evaluation's total


MODELS = {
    "nuclei": Entry(
        {
            "purpose": "bright nuclei on dark ground: fluorescence, one grey channel",
            "not_for": "stained tissue (see nuclei-tissue), phase contrast, whole cells, 3-D",
            "data": f"481 fluorescence images, 19,616 nuclei, of {BOWL}",
            "data_licence": "CC0-1.0",
            "licence": "Apache-2.0",
            "citation": BOWL_PAPER,
            "command": f"keras-unet train dsb2018_all/fluo {NUCLEI} --set steps=6500 "
            "--set steps_per_epoch=260 --set name=nuclei",
        },
        ("dsb2018_fluo/val", "dsb2018_fluo/val520"),
        INSTANCE_SCORES,
    ),
    "nuclei-tissue": Entry(
        {
            "purpose": "nuclei in stained tissue, such as H&E: RGB, dark on bright ground",
            "not_for": "fluorescence (see nuclei), diagnosis, whole slides without a check",
            "data": f"85 images of stained tissue, 3,422 nuclei, of {BOWL}",
            "data_licence": "CC0-1.0",
            "licence": "Apache-2.0",
            "citation": BOWL_PAPER,
            "command": f"keras-unet train dsb2018_all/tissue {NUCLEI} --set steps=3200 "
            "--set steps_per_epoch=160 --set name=nuclei-tissue",
        },
        ("dsb2018_rgb/val",),
        INSTANCE_SCORES,
    ),
    "axons": Entry(
        {
            "purpose": "background, myelin and axons of nerve: scanning electron microscopy",
            "not_for": "transmission electron or light microscopy, unmyelinated fibres",
            "data": "7 images of 5 rats of axondeepseg/data_axondeepseg_sem",
            "data_licence": "MIT",
            "licence": "Apache-2.0",
            "citation": "Zaimi et al. 2018, Scientific Reports 8:3816",
            "command": "keras-unet train axon_sem/train "
            """--set 'data.class_names=["background","myelin","axon"]' """
            "--set data.validation=0.15 --set model.filters=16 "
            "--set augment_options.scale=[0.7,1.4] --set augment_options.scale_p=0.3 "
            "--set augment_options.noise=[0.0,0.2] --set augment_options.noise_p=0.15 "
            "--set steps=1100 --set steps_per_epoch=110 --set name=axons",
        },
        ("axon_sem/val",),
        CLASS_SCORES,
    ),
}


def require_command(command: str, config: dict[str, Any]) -> None:
    """Raises SystemExit where a setting of the command is not the run's."""
    words = shlex.split(command)
    given = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    ran = dict(flat(config))
    tree = read_tree(None, given, data={"images": words[2]})
    tree["data"] |= {"label_kind": "instances"} if "--instances" in words else {}
    ran["data.images"] = "/".join(Path(ran["data.images"]).parts[-2:])
    for key, value in flat(tree):
        if ran.get(key) != value:
            raise SystemExit(f"the command has {key}={value}, the run {ran.get(key)}: {command}")


def fitted(model: TrainedModel) -> dict[str, Any]:
    """How a model of instance labels finds objects, and their diameter: of its training images.

    Runs since version 0.4 have fitted it themselves, and are left as they are.
    """
    if model.card.labels.kind != "instances" or model.card.objects is not None:
        return {}
    config = make_config(model.card.config)
    training, *_ = read_samples(config, TERMINAL)
    sizes = object_sizes(training)
    decoding = fit_decoding(Predictor(model), training, sizes)
    say(f"Objects: {decoding}")
    known = {"diameter": sizes.diameter, "diameter_range": sizes.diameter_range}
    return {"objects": decoding, **known}


def scored(file: Path, entry: Entry, data: Path) -> dict[str, dict[str, float]]:
    """The scores of a model on each of its sets."""
    found: dict[str, dict[str, float]] = {}
    for name in entry.sets:
        total = keras_unet.evaluate(file, data / name).total
        found[name] = {}
        for title, place in entry.scores.items():
            value: Any = total
            for key in place:
                value = value[key]
            found[name][title] = round(float(value), 4)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=FOLDER)
    args = parser.parse_args()
    entry = MODELS[args.name]
    fields = entry.release
    trained = load_model(args.run)
    require_command(fields["command"], trained.card.config)
    card = fitted(trained)
    with tempfile.TemporaryDirectory() as work:
        unscored = validated(Release, {**fields, "scores": {}}, args.name)
        file = pack(args.run, args.name, unscored, folder=work, **card)
        release = unscored.model_copy(update={"scores": scored(file, entry, args.data)})
    file = pack(args.run, args.name, release, folder=args.output, **card)
    say("\n".join(release.lines()))
    say(f"{file}: {shown_size(file.stat().st_size)}")


if __name__ == "__main__":
    main()
