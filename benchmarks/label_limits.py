"""How far labels let a foreground score go: `python benchmarks/label_limits.py RUN DATA`.

RUN is a run folder with two classes, DATA a folder with `images/` and `labels/` (`--instances`:
every number is one object). Told are foreground IoUs over all pixels of all images:

- at each threshold on the probability of the foreground, one for all images;
- with a threshold for each image, chosen by its own labels for the highest IoU of all, which no
  method may know: what these probabilities allow, wherever each labeller draws the line;
- of the labels with themselves, one pixel smaller or larger: what a pixel is worth on this set.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from scipy import ndimage

from keras_unet import load_model, predict
from keras_unet.data import LabelRule, load_samples
from keras_unet.models import structure

RESULTS = Path(__file__).parent / "results"
THRESHOLDS = np.arange(1, 100) / 100


def counts(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pixels of the intersection and of the union."""
    return np.array([np.sum(found & truth), np.sum(found | truth)])


def iou(pairs: np.ndarray) -> float:
    """Of counts [..., 2] summed over all but the last axis."""
    both, either = pairs.reshape(-1, 2).sum(axis=0)
    return round(float(both / either), 4)


def best_thresholds(table: np.ndarray) -> np.ndarray:
    """Of counts [images, thresholds, 2]: for each image the threshold of the highest IoU of all.

    A ratio of sums (Dinkelbach 1967): for the ratio r so far, each image takes what makes
    intersection - r * union greatest, until r stays.
    """
    chosen = np.zeros(len(table), int)
    while True:
        both, either = table[np.arange(len(table)), chosen].sum(axis=0)
        better = (table[..., 0] - both / either * table[..., 1]).argmax(axis=1)
        if (better == chosen).all():
            return chosen
        chosen = better


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--instances", action="store_true")
    parser.add_argument("--symmetries", default="none", choices=["none", "flips", "all"])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON")
    args = parser.parse_args()
    rule = LabelRule(kind="instances" if args.instances else "semantic")
    samples, _ = load_samples(args.data, rule=rule, need_labels=True, for_scoring=True)
    model = load_model(args.run)
    if (classes := structure(model.network).num_classes) > 2:
        parser.error(f"{args.run} has {classes} classes; expected 2")
    tables: list[list[np.ndarray]] = []
    moved: dict[str, list[np.ndarray]] = {"one pixel smaller": [], "one pixel larger": []}
    for sample in samples:
        assert sample.classes is not None  # by need_labels
        truth = sample.classes == 1
        counted = sample.classes >= 0
        foreground = predict(model, sample.image, symmetries=args.symmetries)[..., -1]
        tables.append([counts((foreground > t) & counted, truth) for t in THRESHOLDS])
        # what lies outside of the image goes on as its edge does
        smaller = ndimage.binary_erosion(truth, border_value=1)
        moved["one pixel smaller"].append(counts(smaller, truth))
        moved["one pixel larger"].append(counts(ndimage.binary_dilation(truth), truth))
    table = np.array(tables)  # [images, thresholds, 2]
    chosen = best_thresholds(table)
    found: dict[str, object] = {
        "images": len(samples),
        "threshold": {f"{t:g}": iou(table[:, n]) for n, t in enumerate(THRESHOLDS)},
        "best threshold of each image": iou(table[np.arange(len(table)), chosen]),
        "best thresholds": [float(THRESHOLDS[n]) for n in chosen],
        **{f"labels, {name}": iou(np.array(pairs)) for name, pairs in moved.items()},
    }
    for name, value in found.items():
        print(f"{name}: {value}")
    args.output.mkdir(parents=True, exist_ok=True)
    data = args.data.resolve()
    path = args.output / f"label_limits_{data.parent.name}_{data.name}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
