"""Images at another scale than the model's: `python benchmarks/scale.py MODEL DATA...`.

MODEL is a model of instance labels: `nuclei`, a run or a `.keras` file; DATA are folders with
`images/` and `labels/`. Images and labels are resized by each factor, then segmented as they are,
with `diameter="auto"`, with the true median diameter of each image, and rescaled back by the
factor, which shows what the resizing itself lost. Told are the objects' F1 at an IoU of 0.5 and
their mean average precision over 0.5 … 0.95, of counts pooled over all images of a folder.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

from keras_unet import load_model
from keras_unet.data import LabelRule, load_samples
from keras_unet.evaluation import object_scores
from keras_unet.evaluation.decoding_fit import object_sizes
from keras_unet.inference.answer import objects_of
from keras_unet.inference.inputs import ArraySource
from keras_unet.inference.options import PredictOptions
from keras_unet.inference.predictor import Predictor

RESULT = Path(__file__).parent / "results" / "scale.json"
FACTORS = (0.5, 1.0, 2.0)
WAYS = ("none", "auto", "true diameter", "rescaled back")
RULE = LabelRule(kind="instances")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a pretrained name, a run or a file")
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--images", type=int, help="of each folder, the first so many")
    parser.add_argument("--factors", type=float, nargs="+", default=FACTORS)
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()
    model = load_model(args.model)
    card = model.card
    found = {"diameter": card.diameter, "diameter_range": card.diameter_range, "scores": {}}
    for folder in args.data:
        samples = load_samples(folder, rule=RULE).samples[: args.images]
        pairs = [(s.image, s.instances) for s in samples]
        for factor in args.factors:
            scores = at(model, pairs, factor)
            found["scores"].setdefault(folder.name, {})[str(factor)] = scores
            told = "; ".join(
                f"{way} F1 {one['f1']:.3f} AP {one['ap']:.3f}" for way, one in scores.items()
            )
            print(f"{folder.name}, factor {factor:g}: {told}", flush=True)
    args.result.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\n| set | factor | " + " | ".join(WAYS) + " |\n" + "| -- " * (len(WAYS) + 2) + "|")
    for name, factors in found["scores"].items():
        for factor, scores in factors.items():
            cells = [f"{scores[way]['f1']:.3f} / {scores[way]['ap']:.3f}" for way in WAYS]
            print(f"| {name} | {factor} | " + " | ".join(cells) + " |")


def at(model, pairs, factor):
    """Scores of images resized by a factor, by the way in which they are segmented."""
    resized = [
        (resize_image(image, factor), resize_labels(truth, factor)) for image, truth in pairs
    ]
    answers = {way: [] for way in WAYS}
    ratios = []
    for image, truth in resized:
        sizes = object_sizes([_Labelled(truth)])
        diameters = {
            "none": None,
            "auto": "auto",
            "true diameter": sizes.diameter,
            "rescaled back": model.card.diameter * factor,
        }
        found = {}  # by the ratio: ways often agree
        for way, diameter in diameters.items():
            predictor = Predictor(model, PredictOptions(diameter=diameter))
            fitted = predictor.fitted([ArraySource(image)], say=lambda text: None)
            if fitted.ratio not in found:
                found[fitted.ratio] = objects_of(fitted(image), model.card.decoding, fitted.ratio)
            answers[way].append(found[fitted.ratio])
            if way == "auto":
                ratios.append(round(fitted.ratio.length, 2))
    truths = [truth for _, truth in resized]
    scores = {}
    for way, labels in answers.items():
        one = object_scores(truths, labels)
        scores[way] = {"f1": round(one["f1"], 4), "ap": round(one["map_pooled"], 4)}
    scores["auto"]["ratios"] = ratios
    return scores


class _Labelled:
    """As much of a sample as `object_sizes` reads."""

    def __init__(self, instances):
        self.instances = instances


def resize_image(image, factor):
    """[H, W, C], smoothed where it shrinks."""
    if factor == 1:
        return image
    size = [max(1, round(n * factor)) for n in image.shape[1::-1]]
    planes = [
        Image.fromarray(image[..., c]).resize(size, Image.Resampling.BICUBIC)
        for c in range(image.shape[-1])
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def resize_labels(labels, factor):
    """[H, W]: the number at the middle of each pixel."""
    rows, columns = (
        ((np.arange(max(1, round(n * factor))) + 0.5) / factor).astype(int).clip(0, n - 1)
        for n in labels.shape
    )
    return labels[np.ix_(rows, columns)]


if __name__ == "__main__":
    main()
