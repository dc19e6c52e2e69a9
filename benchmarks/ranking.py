"""Does `keras_unet.rank` find the worst images, and does labelling those pay?

`python benchmarks/ranking.py DATA`, with `train/`, `val/` and more folders of `images/` and
instance `labels/`, as `dsb2018_fluo`. A small network is trained on a few images of `train`, and
all others are ranked. Told is Spearman's correlation of the uncertainty with the true errors,
beside that of other measures of doubt. Then the network is trained anew with more images: those at
the head of the ranking, or as many drawn at random.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from scipy.stats import spearmanr

import keras_unet
from keras_unet.data import LabelRule, Sample, load_samples
from keras_unet.evaluation import object_scores
from keras_unet.evaluation.ranking import doubt
from keras_unet.inference import Predictor
from keras_unet.inference.answer import objects_of
from keras_unet.inference.symmetries import FLIPS

RESULTS = Path(__file__).parent / "results"
OBJECTS = LabelRule(kind="instances")
ERRORS = ("Dice", "object F1", "mean AP")


def trained(data: Path, names: list[str], held_out: str, steps: int, seed: int) -> Any:
    """A small network of these images of `data`, all of the same number of steps."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("images", "labels"):
            Path(folder, "data", part).mkdir(parents=True)
            for file in (data / part).iterdir():
                if file.stem in {*names, held_out}:
                    Path(folder, "data", part, file.name).symlink_to(file.resolve())
        config = {
            "data": {
                "images": f"{folder}/data",
                "label_kind": "instances",
                "held_out": [held_out],
            },
            "model": {"filters": 8, "padding": "same"},
            "loss": {"w0": 3.0, "sigma": 2.5, "class_weights": "none", "dice": 1.0},
            "tile": 128,
            "batch_size": 8,
            "steps": steps,
            "steps_per_epoch": steps,
            "ema_decay": 0.99,
            "seed": seed,
            "output": f"{folder}/runs",
        }
        return keras_unet.train(config, verbose=0).model


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * np.sum(one & other) / max(one.sum() + other.sum(), 1))


def looked_at(predictor: Predictor, sample: Sample) -> tuple[list[float], dict[str, float]]:
    """The true errors of an image, and how unsure the model is by several measures."""
    versions = [v.undo(predictor(v.apply(sample.image[None])[0])[None])[0] for v in FLIPS]
    given, decoding = versions[0], predictor.cards[0].decoding
    assert decoding is not None and sample.instances is not None
    inside = [version[..., 1] > 0.5 for version in versions]
    objects = [objects_of(version, decoding) for version in versions]
    scores = object_scores(sample.instances, objects[0])
    errors = [dice(sample.instances > 0, inside[0]), scores["f1"], scores["map_dsb2018"]]
    safe = np.clip(given, 1e-6, 1)
    return [1 - float(np.nan_to_num(score)) for score in errors], {
        "rank": doubt(given, decoding).uncertainty,
        "rank, of four versions": doubt(np.mean(versions, axis=0), decoding).uncertainty,
        "rank, of classes": doubt(given).uncertainty,
        "mean entropy of all pixels": float(-(safe * np.log(safe)).sum(axis=-1).mean()),
        "disagreement of mirrored masks": 1
        - float(np.mean([dice(a, b) for k, a in enumerate(inside) for b in inside[:k]])),
        "disagreement of mirrored objects": 1
        - float(np.mean([np.nan_to_num(object_scores(objects[0], o)["f1"]) for o in objects[1:]])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--first", type=int, default=6, help="images of the first training")
    parser.add_argument("--more", type=int, default=6, help="images that are labelled then")
    parser.add_argument("--draws", type=int, default=2, help="of as many at random; 0: no training")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "ranking.json")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    train = args.data / "train"
    names = sorted(path.stem for path in (train / "images").iterdir())
    held_out, *first = rng.choice(names, args.first + 1, replace=False).tolist()
    others = sorted(p for p in args.data.iterdir() if (p / "labels").is_dir() and p != train)

    def made(labelled: list[str]) -> Any:
        return trained(train, labelled, held_out, args.steps, args.seed)

    def scores(model: Any) -> dict[str, float]:
        found = {}
        for folder in others:
            settings = {"resamples": 0}
            total = keras_unet.evaluate(model, folder, rule=OBJECTS, settings=settings).total
            found[f"{folder.name} IoU"] = round(total["iou"]["foreground"], 4)
            found[f"{folder.name} F1"] = round(total["objects"]["f1"], 4)
            found[f"{folder.name} AP"] = round(total["objects"]["map_pooled"], 4)
        return found

    model = made(first)
    predictor = Predictor(model)
    seen = [held_out, *first]
    unlabelled = [s for s in load_samples(train, rule=OBJECTS)[0] if s.name not in seen]
    samples = unlabelled + [s for f in others for s in load_samples(f, rule=OBJECTS)[0]]
    rows = [looked_at(predictor, sample) for sample in samples]
    errors = np.array([error for error, _ in rows])
    table = {
        measure: {
            name: round(float(spearmanr([m[measure] for _, m in rows], errors[:, k])[0]), 3)
            for k, name in enumerate(ERRORS)
        }
        for measure in rows[0][1]
    }
    order = keras_unet.rank(model, {s.name: s.image for s in unlabelled})
    found: dict[str, Any] = {"images": len(rows), "spearman": table, "before": scores(model)}
    print(json.dumps(found), flush=True)
    if args.draws:
        head = [one.name for one in order[: args.more]]
        found["ranked"] = scores(made(first + head))
        print("ranked", json.dumps(found["ranked"]), flush=True)
        left = [s.name for s in unlabelled]
        found["random"] = []
        for _ in range(args.draws):
            drawn = rng.choice(left, args.more, replace=False).tolist()
            found["random"].append(scores(made(first + drawn)))
            print("random", json.dumps(found["random"][-1]), flush=True)
    args.output.write_text(json.dumps({**vars(args), **found}, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
